"""Metrics that a promotion compares, measured on the same images."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vqlab.checkpoint import load_checkpoint
from vqlab.data import decode_areas
from vqlab.errors import UserError
from vqlab.evaluation import EVIDENCE, CategoryEvidence, load_evidence
from vqlab.metrics import OBJECTIVES, PRIMARY, get_metric, lower_is_better
from vqlab.run import THRESHOLD_OF
from vqlab.text import shell_word
from vqlab.tracking import RunRecord, Tracker, Version

FIRST = tuple(f"test/{name}" for name in PRIMARY)
"""Default metrics, in order of preference: the first one that both runs have is compared."""
WITHOUT_TEST = "validation/pixel_auroc"
"""Default metric if there are no test images."""
NO_IMAGES = hashlib.sha256(b"").hexdigest()
"""Fingerprint of an empty test set."""
VALIDATION = (
    "held_out", "seed", "synthetic_defects", "image_size", "validation.source", "validation.kinds",
)  # fmt: skip
"""Settings of section `data` that determine the validation images."""

_SUMMARY = "vqlab.run"
"""Tag of a version: metrics, tags and parameters of its run, JSON."""
_TAGS = (
    "vqlab.data_fingerprint", "vqlab.test_fingerprint", "vqlab.validation", THRESHOLD_OF,
)  # fmt: skip
_PARAMS = tuple(f"data.{name}" for name in (*VALIDATION, "validation.fraction"))


@dataclass(frozen=True)
class MetricComparison:
    """A metric of the candidate and of the champion on the same images."""

    metric: str
    value: float
    champion_value: float | None
    """None if there is no champion, or it was not measured on the same images."""
    min_delta: float

    @property
    def gain(self) -> float | None:
        """Improvement over the champion; None if the values cannot be compared."""
        if self.champion_value is None:
            return None
        gain = self.value - self.champion_value
        return -gain if lower_is_better(self.metric) else gain

    @property
    def sufficient(self) -> bool:
        """Whether the candidate is better by more than `min_delta`."""
        return self.gain is not None and self.gain > self.min_delta

    def describe(self, version: int) -> str:
        """Return `is 0.8600, below the champion's 0.9811 (version 3)`. Needs a champion's value."""
        assert self.champion_value is not None and self.gain is not None
        difference = self.value - self.champion_value
        relation = "above" if difference > 0 else "below" if difference < 0 else "equal to"
        text = f"is {self.value:.4f}, {relation} the champion's {self.champion_value:.4f}"
        text += f" (version {version})"
        if self.gain > 0 and not self.sufficient:
            text += f", but not by more than min_delta = {self.min_delta:g}"
        return text


def require_metric(metric: str, without_test: bool) -> None:
    """Raise UserError unless the metric may decide a promotion."""
    required = "validation" if without_test else "test"
    split, _, name = metric.partition("/")
    if split == required:
        get_metric(name)  # names the nearest ones if it is unknown
    if split != required or name not in OBJECTIVES:
        choices = ", ".join(f"{required}/{name}" for name in OBJECTIVES)
        condition = " without test images" if without_test else ""
        raise UserError(
            f"a promotion's metric{condition} must be one of {choices}; got {metric!r}."
        )


def require_test(record: RunRecord, without_test: bool) -> None:
    """Raise UserError unless the run's data have test images or `without_test` is set."""
    empty = record.tags.get("vqlab.test_fingerprint") == NO_IMAGES
    if empty and not without_test:
        raise UserError(
            f"run {record.short} must be measured on real test images to be promoted; its data "
            "have none, and synthetic anomalies do not show how many real defects escape; add test "
            "images (test/good and test/<defect>, or --good with --bad) and train again, or "
            f"pass --without-test to compare {WITHOUT_TEST}."
        )
    if without_test and not empty:
        raise UserError(
            f"--without-test requires data without test images; run {record.short} has test "
            "images; omit the option."
        )


def default_metric(record: RunRecord, champion_values: Mapping[str, float]) -> str:
    """Return the default metric to compare. Raises UserError if the run has none of `FIRST`."""
    metrics = [name for name in FIRST if math.isfinite(record.metrics.get(name, math.nan))]
    if metrics:
        return next((metric for metric in metrics if metric in champion_values), metrics[0])
    raise UserError(
        f"run {record.short} must have one of {', '.join(FIRST)} to be compared; its test "
        "set lacks normal or anomalous images; add them and train again, or choose a metric with "
        f"--metric ({', '.join(_test_metrics(record)) or 'none is available'})."
    )


def value_of(record: RunRecord, metric: str) -> float:
    """Return the run's value of a metric. Raises UserError if it is undefined."""
    value = record.metrics.get(metric, math.nan)
    if not math.isfinite(value):
        available = ", ".join(_test_metrics(record))
        hint = f"; it has {available}" if available else ""
        raise UserError(
            f"run {record.short} has no {metric}: it is undefined on its images{hint}; choose "
            "another with --metric."
        )
    return value


def _test_metrics(record: RunRecord) -> list[str]:
    return [f"test/{name}" for name in OBJECTIVES if f"test/{name}" in record.metrics]


def champion_values(tracker: Tracker, champion: Version, record: RunRecord) -> dict[str, float]:
    """Return the champion's metrics on the images of `record`.

    They come from the champion's own run and from later `vqlab evaluate` runs; the newest wins.
    """
    training = champion_run(tracker, champion)
    values: dict[str, float] = {}
    for run in [*_evaluations(tracker, champion), *([training] if training else [])]:
        if _test_data(run) == _test_data(record):
            values = {k: v for k, v in run.metrics.items() if k.startswith("test/")} | values
    if training and _validation_data(training) == _validation_data(record):
        values |= {k: v for k, v in training.metrics.items() if k.startswith("validation/")}
    return values


def why_not_comparable(
    tracker: Tracker, champion: Version, record: RunRecord, metric: str, without_test: bool
) -> str:
    """Return why the champion has no value of `metric` on the images of `record`."""
    name = f"the champion (version {champion.version})"
    if metric.startswith("validation/"):
        return (
            f"{name} has no {metric} on the same validation images; train both on the same data "
            f"with the same settings of {', '.join(VALIDATION)} (section data), or promote with "
            "--force"
        )
    if not without_test:
        training = champion_run(tracker, champion)
        if training is None:
            return (
                f"the run of {name} of {champion.category} was deleted, and its version has no "
                "metrics to compare with; promote with --force"
            )
        if validation_part(training) != validation_part(record):
            sets = [r.tags.get("vqlab.validation", "no test image") for r in (record, training)]
            return (
                f"its test images differ from those of {name}: its validation set consists of "
                f"{sets[0]}, the champion's of {sets[1]}; train one of them again with the "
                "data.validation and data.seed of the other"
            )
    if not same_areas(tracker, champion, record):
        return (
            f"it inspects another area of the images than {name} (data.roi, data.ignore), so their "
            "metrics cannot be compared; train it with the champion's area, or promote with --force"
        )
    fingerprint = record.tags["vqlab.data_fingerprint"][:12]
    return (
        f"{name} was never measured on the same data ({fingerprint}); evaluate it on them (vqlab "
        f"evaluate --category {shell_word(champion.category)} --data FOLDER) and promote again"
    )


def same_areas(tracker: Tracker, champion: Version, record: RunRecord) -> bool:
    """Return whether the champion and the model of `record` inspect the same area of the images of
    each category; True if that is unknown, because a checkpoint cannot be read."""
    try:
        files = tracker.registry.checkpoint(champion), record.checkpoint()
        described = [load_checkpoint(file)[1]["data"].get("inspected") for file in files]
    except UserError:
        return True
    first, second = (
        {name: area and area.digest for name, area in decode_areas(each, record.categories).items()}
        for each in described
    )
    return first == second


def _evaluations(tracker: Tracker, champion: Version) -> list[RunRecord]:
    """Return the `vqlab evaluate` runs of the champion, newest first."""
    return tracker.runs(tags={"vqlab.model_run": champion.run_id})


def champion_evidence(
    tracker: Tracker, champion: Version, record: RunRecord
) -> dict[str, CategoryEvidence]:
    """Return the evidence of the champion on the test images of `record`; empty if there is none.

    It comes from the newest run that has it, see `champion_values`.
    """
    training = tracker.get(champion.run_id)
    for run in [*_evaluations(tracker, champion), *([training] if training else [])]:
        if _test_data(run) == _test_data(record):
            evidence = run_evidence(run)
            if evidence:
                return evidence
    return {}


def run_evidence(record: RunRecord, artifact: str = EVIDENCE) -> dict[str, CategoryEvidence]:
    """Return the evidence of a run on its test images; empty if there is none.

    artifact: `EVIDENCE`, or `BASELINE_EVIDENCE` for the baseline on the same images.
    """
    try:
        return load_evidence(record.artifact(artifact))
    except UserError:  # an older version of vqlab, or the artifact was deleted
        return {}


def same_images(
    first: Mapping[str, CategoryEvidence], second: Mapping[str, CategoryEvidence]
) -> bool:
    """Return whether both evidences list the same categories and labels in the same order."""
    labels = [
        {name: each.evidence.labels.tolist() for name, each in evidence.items()}
        for evidence in (first, second)
    ]
    return bool(first) and labels[0] == labels[1]


def run_summary(record: RunRecord) -> dict[str, str]:
    """Return the tag that stores the compared values, since the run may be deleted later."""
    metrics = {
        key: value
        for key, value in record.metrics.items()
        if key.startswith(("test/", "validation/")) and key.count("/") == 1
    }
    tags = {key: value for key, value in record.tags.items() if key in _TAGS}
    params = {key: value for key, value in record.params.items() if key in _PARAMS}
    return {_SUMMARY: json.dumps({"metrics": metrics, "tags": tags, "params": params})}


def champion_run(tracker: Tracker, champion: Version) -> RunRecord | None:
    """Return the champion's run from the tag of its version, else from the store, even if deleted;
    None if it does not exist any more."""
    if _SUMMARY not in champion.tags:
        return tracker.get(champion.run_id)
    return RunRecord(
        run_id=champion.run_id,
        name=f"version {champion.version}",
        experiment="",
        status="FINISHED",
        start=datetime.min,
        duration=None,
        _artifact=Path,
        **json.loads(champion.tags[_SUMMARY]),
    )


def _validation_data(record: RunRecord) -> tuple[str | None, ...]:
    """Identify the images that a run was validated on."""
    settings = (record.params.get(f"data.{key}") for key in VALIDATION)
    return record.tags.get("vqlab.data_fingerprint"), *settings


def _test_data(record: RunRecord) -> tuple[str, str]:
    """Identify the images that a run was tested on."""
    data = record.tags.get("vqlab.data_fingerprint", "")
    return data, record.tags["vqlab.test_fingerprint"] if validation_part(record) else ""


def validation_part(record: RunRecord) -> tuple[str | None, ...]:
    """Identify the part of the test images that validation uses; empty if it uses none."""
    if record.params.get("data.validation.source") != "test":
        return ()
    return tuple(record.params.get(f"data.{key}") for key in ("validation.fraction", "seed"))
