"""`make bench BENCH=sweep`: what sweeps cost beside training, and what they spare.

Rows: `overhead` (CPU of a trial outside training and scoring), `start` (from imports to the first
training step), `naive` and `staged` (the same 40 settings, retrained for each and stage-aware, on
MVTec bottle with VQLAB_REAL_DATA, else on the synthetic cable), `features` (extractions of a study
with a frozen backbone, and of a second one), `workers` (trials per hour of 2 against 1),
`hundred` (4 workers x 25 trivial trials).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROWS = ("overhead", "start", "naive", "staged", "features", "workers", "hundred")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)


class Clock:
    """CPU-seconds of this process inside some functions, and how often they were called."""

    def __init__(self) -> None:
        self.spent, self.calls, self._deep = 0.0, 0, 0

    def around(self, owner: Any, name: str) -> None:
        plain: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            self._deep += 1
            began = time.process_time()
            try:
                return plain(*arguments, **named)
            finally:
                self._deep -= 1
                if not self._deep:  # what is inside another is counted there
                    self.spent += time.process_time() - began

        setattr(owner, name, timed)


def tiny(place: Path, **training: Any) -> dict[str, Any]:
    from tiny_set import tiny_recipe, write_tiny_set

    return tiny_recipe(write_tiny_set(place / "data"), **training)


SPACE = {
    "validations": 0,
    "space": {
        "detector.codebook_size": {"choices": [8, 16]},
        "training.learning_rate": {"low": 3e-4, "high": 3e-3, "log": True},
    },
}


def overhead() -> str:
    from vqlab.run import story
    from vqlab.sweep import make_space, sweep
    from vqlab.sweep import result as ending
    from vqlab.sweep.trial import selection
    from vqlab.tracking import Tracker
    from vqlab.training import Trainer

    clock, drawing = Clock(), Clock()
    for owner, name in (
        (Trainer, "_epoch"), (story, "calibrated_model"), (story, "make_trainer"),
        (story, "training_concepts"), (story, "_assess"), (story, "extract_features"),
        (selection, "assess"), (selection, "search_scoring"),
        (ending, "_test_once"),
    ):  # fmt: skip
        clock.around(owner, name)
    drawing.around(ending, "write_report")  # once for a study, however many trials it has
    with folder() as place:
        recipe, space = tiny(place), make_space(SPACE)
        tracker = Tracker.open(place / "mlruns")

        def go(trials: int) -> float:
            before = time.process_time() - clock.spent - drawing.spent
            sweep(recipe, space, tracker, trials=trials, results=place / "results")
            return time.process_time() - clock.spent - drawing.spent - before

        go(2)  # imports, tables, the test of the winner
        again, more = go(2), go(14)
        each = (more - again) / 12
        as_much, bare = libraries(tracker, place / "optuna.db", len(space.axes))
    drawn = drawing.spent / drawing.calls
    return (
        f"{1000 * each:.0f} ms CPU per trial outside training and scoring (aim: 250), of which "
        f"MLflow and Optuna take {1000 * as_much:.0f} to write as much (a trial of 3 parameters "
        f"with a run of 10 settings and 10 metrics takes them {1000 * bare:.0f}: the machine's "
        f"speed); pictures of the study {drawn:.1f} CPU-s, once"
    )


def libraries(tracker: Any, store: Path, axes: int) -> tuple[float, float]:
    """CPU-seconds of a trial that is only written: what a sweep that records all cannot go below.

    The first is of a trial with as many parameters and attributes as ours, its run with as many
    tags, settings and metrics; the second of a bare one, to compare machines by. Each is written in
    one go where the libraries can.
    """
    import optuna
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from optuna.samplers import RandomSampler

    client: Any = MlflowClient(tracker._client.store.uri)
    trials = client.search_runs(
        [e.experiment_id for e in client.search_experiments()],
        filter_string="tags.`vqlab.kind` = 'trial' and attributes.status = 'FINISHED'",
    )
    like = next(run for run in trials if "vqlab.tested" not in run.data.tags)
    study = optuna.create_study(storage=f"sqlite:///{store}", sampler=RandomSampler(seed=0))

    def cpu(axes: int, attributes: int, tags: Any, *batches: dict[str, Any]) -> float:
        def written(trial: optuna.Trial) -> float:
            for axis in range(axes):
                trial.suggest_float(str(axis), 0, 1)
            for key in range(attributes):
                trial.set_user_attr(str(key), "")
            run = client.create_run(like.info.experiment_id, tags=tags).info.run_id
            for batch in batches:
                client.log_batch(run, **batch)
            client.set_terminated(run)
            return 0.0

        study.optimize(written, n_trials=3)
        before = time.process_time()
        study.optimize(written, n_trials=20)
        return (time.process_time() - before) / 20

    params = [Param(key, value) for key, value in like.data.params.items()]
    metrics = [Metric(key, value, 0, 1) for key, value in like.data.metrics.items()]
    return (
        cpu(axes, 4, like.data.tags, {"params": params}, {"metrics": metrics}),
        cpu(3, 0, {}, {"params": params[:10], "metrics": metrics[:10]}),
    )


def start() -> str:
    from vqlab.recipes import recipe_tree
    from vqlab.sweep import read_space, sweep
    from vqlab.tracking import Tracker
    from vqlab.training import Trainer

    class Reached(Exception):
        pass

    def first(self: Any, *rest: Any) -> Any:
        raise Reached

    with folder() as place:
        recipe = recipe_tree("vqvae", [], "cable", None, "quick")
        space = read_space(Path("experiments/sweeps/vqvae.yaml"))
        from vqlab.data import load_dataset
        from vqlab.run import resolve

        load_dataset(resolve(recipe).data)  # the synthetic set is drawn once for all
        began = time.monotonic()
        Trainer._step = first  # type: ignore[method-assign]
        with contextlib.suppress(Exception):
            sweep(recipe, space, Tracker.open(place / "mlruns"), trials=1, timeout=1)
        seconds = time.monotonic() - began
    return (
        f"{seconds:.1f} s from imports to the first training step of the synthetic cable (aim: 8)"
    )


def bottle() -> list[str]:
    real = os.environ.get("VQLAB_REAL_DATA")
    if real and (Path(real) / "MVTec" / "bottle").is_dir():
        return [f"data.root={Path(real) / 'MVTec'}", "data.categories=[bottle]"]
    return ["data.categories=[cable]"]


TRAINED = {"detector.codebook_size": [128, 512]}
EVERY = 3
"""Of the 40 settings every so many is trained by `naive`: all of them take an hour."""
SCORED = {
    "detector.scoring.terms": [
        ["error", "context", "position", "neighbours"], ["error", "context"],
        ["error", "neighbours"], ["error"], ["context"],
    ],
    "detector.scoring.code_smoothing": [0.01, 0.02, 0.03, 0.04],
}  # fmt: skip


def staged(naive: bool = False) -> str:
    import torch._dynamo  # noqa: F401  (Adam imports it, which takes seconds, once)

    from vqlab.config import merge, nest
    from vqlab.recipes import recipe_tree
    from vqlab.run import resolve, run
    from vqlab.sweep import make_space, sweep
    from vqlab.sweep import result as ending
    from vqlab.tracking import Tracker

    once = Clock()  # the winner on test, the study's pictures: whatever the search costs
    once.around(ending, "_test_once")
    once.around(ending, "write_report")
    small = ["data.image_size=128", "training.epochs=4", "training.threads=1", *bottle()]
    tree = recipe_tree("vqvae", small)
    began = time.process_time()
    with folder() as place:
        tracker = Tracker.open(place / "mlruns")
        if not naive:
            axes = {name: {"choices": values} for name, values in {**TRAINED, **SCORED}.items()}
            space = make_space({"validations": 0, "scorings": 20, "space": axes})
            best = -1.0
            for size in TRAINED["detector.codebook_size"]:
                own = merge(tree, nest("detector.codebook_size", size))
                result = sweep(own, space, tracker, trials=1, results=place / "results")
                best = max(best, result.best.value or -1.0)
        else:
            best = -1.0
            chosen = list(every())[::EVERY]
            for settings in chosen:
                own = tree
                for name, value in settings.items():
                    own = merge(own, nest(name, value))
                outcome = run(resolve(own), tracker, test=False)
                best = max(best, outcome.validation.mean["pixel_auroc"])
    seconds = time.process_time() - began - once.spent
    how = "2 trainings, 20 scorings tried on each"
    if naive:
        seconds *= 40 / len(chosen)
        how = f"a training for each; {len(chosen)} of them run, for all 40"
    return f"{seconds:.0f} CPU-s for 40 settings ({how}); best validation pixel AUROC {best:.4f}"


def every() -> Iterator[dict[str, Any]]:
    import itertools

    axes = {**TRAINED, **SCORED}
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def features() -> str:
    from vqlab.recipes import recipe_tree
    from vqlab.sweep import make_space, sweep
    from vqlab.tracking import Tracker

    counts: Counter[str] = Counter()
    with folder() as place:
        os.environ["VQLAB_CACHE"] = str(place / "cache")
        from vqlab.features import store

        clock = Clock()
        clock.around(store, "_write")
        tree = recipe_tree("vqflow", ["training.epochs=1", "training.steps_per_epoch=2",
                                      "data.image_size=64"], "cable", None, "quick")  # fmt: skip
        for number, size in enumerate((128, 256)):
            axes = {"detector.pattern.codebook_size": {"choices": [size]},
                    "detector.commitment": {"low": 0.1, "high": 1.0}}  # fmt: skip
            before = clock.calls
            sweep(tree, make_space({"validations": 0, "space": axes}),
                  Tracker.open(place / "mlruns"), trials=3, results=place / "results")  # fmt: skip
            counts[f"study {number}"] = clock.calls - before
    return f"image sets extracted: {dict(counts)} (3 of train, validation, test; then none)"


def workers() -> str:
    """Two calls each, in turns, for the machine's speed changes; by the clock of the study.

    Beside the ratio stands how many cores the processes kept busy, which does not depend on the
    machine's speed: what is missing there, workers waited for each other.
    """
    import yaml

    seconds: Counter[int] = Counter()
    ended: Counter[int] = Counter()
    busy: Counter[int] = Counter()
    with folder() as place:
        recipe = tiny(place, epochs=150)
        (place / "tiny.yaml").write_text(yaml.safe_dump(recipe))
        (place / "space.yaml").write_text(yaml.safe_dump(SPACE))
        for call, count in enumerate((1, 2, 1, 2)):
            command = [sys.executable, "-m", "vqlab", "sweep", "tiny.yaml", "--space", "space.yaml"]
            command += ["--workers", str(count), "--n-trials", "10", "--mlruns", f"mlruns{call}"]
            spent = watched(command, place)
            trials, since, until = in_full_swing(f"sqlite:///{place}/mlruns{call}/optuna.db", count)
            ended[count] += trials
            seconds[count] += until - since
            within = [cpu for at, cpu in spent if since <= at <= until]
            busy[count] += within[-1] - within[0]
    per_hour = {count: 3600 * ended[count] / seconds[count] for count in (1, 2)}
    cores = {count: busy[count] / seconds[count] for count in (1, 2)}
    return (
        f"{per_hour[1]:.0f} trials an hour by 1 worker, {per_hour[2]:.0f} by 2: "
        f"x {per_hour[2] / per_hour[1]:.2f} (aim: 1.6), from each worker's second trial on; cores "
        f"kept busy {cores[1]:.2f} and {cores[2]:.2f}: x {cores[2] / cores[1]:.2f}"
    )


def watched(command: list[str], place: Path) -> list[tuple[float, float]]:
    """Run a command to its end; (time, CPU-seconds of its processes so far), often."""
    import psutil

    spent = []
    with open(os.devnull, "wb") as nowhere:
        process = psutil.Popen(command, cwd=place, stdout=nowhere, stderr=nowhere)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
                spent.append((time.time(), sum(each.user + each.system for each in times)))
            time.sleep(0.1)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return spent


def in_full_swing(address: str, workers: int) -> tuple[int, float, float]:
    """Trials that ended while every worker was past its first one, which pays for imports, and
    none was out of work; from when to when that was."""
    import optuna

    (name,) = optuna.get_all_study_names(address)
    trials = optuna.load_study(study_name=name, storage=address).trials
    mine: dict[str, list[float]] = {}
    for trial in trials:
        assert trial.datetime_complete is not None
        pid = trial.user_attrs["worker"]["vqlab.pid"]
        mine.setdefault(pid, []).append(trial.datetime_complete.timestamp())
    assert len(mine) == workers
    begun, done = max(min(ends) for ends in mine.values()), min(max(e) for e in mine.values())
    return sum(begun < end <= done for ends in mine.values() for end in ends), begun, done


def hundred() -> str:
    from one_study import load_study
    from sweep_processes import COUNTED

    from vqlab.sweep.study.storage import open_storage

    with folder() as place:
        address = f"sqlite:///{place / 'optuna.db'}"
        began = time.monotonic()
        four = [subprocess.Popen([sys.executable, "-c", COUNTED, address]) for _ in range(4)]
        for one in four:
            one.wait()
        seconds = time.monotonic() - began
        trials = load_study(open_storage(address), "s").get_trials(deepcopy=False)
    complete = {t.number for t in trials if t.state.name == "COMPLETE"}
    duplicated = 100 - len({t.params["x"] for t in trials})
    return (
        f"{len(complete)} of 100 complete, {len(trials) - 100} too many, {duplicated} duplicated, "
        f"{seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", default=list(ROWS), help="of: " + ", ".join(ROWS))
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        measure = {"naive": lambda: staged(naive=True)}.get(arguments.row)
        print(f"{arguments.row:9} {(measure or globals()[arguments.row])()}", flush=True)
        return
    print(f"one thread for each process; cores here: {os.cpu_count()}", flush=True)
    for name in arguments.rows:
        command = [sys.executable, str(Path(__file__)), "--row", name]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
