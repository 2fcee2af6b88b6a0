"""Settings of runs: those that differ, and runs that differ only in their seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from vqlab.tracking.record import RunRecord

_FIRST = ("features.backbone", "data.image_size", "preset", "training.epochs", "training.seed")
"""Settings shown before others."""
_HIDDEN = {
    "data.root", "data.good", "data.bad", "data.categories", "data.memory_mib", "detector.name",
    "features.cache", "training.device", "training.threads", "training.validate_every",
}  # fmt: skip
"""Settings of the execution, not of the model."""
_NULL = "null"
_SEED = "training.seed"
_SEED_GROUP = {_SEED, "training.device", "training.threads"}
"""Settings in which runs of one seed group may differ."""


def run_settings(run: RunRecord) -> dict[str, Any]:
    """Return the settings of a run's model, including those its sweep selected after training."""
    settings = {
        key: _parse(run.tags.get(f"vqlab.{key}", text))
        for key, text in run.params.items()
        if key not in _HIDDEN
    }
    if "vqlab.preset" in run.tags:
        settings["preset"] = run.tags["vqlab.preset"]
    if "vqlab.model_run" in run.tags:
        settings["evaluates"] = run.tags["vqlab.model_run"][:8]
    return settings


def differing(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return those settings of each run in which the runs differ, the most important first.

    A setting that did not exist yet counts as null.
    """
    names = dict.fromkeys([*_FIRST, *(name for settings in runs for name in settings)])
    different = [name for name in names if len({str(each.get(name, _NULL)) for each in runs}) > 1]
    return [{name: each[name] for name in different if name in each} for each in runs]


def seed_groups(runs: Iterable[RunRecord]) -> list[dict[str, RunRecord]]:
    """Return groups of two or more runs that differ only in `training.seed`, by seed.

    Of runs with the same seed, the first one counts.
    """
    groups: dict[tuple[object, ...], dict[str, RunRecord]] = defaultdict(dict)
    for run in runs:
        if _SEED in run.params:
            settings = {k: v for k, v in run.params.items() if k not in _SEED_GROUP and v != _NULL}
            key = (run.tags.get("vqlab.data_fingerprint", ""), *sorted(settings.items()))
            groups[key].setdefault(run.params[_SEED], run)
    return [group for group in groups.values() if len(group) > 1]


def mean_and_deviation(runs: Iterable[RunRecord], key: str) -> str:
    """Format the mean ± standard deviation of a metric; a dash for fewer than two values."""
    values = [run.metrics[key] for run in runs if key in run.metrics]
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else "–"


def _parse(text: str) -> Any:
    """Parse a setting as MLflow stores it: a number, a list, or text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if type(value) in (int, float, list) else text
