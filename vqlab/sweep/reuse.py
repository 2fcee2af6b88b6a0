"""What is known already is not trained again: trials and checkpoints with the same settings."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from vqlab.config import digest, dump
from vqlab.detectors import detector_class
from vqlab.model import Model
from vqlab.run import TRAINED_TAG, RunConfig, resolve
from vqlab.sweep.plan import scoring_of
from vqlab.tracking import RunRecord, Tracker
from vqlab.types import UserError

TRAINED, REUSED, SAVED = "trained", "reused", "seconds_saved"
"""Attributes of a trial: what makes its training what it is; the trial or run it took over; the
seconds that took less."""


def trained_mark(key: str, recipe: str, config: RunConfig) -> list[str]:
    """The same for trials of one study that train the same and search their scoring alike."""
    return [recipe, key, digest([config.detector.get("scoring"), dump(config.threshold)])]


def same_trial(study: optuna.Study, mark: list[str]) -> FrozenTrial | None:
    """A complete trial of that mark."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if trial.user_attrs.get(TRAINED) == mark:
            return trial
    return None


def trained_before(
    tracker: Tracker, key: str, config: RunConfig, device: Any
) -> tuple[Model, RunRecord] | None:
    """The model of a run that trained the same, whose checkpoint is still there and can be scored
    by these settings; and that run."""
    kind = detector_class(config.detector["name"])
    for record in tracker.runs(tags={TRAINED_TAG: key}):
        if record.status != "FINISHED" or "vqlab.selected_on" in record.tags:
            continue
        try:
            model = Model.load(record.checkpoint(), device)
        except UserError:
            continue
        if kind.rescorable(scoring_of(resolve(model.meta["config"])), scoring_of(config)):
            return model, record
    return None
