"""The table of all trials of a sweep, and their metrics on validation and test."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from vqlab.metrics import OBJECTIVES, PRIMARY
from vqlab.sweep.events import TrialKey
from vqlab.sweep.report.study_data import StudyData, settings_of
from vqlab.sweep.study.record import key_of, record_of

TestMetrics = Mapping[TrialKey, Mapping[str, float]]
"""Metrics `test/…` of the trials scored on test."""


@dataclass(frozen=True)
class TrialTable:
    """One row per trial; a cell is empty if the trial has no such value."""

    columns: list[str]
    rows: list[list[Any]]

    def write(self, path: Path) -> None:
        """Write a CSV file with all digits."""
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            csv.writer(file).writerows([self.columns, *self.rows])


def trial_table(
    data: StudyData, tested: TestMetrics, purposes: Mapping[TrialKey, str]
) -> TrialTable:
    """Return the table. purposes: why each tested trial was tested."""
    settings = list(dict.fromkeys(name for trial in data.raw for name in settings_of(trial)))
    compared = data.recipes != [""]
    on_test = [f"test/{name.partition('/')[2]}" for name in data.objectives]
    on_test += [f"test/{name}" for name in PRIMARY]
    measured = {name for metrics in tested.values() for name in metrics}
    on_test = [name for name in dict.fromkeys(on_test) if name in measured]
    columns = ["trial", *(["recipe"] if compared else []), "state", *data.objectives, *on_test]
    columns += [*(["tested"] if purposes else []), *settings]
    columns += ["seconds", "reason", "retry_of", "reused", "seconds_saved", "run_id"]
    rows = []
    for trial in data.raw:
        key, record, values = key_of(trial), record_of(trial), settings_of(trial)
        complete = trial.state == TrialState.COMPLETE
        row = [key.number, *([key.recipe] if compared else []), trial.state.name]
        row += list(trial.values) if complete else [""] * len(data.objectives)
        row += [tested.get(key, {}).get(name, "") for name in on_test]
        row += [purposes.get(key, "")] if purposes else []
        row += [_cell(values[name]) if name in values else "" for name in settings]
        row += [f"{trial.duration.total_seconds():.2f}" if trial.duration else ""]
        row += [record.reason or record.dead_codebook]
        row += ["" if record.retry_of is None else record.retry_of, record.reused]
        row += [record.seconds_saved if record.reused else "", record.run_id or ""]
        rows.append(row)
    return TrialTable(columns, rows)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def validation_and_test(
    data: StudyData, tested: TestMetrics
) -> dict[str, list[tuple[TrialKey, float, float]]]:
    """Return (trial, validation value, test value) of the tested trials by metric, the objectives
    first."""
    names = [name.partition("/")[2] for name in data.objectives]
    pairs: dict[str, list[tuple[TrialKey, float, float]]] = {n: [] for n in [*names, *OBJECTIVES]}
    raw = {key_of(trial): trial for trial in data.raw}
    for key, metrics in sorted(tested.items()):
        if key not in raw:
            continue
        test = {key.removeprefix("test/"): value for key, value in metrics.items()}
        for metric, value in _validation(data, raw[key]).items():
            name = metric.removeprefix("validation/")
            if name in pairs and name in test:
                pairs[name].append((key, float(value), float(test[name])))
    return {name: values for name, values in pairs.items() if values}


def _validation(data: StudyData, trial: FrozenTrial) -> dict[str, float]:
    metrics = {k: v for k, v in record_of(trial).validation.items() if v is not None}
    if trial.state == TrialState.COMPLETE:
        metrics |= dict(zip(data.objectives, trial.values, strict=True))
    return {key: value for key, value in metrics.items() if key.startswith("validation/")}
