"""User attributes of a trial as one typed record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.events import TrialKey, TrialRow

_STORED = {"run_id": "mlflow_run_id", "violation": "beyond_limit"}
"""Names of fields whose name in the store differs."""
_FLAT = {"validation": "", "scoring": "scoring/", "thresholds": "thresholds/"}
"""Mappings with an attribute per key, which optuna-dashboard shows as a column, and the prefix of
their keys there."""


@dataclass(frozen=True)
class TrialRecord:
    """Attributes of a trial besides its parameters and values."""

    recipe: str = ""
    """Its recipe, in a sweep that compares several."""
    run_id: str | None = None
    """ID of its MLflow run."""
    worker: Mapping[str, str] | None = None
    """Host, process and thread that run it."""
    queued: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that were set when it was queued."""
    progress: Sequence[int] = (0, 0)
    """Epochs done and epochs in all."""
    interrupted: bool = False
    reason: str | None = None
    """Why it was pruned or failed."""
    retry_of: int | None = None
    """Number of the interrupted trial that it retries."""
    as_in_recipe: bool = False
    """Whether all its settings are those of the recipe."""
    same_as: int | None = None
    """Number of the trial with the same training and scoring."""
    trained: Sequence[str] = ()
    """Recipe, hash of the training, hash of scoring and thresholds."""
    reused: str = ""
    """Trial or run whose training it reused, or the cached features."""
    seconds_saved: float = 0.0
    validation: Mapping[str, float] = field(default_factory=dict)
    """Metrics, `validation/…`."""
    scoring: Mapping[str, Any] = field(default_factory=dict)
    """Settings of scoring chosen within it."""
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    """Settings of thresholds chosen within it."""
    dead_codebook: str = ""
    """Why a codebook counts as dead."""
    violation: str = ""
    """Which constraints it violates."""


def record_of(trial: FrozenTrial | optuna.Trial) -> TrialRecord:
    """Return the record of a trial."""
    attrs = trial.user_attrs
    names = {each.name: _STORED.get(each.name, each.name) for each in fields(TrialRecord)}
    values = {key: attrs[name] for key, name in names.items() if name in attrs}
    for key, prefix in _FLAT.items():
        flat = {n.removeprefix(prefix): v for n, v in attrs.items() if n.startswith(f"{key}/")}
        if flat:  # older studies have one attribute
            values[key] = flat
    return TrialRecord(**values)


def stored(**values: Any) -> dict[str, Any]:
    """Return fields of a record as user attributes. Raises TypeError for an unknown field."""
    TrialRecord(**values)
    attrs: dict[str, Any] = {}
    for key, value in values.items():
        if key in _FLAT:
            attrs |= {f"{_FLAT[key]}{name}": each for name, each in value.items()}
        else:
            attrs[_STORED.get(key, key)] = value
    return attrs


def note(trial: optuna.Trial, **values: Any) -> None:
    """Store fields of the record of a running trial."""
    for name, value in stored(**values).items():
        trial.set_user_attr(name, value)


def recipe_of(trial: FrozenTrial | optuna.Trial) -> str:
    """Return the recipe of a trial; empty in a sweep of one recipe."""
    return record_of(trial).recipe


def key_of(trial: FrozenTrial | optuna.Trial) -> TrialKey:
    """Return the identity of a trial within its sweep."""
    return TrialKey(recipe_of(trial), trial.number)


def retried_key(trial: FrozenTrial) -> TrialKey | None:
    """Return the key of the interrupted trial that this one repeats."""
    record = record_of(trial)
    return None if record.retry_of is None else TrialKey(record.recipe, record.retry_of)


def was_interrupted(trial: FrozenTrial) -> bool:
    """Return whether a trial ended because its worker ended, not because of an error."""
    return _interrupted(trial.state, record_of(trial))


def _interrupted(state: TrialState, record: TrialRecord) -> bool:
    return state == TrialState.FAIL and (record.interrupted or record.reason is None)


def reason_of(state: TrialState, record: TrialRecord) -> str:
    """Return why a trial ended early or may not win; empty if neither."""
    reason = record.reason or record.violation or record.dead_codebook
    return reason or ("interrupted" if _interrupted(state, record) else "")


def state_tags(
    state: TrialState, values: Sequence[float] | None, record: TrialRecord
) -> dict[str, str]:
    """Return the tags of the run of an ended trial."""
    tags = {"optuna.state": state.name}
    reason = reason_of(state, record)
    if reason:
        tags["vqlab.reason"] = reason
    if values and state == TrialState.COMPLETE:
        tags["vqlab.value"] = repr(values[0])
    return tags


def row(trial: FrozenTrial) -> TrialRow:
    """Return a trial as a row of a table."""
    record = record_of(trial)
    return TrialRow(
        key=key_of(trial),
        state=trial.state.name,
        value=trial.values[0] if trial.state == TrialState.COMPLETE else None,
        values=tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
        params={**trial.params, **record.scoring, **record.thresholds},
        run_id=record.run_id,
        seconds=trial.duration.total_seconds() if trial.duration else None,
        reason=reason_of(trial.state, record),
        retry_of=record.retry_of,
        reused=record.reused,
    )
