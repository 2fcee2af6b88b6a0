"""The whole story of one run: data → detector → training → thresholds → report. START HERE.

`run()` tells it in about twenty lines; every step is one call into the room that does it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vqlab.checkpoint import load_state, save_state
from vqlab.config import Settings, Tree, dump, flatten, merge, nest, validate
from vqlab.data import (
    DataSettings,
    ImageSet,
    Splits,
    audit,
    audit_metrics,
    choose_categories,
    load_dataset,
    read_image,
    write_picture,
)
from vqlab.detectors import detector_class
from vqlab.evaluation import (
    Report,
    Scored,
    Thresholds,
    ThresholdSettings,
    choose_thresholds,
    evaluate,
    promise_note,
)
from vqlab.features import Backbone, FeatureSettings
from vqlab.model import Model, build_detector
from vqlab.plots import loss_curves, write_results
from vqlab.tracking import Run, Tracker
from vqlab.training import (
    Pyramids,
    Trainer,
    TrainingSettings,
    choose_device,
    deterministic,
    seed_everything,
)
from vqlab.types import UserError
from vqlab.version import __version__

OnEpoch = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch with (epoch, epochs, metrics); may raise to end the run."""
OnProgress = Callable[[str, int, int], None]
"""Called while images are scored and drawn, with (what, images done, images in all)."""
CHECKPOINT = "model.safetensors"
STATE = "state.safetensors"
BASELINE: Tree = {"name": "mean_image"}


class RunConfig(Settings):
    """The settings of one run, whole and resolved."""

    data: DataSettings = DataSettings()
    features: FeatureSettings = FeatureSettings()
    detector: dict[str, Any]
    training: TrainingSettings = TrainingSettings()
    threshold: ThresholdSettings = ThresholdSettings()


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """A recipe's tree as settings, defaults filled in. Raises UserError, a sentence per fault."""
    section = tree.get("detector", {})
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, Mapping) or not isinstance(section.get("name", "vqvae"), str):
        raise UserError(f"setting detector must be a section with a name; got {section!r}.")
    name = section.get("name", "vqvae")
    rest = {key: value for key, value in section.items() if key != "name"}
    settings = validate(detector_class(name).Config, rest, "detector.")
    return validate(RunConfig, {**tree, "detector": {"name": name, **dump(settings)}})


def each_model(config: RunConfig) -> list[RunConfig]:
    """One configuration per model to train: per category, or one for all (`data.joint`)."""
    names = choose_categories(config.data)
    groups = [names] if config.data.joint else [(name,) for name in names]
    return [
        config.model_copy(update={"data": config.data.model_copy(update={"categories": group})})
        for group in groups
    ]


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
        time.monotonic() - started,
    )  # fmt: skip


def make_trainer(config: RunConfig, splits: Splits, device: Any) -> Trainer:
    """A fresh detector, seeded, ready to train."""
    deterministic()
    seed_everything(config.training.seed)
    backbone = Backbone(config.features, config.data.image_size)
    detector = build_detector(config.detector, backbone.spec)
    return Trainer(detector.to(device), backbone.to(device), splits.train, config.training, device)


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
            copied = copy(trainer)  # judging calibrates, which must not change what is trained
            copied.detector = deepcopy(trainer.detector)
            _, report = judge(config, copied, splits, tracked.id, effort=0.2)
            metrics |= report.keyed("validation")
        save_state(state, trainer.state())
        tracked.log_metrics(metrics, step=epoch)
        on_epoch(epoch, config.training.epochs, metrics)

    trainer.fit(after)
    if trainer.history:
        tracked.log_figure(loss_curves(trainer.history), "curves/loss.png")


def judge(
    config: RunConfig, trainer: Trainer, splits: Splits, run_id: str, effort: float = 1.0
) -> tuple[Model, Report]:
    """Calibrate the detector, choose thresholds and measure it, all without the test set.

    It is calibrated on training images only: a score that was fitted to the held-out images would
    not meet them as it meets new ones, and the thresholds' promise would not hold.
    """
    detector, backbone, device = trainer.detector, trainer.backbone, trainer.device
    detector.eval()
    most, rest = (Pyramids(part, backbone, device, 16) for part in _parted(splits.train))
    detector.calibrate(most, rest, effort)
    meta = {
        "config": dump(config),
        "data": {
            "source": splits.source,
            "fingerprint": splits.fingerprint,
            "categories": list(splits.categories),
        },
        "run_id": run_id,
        "version": __version__,
    }
    model = Model(detector, backbone, config.data, Thresholds(0.0, 0.0), meta, device)
    scored = model.score_set(splits.validation)
    thresholds = choose_thresholds(scored, config.threshold)
    report = evaluate(scored, thresholds)
    meta["thresholds"] = asdict(thresholds)
    meta["validation"] = report.mean
    return replace(model, thresholds=thresholds), report


def _parted(train: ImageSet) -> tuple[ImageSet, ImageSet]:
    """The training images for `Detector.calibrate`: five of six to fit, every sixth to measure."""
    places = range(len(train))
    return train.subset([i for i in places if i % 6]), train.subset(list(places[::6]))


def test_model(
    model: Model,
    config: RunConfig,
    splits: Splits,
    tracked: Run,
    results: Path,
    on_progress: OnProgress = lambda what, done, total: None,
) -> tuple[Report, dict[str, Report], Path]:
    """Score the test set, write its pictures, record both; beside it other scores and detectors.

    Beside it: the scores of `Detector.alternatives`, and the no-learning baseline `mean_image`.
    What the data audit warns of goes into the report's notes and the tag `vqlab.audit`.
    """
    scored = model.score_set(splits.test, partial(on_progress, "scoring the test set"))
    report = evaluate(scored, model.thresholds)
    report.notes.extend(_audited(splits, tracked))
    report.notes.extend(_broken_promise(scored, model.thresholds))
    beside = alternatives(model, splits.test, splits, config.threshold)
    beside["mean_image"] = evaluate(*_baseline(config, splits))
    for split, other in {"test": report, **{f"test_{k}": v for k, v in beside.items()}}.items():
        tracked.log_metrics(other.keyed(split))
    tracked.log_dataset(
        f"{splits.source}/{'+'.join(splits.categories)}", splits.fingerprint, str(splits.root),
        context="test",
    )  # fmt: skip
    draw = partial(on_progress, "drawing pictures")
    size = config.detector.get("codebook_size")
    folders = write_results(results, model, splits.test, scored, report, draw, size)
    for folder in folders:
        tracked.log_artifacts(folder, f"results/{folder.name}")
    tracked.log_pictures(_chosen_pictures(splits, folders))
    return report, beside, results if len(folders) > 1 else folders[0]


def _audited(splits: Splits, tracked: Run) -> list[str]:
    """Audit the data, record its metrics and warnings, and return the warnings."""
    audits = audit(splits)
    warnings = [sentence for one in audits.values() for sentence in one.warnings]
    tracked.log_metrics(audit_metrics(audits))
    if warnings:
        tracked.set_tags({"vqlab.audit": " ".join(warnings)})
    return warnings


def alternatives(
    model: Model, images: ImageSet, splits: Splits, settings: ThresholdSettings
) -> dict[str, Report]:
    """Reports of the other scores a detector offers, each with thresholds of its own."""
    reports = {}
    judges = splits.validation if settings.method == "f1max" else splits.held_out
    one = model.backbone(images.batch([0]).images.to(model.device))
    for name in model.detector.alternatives(one):
        thresholds = choose_thresholds(model.score_set(judges, by=name), settings)
        reports[name] = evaluate(model.score_set(images, by=name), thresholds)
    return reports


def _broken_promise(scored: Scored, thresholds: Thresholds) -> list[str]:
    """The note on too many false rejects, where there are too many."""
    rejected = (scored.labels == 0) & (scored.image_scores > thresholds.image)
    normals = len(scored) - int(scored.labels.sum())
    note = promise_note(thresholds, int(rejected.sum()), normals)
    return [note] if note else []


def _chosen_pictures(splits: Splits, folders: list[Path]) -> dict[str, Any]:
    """The first test image of every defect type, under the same key in every run on these data."""
    pictures: dict[str, Any] = {}
    places = {folder.name: 0 for folder in folders}
    for sample in splits.test.samples:
        place = places[sample.category]
        places[sample.category] += 1
        key = f"{sample.category}/{sample.defect}"
        folder = next(f for f in folders if f.name == sample.category)
        if key not in pictures:
            pictures[key] = read_image(folder / f"{sample.category}_{place:03d}_viz.png")
    return pictures


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


def _baseline(config: RunConfig, splits: Splits) -> tuple[Scored, Thresholds]:
    training = {"epochs": 0, "device": config.training.device}
    sections = {"data": dump(config.data), "threshold": dump(config.threshold)}
    baseline = resolve({"detector": BASELINE, "training": training, **sections})
    trainer = make_trainer(baseline, splits, choose_device(baseline.training))
    trainer.fit(lambda epoch, metrics: None)
    model, _ = judge(baseline, trainer, splits, "")
    return model.score_set(splits.test), model.thresholds
