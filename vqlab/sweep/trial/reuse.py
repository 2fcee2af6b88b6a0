"""Reuse trials and checkpoints with the same training settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from optuna.trial import FrozenTrial

from vqlab.config import digest, dump
from vqlab.detectors import can_rescore, detector_class
from vqlab.model import Model
from vqlab.run import TRAINED_TAG, RunConfig, resolve
from vqlab.sweep.space.compile import scoring_of
from vqlab.sweep.study.record import record_of
from vqlab.tracking import RunRecord, Tracker
from vqlab.training import choose_device
from vqlab.types import UserError

Reused = tuple[Model, RunRecord]
"""What was trained before, and the run that trained it."""


def trained_mark(key: str, recipe: str, config: RunConfig) -> list[str]:
    """The same for trials of one study that train the same and search their scoring alike."""
    return [recipe, key, digest([config.detector.get("scoring"), dump(config.threshold)])]


def same_trial(complete: list[FrozenTrial], mark: list[str]) -> FrozenTrial | None:
    """One of the complete trials with that mark."""
    return next((trial for trial in complete if list(record_of(trial).trained) == mark), None)


class EarlierRuns:
    """Runs on the same data that ended before; asked for once, for the store grows and grows."""

    def __init__(self, tracker: Tracker, data_fingerprint: str) -> None:
        self._tracker = tracker
        self._by_key: dict[str, list[RunRecord]] = {}
        for record in tracker.runs(tags={"vqlab.data_fingerprint": data_fingerprint}):
            key = record.tags.get(TRAINED_TAG)
            if key and record.status == "FINISHED" and "vqlab.selected_on" not in record.tags:
                self._by_key.setdefault(key, []).append(record)

    def model(self, complete: list[FrozenTrial], key: str, config: RunConfig) -> Reused | None:
        """The model of a run that trained the same, whose checkpoint is still there and can be
        scored by these settings; and that run. complete: trials that may be it, too."""
        kind, device = detector_class(config.detector["name"]), choose_device(config.training)
        for record in [*self._trials(complete, key), *self._by_key.get(key, [])]:
            try:
                model = Model.load(record.checkpoint(), device)
            except UserError:
                continue
            if can_rescore(kind, scoring_of(resolve(model.meta["config"])), scoring_of(config)):
                return model, record
        return None

    def _trials(self, complete: list[FrozenTrial], key: str) -> Iterator[RunRecord]:
        for trial in complete:
            record = record_of(trial)
            if list(record.trained[1:2]) == [key] and record.run_id:
                with suppress(UserError):  # its run was deleted
                    yield self._tracker.find(record.run_id)
