"""`make bench BENCH=sweep`: overhead of a sweep compared with training, and its savings.

Forty settings of the decoder are evaluated by training each (the reference) and by stages (vqlab),
on MVTec bottle if VQLAB_REAL_DATA is set, otherwise on the synthetic cable. `--case NAME` measures
a single case of CASES and prints it as JSON.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import Clock, Measured, Row, Table, main, run_process

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Values = dict[str, float]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)


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


def overhead() -> Values:
    """Return the CPU-seconds of a trial outside training and scoring, and those of writing the same
    amount of data."""
    from vqlab.run import story
    from vqlab.sweep import make_comparison, make_space, sweep
    from vqlab.sweep import result as ending
    from vqlab.sweep.trial import selection
    from vqlab.tracking import Tracker
    from vqlab.training import Trainer

    clock, report = Clock(), Clock()
    for owner, name in (
        (Trainer, "_epoch"), (story, "calibrated_model"), (story, "make_trainer"),
        (story, "training_concepts"), (story, "_assess"), (story, "extract_features"),
        (selection, "assess"), (selection, "search_scoring"),
        (ending, "_test_once"),
    ):  # fmt: skip
        clock.around(owner, name)
    report.around(ending, "write_report")  # once per study
    with folder() as place:
        recipe, space = tiny(place), make_space(SPACE)
        tracker = Tracker.open(place / "mlruns")

        def run_trials(trials: int) -> float:
            before = time.process_time() - clock.seconds - report.seconds
            sweep(make_comparison(space, recipe), tracker, trials=trials, results=place / "results")
            return time.process_time() - clock.seconds - report.seconds - before

        run_trials(2)  # imports, tables, the test of the winner
        each = (run_trials(14) - run_trials(2)) / 12
        libraries, bare = library_seconds(tracker, place / "optuna.db", len(space.axes))
    return {
        "vqlab": each,
        "libraries": libraries,
        "bare": bare,
        "report": report.seconds / report.calls,
    }


def library_seconds(tracker: Any, store: Path, axes: int) -> tuple[float, float]:
    """Return the CPU-seconds that Optuna and MLflow take to write a trial.

    The first trial has as many parameters, attributes, tags, settings and metrics as a trial of
    vqlab; the second has few, to compare machines.
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
    template = next(run for run in trials if "vqlab.tested" not in run.data.tags)
    study = optuna.create_study(storage=f"sqlite:///{store}", sampler=RandomSampler(seed=0))

    def cpu(axes: int, attributes: int, tags: Any, *batches: dict[str, Any]) -> float:
        def write(trial: optuna.Trial) -> float:
            for axis in range(axes):
                trial.suggest_float(str(axis), 0, 1)
            for key in range(attributes):
                trial.set_user_attr(str(key), "")
            run = client.create_run(template.info.experiment_id, tags=tags).info.run_id
            for batch in batches:
                client.log_batch(run, **batch)
            client.set_terminated(run)
            return 0.0

        study.optimize(write, n_trials=3)
        before = time.process_time()
        study.optimize(write, n_trials=20)
        return (time.process_time() - before) / 20

    params = [Param(key, value) for key, value in template.data.params.items()]
    metrics = [Metric(key, value, 0, 1) for key, value in template.data.metrics.items()]
    return (
        cpu(axes, 4, template.data.tags, {"params": params}, {"metrics": metrics}),
        cpu(3, 0, {}, {"params": params[:10], "metrics": metrics[:10]}),
    )


def start() -> Values:
    """Return the wall time from imports to the first training step on the synthetic cable."""
    from vqlab.data import load_dataset
    from vqlab.recipes import recipe_tree
    from vqlab.run import resolve
    from vqlab.sweep import Execution, make_comparison, read_space, sweep
    from vqlab.tracking import Tracker
    from vqlab.training import Trainer

    def stop(self: Any, *arguments: Any) -> Any:
        raise KeyboardInterrupt

    with folder() as place:
        recipe = recipe_tree("vqvae", [], "cable", None, "quick")
        space = read_space(Path("experiments/sweeps/vqvae.yaml"))
        load_dataset(resolve(recipe).data)  # generate the synthetic set
        started = time.monotonic()
        Trainer._step = stop  # type: ignore[method-assign]
        with contextlib.suppress(BaseException):
            sweep(
                make_comparison(space, recipe),
                Tracker.open(place / "mlruns"),
                trials=1,
                execution=Execution(timeout=1),
            )
        return {"seconds": time.monotonic() - started}


def bottle() -> list[str]:
    """Return settings that select MVTec bottle, or the synthetic cable without real data."""
    real = os.environ.get("VQLAB_REAL_DATA")
    if real and (Path(real) / "MVTec" / "bottle").is_dir():
        return [f"data.root={Path(real) / 'MVTec'}", "data.categories=[bottle]"]
    return ["data.categories=[cable]"]


TRAINED = {"detector.codebook_size": [128, 512]}
EVERY = 3
"""`naive` trains every third of the 40 settings and scales the cost: all of them take an hour."""
SCORED = {
    "detector.scoring.terms": [
        ["error", "context", "position", "neighbours"], ["error", "context"],
        ["error", "neighbours"], ["error"], ["context"],
    ],
    "detector.scoring.code_smoothing": [0.01, 0.02, 0.03, 0.04],
}  # fmt: skip


def staged(naive: bool = False) -> Values:
    """Return the CPU-seconds of a search of 40 settings, and the best validation pixel AUROC."""
    import torch._dynamo  # noqa: F401  (Adam imports it, which takes seconds, once)

    from vqlab.config import merge, nest
    from vqlab.recipes import recipe_tree
    from vqlab.run import resolve, run
    from vqlab.sweep import make_comparison, make_space, sweep
    from vqlab.sweep import result as ending
    from vqlab.tracking import Tracker

    after = Clock()  # the test of the winner and the report
    after.around(ending, "_test_once")
    after.around(ending, "write_report")
    small = ["data.image_size=128", "training.epochs=4", "training.threads=1", *bottle()]
    tree = recipe_tree("vqvae", small)
    started = time.process_time()
    with folder() as place:
        tracker = Tracker.open(place / "mlruns")
        if not naive:
            axes = {name: {"choices": values} for name, values in {**TRAINED, **SCORED}.items()}
            space = make_space({"validations": 0, "scorings": 20, "space": axes})
            best = -1.0
            for size in TRAINED["detector.codebook_size"]:
                recipe = merge(tree, nest("detector.codebook_size", size))
                result = sweep(
                    make_comparison(space, recipe), tracker, trials=1, results=place / "results"
                )
                best = max(best, result.best.value or -1.0)
        else:
            best = -1.0
            settings_list = list(all_settings())[::EVERY]
            for settings in settings_list:
                recipe = tree
                for name, value in settings.items():
                    recipe = merge(recipe, nest(name, value))
                outcome = run(resolve(recipe), tracker, test=False)
                best = max(best, outcome.validation.mean["pixel_auroc"])
    seconds = time.process_time() - started - after.seconds
    if naive:
        seconds *= 40 / len(settings_list)
    return {"seconds": seconds, "best": best}


def all_settings() -> Iterator[dict[str, Any]]:
    """Yield the 40 settings."""
    axes = {**TRAINED, **SCORED}
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def features() -> Values:
    """Return the number of image sets extracted by a study, and by a second one with the same
    backbone."""
    from vqlab.recipes import recipe_tree
    from vqlab.sweep import make_comparison, make_space, sweep
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
            sweep(
                make_comparison(make_space({"validations": 0, "space": axes}), tree),
                Tracker.open(place / "mlruns"),
                trials=3,
                results=place / "results",
            )
            counts[f"study {number}"] = clock.calls - before
    return dict(counts)


def workers() -> Values:
    """Return the trials per hour of one worker and of two, each in two sweeps, alternately.

    Only the time after the first trial of every worker is included. `cores` is the number of cores
    in use; the difference from the number of workers is waiting time.
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
            usage = cpu_usage(command, place)
            trials, since, until = steady_phase(f"sqlite:///{place}/mlruns{call}/optuna.db", count)
            ended[count] += trials
            seconds[count] += until - since
            within = [cpu for at, cpu in usage if since <= at <= until]
            busy[count] += within[-1] - within[0]
    values: Values = {}
    for count in (1, 2):
        values[f"per hour, {count}"] = 3600 * ended[count] / seconds[count]
        values[f"cores, {count}"] = busy[count] / seconds[count]
    return values


def cpu_usage(command: list[str], place: Path) -> list[tuple[float, float]]:
    """Run a command; return (time, CPU-seconds of its processes so far), ten times a second."""
    import psutil

    usage = []
    with open(os.devnull, "wb") as null:
        process = psutil.Popen(command, cwd=place, stdout=null, stderr=null)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
                usage.append((time.time(), sum(t.user + t.system for t in times)))
            time.sleep(0.1)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return usage


def steady_phase(address: str, workers: int) -> tuple[int, float, float]:
    """Return the number of trials that ended in the steady phase, its start and its end.

    It starts when every worker has finished its first trial, which includes imports, and ends when
    the first worker has finished its last.
    """
    import optuna

    (name,) = optuna.get_all_study_names(address)
    trials = optuna.load_study(study_name=name, storage=address).trials
    ends_of: dict[str, list[float]] = {}
    for trial in trials:
        assert trial.datetime_complete is not None
        pid = trial.user_attrs["worker"]["vqlab.pid"]
        ends_of.setdefault(pid, []).append(trial.datetime_complete.timestamp())
    assert len(ends_of) == workers
    begin = max(min(ends) for ends in ends_of.values())
    end = min(max(ends) for ends in ends_of.values())
    return sum(begin < t <= end for ends in ends_of.values() for t in ends), begin, end


def hundred() -> Values:
    """Run 100 trivial trials with 4 workers; return the numbers of completed, surplus and
    duplicated trials, and the seconds."""
    from one_study import load_study
    from sweep_processes import COUNTED

    from vqlab.sweep.study.storage import open_storage

    with folder() as place:
        address = f"sqlite:///{place / 'optuna.db'}"
        started = time.monotonic()
        command = [sys.executable, "-c", COUNTED, address]
        processes = [subprocess.Popen(command) for _ in range(4)]
        for process in processes:
            process.wait()
        seconds = time.monotonic() - started
        trials = load_study(open_storage(address), "s").get_trials(deepcopy=False)
    return {
        "complete": len({t.number for t in trials if t.state.name == "COMPLETE"}),
        "too many": len(trials) - 100,
        "duplicated": 100 - len({t.params["x"] for t in trials}),
        "seconds": seconds,
    }


CASES: dict[str, Callable[[], Values]] = {
    "overhead": overhead,
    "start": start,
    "naive": lambda: staged(naive=True),
    "staged": staged,
    "features": features,
    "workers": workers,
    "hundred": hundred,
}


def case(name: str) -> Values:
    """Measure a case in a new process."""
    values: Values = json.loads(
        run_process([sys.executable, __file__, "--case", name])[3].splitlines()[-1]
    )
    return values


def tables(repeats: int) -> Iterator[Table]:
    runs = [case("overhead") for _ in range(repeats)]
    cost = {name: Measured.of(run[name] for run in runs) for name in runs[0]}
    by_training, by_stages = case("naive"), case("staged")
    naive, stages = (Measured.of([values["seconds"]]) for values in (by_training, by_stages))
    pair, extracted, trivial = case("workers"), case("features"), case("hundred")
    single, two = (Measured.of([pair[f"per hour, {count}"]]) for count in (1, 2))
    alone = (cost["libraries"], "MLflow and Optuna writing as much")
    rows = [
        Row("a trial, outside training and scoring", cost["vqlab"], floor=alone[0],
            floor_name=alone[1]),
        Row("report of a study, once", cost["report"]),
        Row("40 settings on one category", stages, naive, "a training for each"),
        Row("imports to the first training step", Measured.of([case("start")["seconds"]]),
            unit="wall s"),
        Row("trials of 2 workers", two, single, "1 worker", unit="per hour"),
    ]  # fmt: skip
    notes = [
        f"Best validation pixel AUROC of the 40 settings: {by_stages['best']:.4f} by stages, "
        f"{by_training['best']:.4f} by training every third of them.",
        f"Cores kept busy: {pair['cores, 1']:.2f} by 1 worker, {pair['cores, 2']:.2f} by 2.",
        f"Image sets extracted with a frozen backbone: {extracted}.",
        f"100 trivial trials by 4 workers: {trivial}.",
    ]
    yield Table("Sweeps", "Synthetic cable or MVTec bottle; see the docstring.", rows, notes)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(CASES[sys.argv[2]]()))
    else:
        main(tables, repeats=1)
