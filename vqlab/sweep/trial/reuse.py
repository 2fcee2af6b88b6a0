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
"""A trained model, and its run."""


def trained_mark(key: str, recipe: str, config: RunConfig) -> list[str]:
    """Return a key that is equal for trials with the same training, scoring and thresholds."""
    return [recipe, key, digest([config.detector.get("scoring"), dump(config.threshold)])]


def same_trial(complete: list[FrozenTrial], mark: list[str]) -> FrozenTrial | None:
    """Return a complete trial with that mark."""
    return next((trial for trial in complete if list(record_of(trial).trained) == mark), None)


class EarlierRuns:
    """Finished runs on the same data, queried once."""

    def __init__(self, tracker: Tracker, data_fingerprint: str) -> None:
        self._tracker = tracker
        self._by_key: dict[str, list[RunRecord]] = {}
        for record in tracker.runs(tags={"vqlab.data_fingerprint": data_fingerprint}):
            key = record.tags.get(TRAINED_TAG)
            if key and record.status == "FINISHED" and "vqlab.selected_on" not in record.tags:
                self._by_key.setdefault(key, []).append(record)

    def model(self, complete: list[FrozenTrial], key: str, config: RunConfig) -> Reused | None:
        """Return the model of a run with the same training whose checkpoint exists and can be
        scored with these settings, and that run; None if there is none.

        complete: further trials whose runs are considered.
        """
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
                with suppress(UserError):  # the run was deleted
                    yield self._tracker.find(record.run_id)
