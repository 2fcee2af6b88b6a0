"""`make bench BENCH=vqflow`: the command `vqlab train` by stage, compared with anomalib's
PatchCore.

One model of all categories of a dataset: features, training, calibration, thresholds, test,
pictures and logging, with empty caches. The reference fits PatchCore with 5,000 vectors to the same
normal images, scores the same test images and computes their metrics, without thresholds, pictures
or logging. VQLAB_BENCH_DATA is the dataset (default: four categories of the built-in set);
VQLAB_WEIGHTS is a folder with weights of resnet18 (default: random). VQLAB_BENCH_RECIPES lists
recipes (default: vqflow; memory_bank, vqvae).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from measure import Measured, Row, Table, main, run_process

VECTORS = 5000
CATEGORIES = "cable,fabric,gear,wood"
METRICS = ("image_auroc", "pixel_auroc", "aupro")


class Stages:
    """CPU-seconds by stage; a nested stage is excluded from the enclosing one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._local = threading.local()

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return the function, counted for a stage."""

        @wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            within: list[float] = self._local.__dict__.setdefault("within", [])
            start = time.thread_time()
            within.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.thread_time() - start
                self.seconds[name] += spent - within.pop()
                if within:
                    within[-1] += spent

        return measured


def train(arguments: list[str]) -> None:
    """Run `vqlab train` with these arguments; print CPU-seconds by stage and metrics as JSON."""
    stages = Stages()
    started = time.process_time()
    from vqlab import data, model, tracking
    from vqlab.cli import load_commands
    from vqlab.detectors import detector_class
    from vqlab.plots import ResultsWriter, results
    from vqlab.run import evaluators, story, test_set

    stages.seconds["import"] = time.process_time() - started
    outcomes: list[Any] = []
    run = story.run

    def run_and_keep(*args: Any, **kwargs: Any) -> Any:
        outcomes.append(run(*args, **kwargs))
        return outcomes[-1]

    detector = detector_class(arguments[1])
    places = [
        (data, "load_dataset", "read and check images"),
        (story, "extract_features", "features"),
        (detector, "prepare", "preparation: codebooks, coreset, whitening"),
        (story, "fit", "training"),
        (story, "calibrated_model", "calibration"),
        (model.Model, "predict_set", "validation scores"),
        (story, "assess_scored", "thresholds and validation metrics"),
        (story, "training_concepts", "concepts of training images"),
        (test_set, "predict_images", "test scores"),
        (test_set, "evaluate", "test metrics with intervals"),
        (evaluators, "evaluate", "test metrics with intervals"),
        (evaluators, "audit", "data audit"),
        (evaluators, "calibrate_and_assess", "baseline"),
        (model.Model, "score_set", "scores of the baseline and of pictures of concepts"),
        (ResultsWriter, "finish", "curves and tables"),
        (results._Category, "draw", "pictures, in their thread"),
        (test_set, "show_concepts", "pictures of concepts"),
        (tracking.Run, "log_artifacts", "MLflow"),
        (tracking.Run, "log_metrics", "MLflow"),
        (tracking.Run, "log_pictures", "MLflow"),
        (tracking.Run, "set_tags", "MLflow"),
        (story, "start", "MLflow"),
    ]
    patches = [
        patch.object(owner, name, stages.wrap(getattr(owner, name), stage))
        for owner, name, stage in places
    ]
    with patch("vqlab.run.run", run_and_keep):
        for each in patches:
            each.start()
        try:
            load_commands("train")(arguments, standalone_mode=False)
        finally:
            patch.stopall()
    stages.seconds["other: decoding threads, saving"] = time.process_time() - sum(
        stages.seconds.values()
    )
    (outcome,) = outcomes
    metrics = {name: outcome.test.mean[name] for name in METRICS}
    print(json.dumps({"stages": stages.seconds, "metrics": metrics}))


def weights() -> Path | None:
    """Return the state dict of resnet18 in the folder VQLAB_WEIGHTS."""
    folder = os.environ.get("VQLAB_WEIGHTS")
    return next(iter(sorted(Path(folder).glob("resnet18*.pth"))), None) if folder else None


def command(recipe: str, data: Path, folder: Path) -> list[str]:
    """Return the command that trains a recipe on all categories with stores in `folder`."""
    settings = ["data.joint=true", "data.categories=all", "--data", str(data)]
    if recipe != "vqvae" and weights() is None:
        settings.append("features.weights=random")
    stores = ["--mlruns", str(folder / "mlruns"), "--output", str(folder / "results")]
    return [sys.executable, __file__, "train", recipe, *settings, *stores]


def compare(recipe: str, data: Path, repeats: int) -> Table:
    """Measure a recipe and the reference alternately."""
    reference = [sys.executable, str(Path(__file__).with_name("reference_patchcore.py"))]
    reference += [str(data), str(VECTORS)]
    reference += [str(weights())] if weights() else []
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    totals: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            environment = {"VQLAB_CACHE": f"{folder}/cache"}
            ours_command = command(recipe, data, Path(folder))
            seconds, _, peak, output = run_process(ours_command, env=environment)
            totals["ours"].append((seconds, peak))
            ours.append(json.loads(output.splitlines()[-1]))
        seconds, _, peak, output = run_process(reference)
        totals["theirs"].append((seconds, peak))
        theirs.append(json.loads(output.splitlines()[-1]))
    return table(recipe, ours, theirs, totals)


def table(
    recipe: str,
    ours: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    totals: dict[str, list[tuple[float, float]]],
) -> Table:
    """Return the rows of a recipe: the complete command, then its stages."""
    command_cost, reference = (
        Measured.of((seconds for seconds, _ in values), max(peak for _, peak in values))
        for values in totals.values()
    )
    name = "PatchCore: fit, score, metrics"
    rows = [Row(f"vqlab train {recipe}", command_cost, reference, name)]
    rows += [
        Row(stage, Measured.of(each["stages"].get(stage, 0.0) for each in ours))
        for stage in ours[0]["stages"]
    ]
    rows += [
        Row(f"PatchCore: {stage}", Measured.of(each["stages"][stage] for each in theirs))
        for stage in theirs[0]["stages"]
    ]
    figures = [
        f"{who}: " + ", ".join(f"{key} {100 * value:.2f}" for key, value in each["metrics"].items())
        for who, runs in ((recipe, ours), ("PatchCore", theirs))
        for each in runs[:1]
    ]
    return Table(f"Whole command: {recipe}", "Empty caches, one thread.", rows, figures)


def tables(repeats: int) -> list[Table]:
    from vqlab.data import make_synthetic

    data_folder = os.environ.get("VQLAB_BENCH_DATA")
    recipes = os.environ.get("VQLAB_BENCH_RECIPES", "vqflow").split(",")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(data_folder) if data_folder else Path(folder)
        if not data_folder:
            make_synthetic(data, CATEGORIES.split(","))
        return [compare(recipe, data, repeats) for recipe in recipes]


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        train(sys.argv[1:])
    else:
        main(tables, repeats=1)
