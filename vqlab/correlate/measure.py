"""Every setting of a study measured on validation and on test, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import copy

import numpy as np

from vqlab.config import digest, dump, flatten
from vqlab.correlate.ranks import METRICS
from vqlab.correlate.rows import Kept, Row
from vqlab.correlate.study import Training
from vqlab.data import Splits, load_dataset
from vqlab.evaluation import Scored, Thresholds, evaluate
from vqlab.model import build_detector
from vqlab.run import RunConfig, judge, make_trainer, require_test
from vqlab.training import Trainer, choose_device

OnProgress = Callable[[str, int, int], None]
"""Called with (what, done, in all)."""
_UNSEEN = (
    "training.device", "training.threads", "data.root", "data.good", "data.bad", "data.memory_mib",
)  # fmt: skip
"""Settings that do not change what is measured."""


def measure_all(
    category: str, trainings: Sequence[Training], kept: Kept, on_progress: OnProgress
) -> tuple[list[Row], Splits]:
    """The rows of all settings in their order, those measured before taken as they are."""
    rows: list[Row] = []
    total = sum(len(training.settings) for training in trainings)
    splits, marks, loaded = None, "", ""
    for training in trainings:
        if splits is None or digest(dump(training.config.data)) != loaded:
            splits = load_dataset(training.config.data)
            require_test(splits, "to compare validation with")
            marks, loaded = validation_digest(splits), digest(dump(training.config.data))
        trainer: Trainer | None = None
        for values, config in training.settings:
            key = setting_key(config, splits, marks)
            if key not in kept.rows:
                trainer = trainer or _trained(training.config, splits, category, on_progress)
                figures = measure(trainer, config, splits)
                text = json.dumps(values)
                row: Row = {"key": key, "detector": training.detector, "settings": text, **figures}
                kept.add(row)
            rows.append(kept.rows[key])
            on_progress(f"{category}: settings", len(rows), total)
    assert splits is not None
    return rows, splits


def validation_digest(splits: Splits) -> str:
    """sha256 (hex) of the validation pictures and masks: another way to draw gives another."""
    sha = hashlib.sha256()
    for index in range(len(splits.validation)):
        resized = splits.validation.resized(index)
        sha.update(resized.image.tobytes() + np.packbits(resized.mask).tobytes())
    return sha.hexdigest()


def setting_key(config: RunConfig, splits: Splits, validation: str) -> str:
    """16 hex digits; the same settings on the same images give the same."""
    seen = {k: v for k, v in flatten(dump(config)).items() if k not in _UNSEEN}
    return digest([seen, splits.fingerprint, validation])[:16]


def _trained(config: RunConfig, splits: Splits, category: str, on_progress: OnProgress) -> Trainer:
    trainer = make_trainer(config, splits, choose_device(config.training))
    epochs = config.training.epochs

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        on_progress(f"{category}: epochs", epoch, epochs)

    trainer.fit(on_epoch)
    return trainer


def measure(trainer: Trainer, config: RunConfig, splits: Splits) -> dict[str, float]:
    """Figures of a trained detector with the scoring of `config`: on validation, on each drawn
    kind with the normals (`validation_<kind>/…`), on test. The trainer is left as it is."""
    detector = build_detector(config.detector, trainer.backbone.spec)
    detector.load_state_dict(trainer.detector.state_dict())
    own = copy(trainer)
    own.detector = detector.to(trainer.device)
    model, _ = judge(config, own, splits, "")
    scored = model.score_set(splits.validation)
    figures = _figures("validation", scored, model.thresholds)
    for kind, places in by_kind(scored).items():
        figures |= _figures(f"validation_{kind}", scored.take(places), model.thresholds)
    return figures | _figures("test", model.score_set(splits.test), model.thresholds)


def by_kind(scored: Scored) -> dict[str, list[int]]:
    """Where the drawn defects of each kind are, with all normals before them."""
    normals = [i for i, sample in enumerate(scored.samples) if not sample.label]
    kinds: dict[str, list[int]] = {}
    for place, sample in enumerate(scored.samples):
        if sample.defect.startswith("drawn_"):
            kinds.setdefault(sample.defect.removeprefix("drawn_"), list(normals)).append(place)
    return dict(sorted(kinds.items()))


def _figures(split: str, scored: Scored, thresholds: Thresholds) -> dict[str, float]:
    metrics = evaluate(scored, thresholds).mean
    return {f"{split}/{name}": metrics[name] for name in METRICS if name in metrics}
