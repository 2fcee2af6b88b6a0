"""The whole story of one run: data → detector → training → thresholds → report. START HERE.

`run()` tells it in about twenty lines; every step is one call into the room that does it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path

from vqlab.checkpoint import load_state, save_state
from vqlab.config import dump, flatten, merge, nest
from vqlab.data import Splits, load_dataset, write_picture
from vqlab.evaluation import Report, evaluate
from vqlab.model import Model
from vqlab.plots import loss_curves
from vqlab.run.judging import judge, make_trainer
from vqlab.run.settings import BEST_ON_TEST, RunConfig, resolve
from vqlab.run.testing import OnProgress, test_model
from vqlab.tracking import Run, Tracker
from vqlab.training import Trainer, choose_device
from vqlab.types import UserError

OnEpoch = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch with (epoch, epochs, metrics); may raise to end the run."""
CHECKPOINT = "model.safetensors"
STATE = "state.safetensors"
BEST = "best.safetensors"


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    run_id: str
    model: Model
    checkpoint: Path
    validation: Report
    test: Report | None
    beside: dict[str, Report]
    """Other scores on the same test images: the detector's own, and the baseline `mean_image`."""
    pictures: Path | None
    seconds: float
    test_split: str = "test"
    """`best_on_test` where the test set chose the epoch, so that `test` is no fair measure."""


def run(
    config: RunConfig,
    tracker: Tracker,
    *,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
    resumed: Run | None = None,
    splits: Splits | None = None,
    test: bool = True,
    results: Path = Path("results"),
    on_epoch: OnEpoch = lambda epoch, epochs, metrics: None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Outcome:
    """Train, calibrate and judge one model, and record it as one tracked run.

    `test=False` leaves the test set alone (a trial of a sweep). `on_epoch` may raise to end the
    run. Raises UserError for every mistake that can be known, most of them before work starts.
    """
    if config.training.select == BEST_ON_TEST and not test:
        raise UserError(
            "setting training.select: best_on_test looks at the test set, which a sweep must not; "
            "set training.select=last."
        )
    started = time.monotonic()
    device = choose_device(config.training)
    splits = splits or load_dataset(config.data)
    trainer = make_trainer(config, splits, device)
    with resumed or start(tracker, config, splits, name, tags, parent) as tracked:
        try:
            _train(trainer, config, splits, tracked, on_epoch)
        except KeyboardInterrupt as error:
            how = f"go on with: vqlab train --resume {tracked.id[:12]}"
            raise type(error)(f"interrupted after epoch {len(trainer.history)}; {how}") from None
        model, validation = judge(config, trainer, splits, tracked.id)
        tracked.log_metrics(validation.keyed("validation"), step=config.training.epochs)
        model.save(tracked.folder / CHECKPOINT)
        tracked.log_artifact(tracked.folder / CHECKPOINT, "checkpoint")
        report, pictures = None, None
        beside: dict[str, Report] = {}
        if test:
            report, beside, pictures = test_model(
                model, config, splits, tracked, results, on_progress
            )
        checkpoint = tracked.artifact(f"checkpoint/{CHECKPOINT}")
        shutil.rmtree(tracked.folder, ignore_errors=True)
    return Outcome(
        tracked.id, model, checkpoint, validation, report, beside, pictures,
        time.monotonic() - started, config.test_split,
    )  # fmt: skip


def experiment_of(splits: Splits) -> str:
    """Where runs on these data are filed: under their category, or `joint` for several."""
    return splits.categories[0] if len(splits.categories) == 1 else "joint"


def start(
    tracker: Tracker,
    config: RunConfig,
    splits: Splits,
    name: str | None,
    tags: Mapping[str, str] | None,
    parent: str | None,
) -> Run:
    """A tracked run with its settings, data set and origin recorded before work starts."""
    categories = "+".join(splits.categories)
    tree = dump(config)
    tracked = tracker.start(
        experiment=experiment_of(splits),
        name=name or f"{config.detector['name']}-{categories}",
        tags={
            "vqlab.kind": "train",
            "vqlab.detector": config.detector["name"],
            "vqlab.category": categories,
            "vqlab.data": splits.source,
            "vqlab.data_fingerprint": splits.fingerprint,
            "vqlab.test_fingerprint": splits.test_fingerprint,
            "vqlab.validation": config.data.validation.described,
            "vqlab.seed": str(config.training.seed),
            **({"vqlab.selected_on": "test"} if config.test_split == BEST_ON_TEST else {}),
            **(tags or {}),
        },
        params=flatten(tree),
        parent=parent,
        device=str(choose_device(config.training)),
        system_metrics=parent is None,
    )
    tracked.log_yaml(tree, "config.yaml")
    tracked.log_dataset(
        f"{splits.source}/{categories}", splits.fingerprint, str(splits.root), context="training"
    )
    with tempfile.TemporaryDirectory() as folder:
        splits.write_table(Path(folder) / "splits.csv")
        write_picture(splits.validation_sheet, Path(folder) / "validation.png")
        tracked.log_artifacts(Path(folder), "data")
    return tracked


def _train(
    trainer: Trainer,
    config: RunConfig,
    splits: Splits,
    tracked: Run,
    on_epoch: OnEpoch,
) -> None:
    state = tracked.folder / STATE
    state.parent.mkdir(parents=True, exist_ok=True)
    if state.exists():
        trainer.load(load_state(state))
        for epoch, metrics in enumerate(trainer.history, 1):
            tracked.log_metrics(metrics, step=epoch)

    def after(epoch: int, metrics: dict[str, float]) -> None:
        every = config.training.validate_every
        if every and epoch % every == 0 and epoch < config.training.epochs:
            _, report = _judge_a_copy(trainer, config, splits, tracked)
            metrics |= report.keyed("validation")
        if config.training.select == BEST_ON_TEST:
            _keep_the_best_on_test(trainer, config, splits, tracked, metrics)
        save_state(state, trainer.state())
        tracked.log_metrics(metrics, step=epoch)
        on_epoch(epoch, config.training.epochs, metrics)

    trainer.fit(after)
    if config.training.select == BEST_ON_TEST and trainer.history:
        trainer.detector.load_state_dict(load_state(tracked.folder / BEST)["detector"])
    if trainer.history:
        tracked.log_figure(loss_curves(trainer.history), "curves/loss.png")


def _judge_a_copy(
    trainer: Trainer, config: RunConfig, splits: Splits, tracked: Run
) -> tuple[Model, Report]:
    """Judge while training, with less effort; judging calibrates, and must not change training."""
    copied = copy(trainer)
    copied.detector = deepcopy(trainer.detector)
    return judge(config, copied, splits, tracked.id, effort=0.2)


def _keep_the_best_on_test(
    trainer: Trainer,
    config: RunConfig,
    splits: Splits,
    tracked: Run,
    metrics: dict[str, float],
) -> None:
    """The papers' habit, for reproducing their tables: keep the epoch with the best test AUROC."""
    key = f"{BEST_ON_TEST}/image_auroc"
    model, _ = _judge_a_copy(trainer, config, splits, tracked)
    report = evaluate(model.score_set(splits.test), model.thresholds)
    before = [epoch[key] for epoch in trainer.history if key in epoch]
    metrics |= {key: report.mean.get("image_auroc", 0.0)}
    if metrics[key] > max(before, default=-1.0):
        save_state(tracked.folder / BEST, {"detector": trainer.detector.state_dict()})


def evaluate_model(
    model: Model,
    data: Path | None,
    tracker: Tracker,
    results: Path,
    on_progress: OnProgress = lambda what, done, total: None,
) -> tuple[Report, Path]:
    """Score the test set of a data folder (default: the one trained on) as a run of its own."""
    tree = merge(model.meta["config"], nest("data.root", str(data)) if data else {})
    config = resolve(tree)
    splits = load_dataset(config.data)
    tags = {"vqlab.kind": "evaluate", "vqlab.model_run": model.meta["run_id"]}
    name = f"evaluate-{config.detector['name']}-{'+'.join(splits.categories)}"
    with start(tracker, config, splits, name, tags, None) as tracked:
        report, _, pictures = test_model(model, config, splits, tracked, results, on_progress)
    return report, pictures
