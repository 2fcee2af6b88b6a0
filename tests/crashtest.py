"""Kill processes of a sweep at random times and check its trials: `make crashtest`.

Workers train small models on a study in SQLite, or in a PostgreSQL server started for the test. At
random times a worker, the launcher or all of them are killed with signal 9 and the same command is
run again. Prints lost, duplicated and inconsistent trials; there must be none.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import optuna
import psutil
import yaml
from optuna.storages import RDBStorage

sys.path.insert(0, str(Path(__file__).parent))
from postgres_server import postgres_server  # noqa: E402
from tiny_set import tiny_recipe, write_tiny_set  # noqa: E402

from vqlab.sweep import TrialKey  # noqa: E402
from vqlab.sweep.study.record import key_of, record_of, retried_key, was_interrupted  # noqa: E402
from vqlab.sweep.study.storage import ADDRESS, open_storage, storage_address  # noqa: E402
from vqlab.sweep.study.studies import Studies, load_studies  # noqa: E402
from vqlab.tracking import Tracker  # noqa: E402

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
SPACE = {
    "validations": 1,
    "space": {
        "detector.codebook_size": {"choices": [8, 16, 32]},
        "training.learning_rate": {"low": "3e-4", "high": "3e-3", "log": True},
        "threshold.pixel_false_positive_rate": {"choices": [0.01, 0.1]},
    },
}
SOON, LATE = (0.2, 10.0), (10.0, 45.0)
"""Seconds between two kills: half of them while processes start, half when trials are under way."""
GROWTH = 4
"""Trials by which the target grows where the sweep reaches it before the last kill."""


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "worker" in process.cmdline()
    except psutil.NoSuchProcess:  # it ended before its status was read
        return False


class CrashTest:
    """A sweep in a separate folder, and its trials so far."""

    def __init__(self, folder: Path, seed: int, workers: int, compare: bool) -> None:
        self.folder, self.random, self.workers = folder, random.Random(seed), workers
        self.target = GROWTH
        self.sweep: subprocess.Popen[bytes] | None = None
        self.finished: dict[TrialKey, tuple[str, tuple[float, ...]]] = {}
        self.killed: Counter[str] = Counter()
        self.storage: RDBStorage | None = None
        root = write_tiny_set(folder / "data")
        recipe = tiny_recipe(root, epochs=30)
        recipes = folder / "experiments"
        recipes.mkdir()
        for name in ("tiny", "other"):
            (recipes / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        self.recipe = "all" if compare else "tiny"
        space = {"recipes": {"tiny": SPACE, "other": SPACE}} if compare else SPACE
        (folder / "space.yaml").write_text(yaml.safe_dump(space))

    def start_sweep(self) -> None:
        command = [sys.executable, "-m", "vqlab", "sweep", self.recipe, "--space", "space.yaml"]
        command += ["--n-trials", str(self.target), "--workers", str(self.workers)]
        with (self.folder / "sweep.log").open("ab") as log:
            self.sweep = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def studies(self) -> Studies | None:
        address = storage_address(self.folder / "mlruns")
        if address.startswith("sqlite") and not (self.folder / "mlruns" / "optuna.db").exists():
            return None
        self.storage = self.storage or open_storage(address)
        names = optuna.get_all_study_names(self.storage)
        return load_studies(self.storage, names[0]) if names else None

    def check_finished(self) -> list[str]:
        """Record the finished trials; return those that have changed."""
        studies = self.studies()
        trials = studies.trials() if studies else []
        now = {
            key_of(t): (t.state.name, tuple(t.values or ()))
            for t in trials
            if t.state.name in ("COMPLETE", "PRUNED")
        }
        lost = [
            f"trial {key}: was {previous}, is {now.get(key)}"
            for key, previous in self.finished.items()
            if now.get(key) != previous
        ]
        self.finished = now
        return lost

    def kill(self) -> str:
        """Kill a worker, the launcher, or all, if any is running; return what was killed."""
        assert self.sweep is not None
        if self.sweep.poll() is not None:
            return ""
        try:
            launcher = psutil.Process(self.sweep.pid)
            workers = [child for child in launcher.children() if _is_worker(child)]
        except psutil.NoSuchProcess:  # it has already ended
            return ""
        what = self.random.choice(["worker", "worker", "launcher", "all"])
        if what == "worker" and not workers:
            what = "launcher"
        victims = [self.random.choice(workers)] if what == "worker" else [launcher]
        victims += workers if what == "all" else []
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.killed[what] += 1
        return what

    def run(self, kills: int) -> list[str]:
        """Run all kills, then the sweep to its end; return what was lost."""
        lost: list[str] = []
        self.start_sweep()
        while sum(self.killed.values()) < kills:
            assert self.sweep is not None
            time.sleep(self.random.uniform(*self.random.choice((SOON, LATE))))
            lost += self.check_finished()
            what = self.kill()
            count = sum(self.killed.values())
            print(f"kill {count} of {kills}: {what or 'none, it had ended'}; {len(self.finished)} "
                  f"of {self.target} trials done", flush=True)  # fmt: skip
            if not what and self.sweep.returncode:
                raise SystemExit(f"the sweep failed; see {self.folder / 'sweep.log'}")
            if what != "worker":
                self.sweep.wait()
                self.target += 0 if what else GROWTH
                self.start_sweep()
        assert self.sweep is not None
        if self.sweep.wait():
            raise SystemExit(f"the sweep failed; see {self.folder / 'sweep.log'}")
        return lost + self.check_finished()

    def find_problems(self) -> dict[str, list[str]]:
        """Return the problems after the end of the sweep."""
        studies = self.studies()
        assert studies is not None
        trials = studies.trials()
        repeats = Counter(filter(None, map(retried_key, trials)))
        duplicated = [f"trial {n} was retried {c} times" for n, c in repeats.items() if c > 1]
        if len(self.finished) > self.target:
            duplicated.append(f"{len(self.finished)} trials where {self.target} were requested")
        inconsistent = [
            f"trial {key_of(t)} was interrupted and not retried"
            for t in trials
            if was_interrupted(t) and not repeats[key_of(t)]
        ]
        inconsistent += [f"trial {key_of(t)} is {t.state.name}" for t in trials
                         if not t.state.is_finished()]  # fmt: skip
        tracker = Tracker.open(self.folder / "mlruns")
        keys = {record_of(t).run_id: key_of(t) for t in trials}
        records = tracker.runs(tags={"vqlab.kind": "trial"})
        runs = {keys[record.run_id]: record for record in records if record.run_id in keys}
        for trial in trials:
            key = key_of(trial)
            run = runs.get(key)
            if run is None:
                if trial.state.name != "FAIL":
                    inconsistent.append(f"trial {key} has no run")
            elif (run.status, run.tags["optuna.state"]) != (
                STATUS[trial.state.name], trial.state.name,
            ):  # fmt: skip
                inconsistent.append(f"trial {key} is {trial.state.name}, its run {run.status}")
        inconsistent += [
            f"run {r.name} is RUNNING" for r in tracker.runs() if r.status == "RUNNING"
        ]
        return {"duplicated": duplicated, "inconsistent": inconsistent}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="make crashtest")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="sweep two recipes")
    parser.add_argument("--postgres", action="store_true", help="in a PostgreSQL server of its own")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crashtest-")))
        if options.postgres:
            os.environ[ADDRESS] = stack.enter_context(postgres_server())
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        test = CrashTest(folder, options.seed, options.workers, options.compare)
        try:
            lost = test.run(options.kills)
            problems = {"lost": lost, **test.find_problems()}
        finally:
            if test.sweep is not None and test.sweep.poll() is None:
                test.sweep.kill()
    for what, faults in problems.items():
        for fault in faults:
            print(f"{what}: {fault}")
    store = "PostgreSQL" if options.postgres else "SQLite"
    print(f"{store}: killed {dict(test.killed)}; {len(test.finished)} trials finished; " +
          ", ".join(f"{what} {len(faults)}" for what, faults in problems.items()))  # fmt: skip
    return int(any(problems.values()))


if __name__ == "__main__":
    raise SystemExit(main())
