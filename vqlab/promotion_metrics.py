"""What a promotion compares: which metric decides, and its values on the same images."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from vqlab.errors import UserError
from vqlab.metrics import OBJECTIVES, PRIMARY
from vqlab.tracking import RunRecord, Tracker, Version

FIRST = tuple(f"test/{name}" for name in PRIMARY)
"""Of these the first that both have decides where none is asked for."""
WITHOUT_TEST = "validation/pixel_auroc"
"""What decides where there are no test images."""
NO_IMAGES = hashlib.sha256(b"").hexdigest()
"""Fingerprint of an empty test set."""
VALIDATION = ("held_out", "seed", "synthetic_defects", "image_size", "validation.source")
"""Settings of section `data` that decide what validation is made of."""

_MEMORY = "vqlab.run"
"""Tag of a version: what is compared of its run, JSON."""
_COMPARED = ("test/", "validation/")
_TAGS = ("vqlab.data_fingerprint", "vqlab.test_fingerprint", "vqlab.validation")
_PARAMS = (*VALIDATION, "validation.fraction")


def require_metric(metric: str, without_test: bool) -> None:
    """Raise UserError for a metric that must not decide."""
    wanted = "validation" if without_test else "test"
    split, _, name = metric.partition("/")
    if split != wanted or name not in OBJECTIVES:
        known = ", ".join(f"{wanted}/{name}" for name in OBJECTIVES)
        of = " without test images" if without_test else ""
        raise UserError(f"a promotion's metric{of} must be one of {known}; got {metric!r}.")


def require_test(record: RunRecord, without_test: bool) -> None:
    """Raise UserError unless there are test images, or it was asked to go without them."""
    empty = record.tags.get("vqlab.test_fingerprint") == NO_IMAGES
    if empty and not without_test:
        raise UserError(
            f"run {record.short} must be measured on real test images to be promoted; its data "
            "have none, and synthetic anomalies do not say how many real defects escape; add test "
            "images (test/good and test/<defect>, or --bad beside --good) and train again, or "
            f"accept that with --without-test, which compares {WITHOUT_TEST}."
        )
    if without_test and not empty:
        raise UserError(
            f"--without-test must be for data without test images; those of run {record.short} "
            "have some; leave it out."
        )


def in_both(record: RunRecord, values: Mapping[str, float]) -> str:
    """The metric that decides where none is asked for. Raises UserError where the test set gives
    none."""
    own = [name for name in FIRST if math.isfinite(record.metrics.get(name, math.nan))]
    if own:
        return next((name for name in own if name in values), own[0])
    there = [f"test/{name}" for name in OBJECTIVES if f"test/{name}" in record.metrics]
    raise UserError(
        f"run {record.short} must have one of {', '.join(FIRST)} to be compared; its test "
        "set lacks normal images or defects; add them and train again, or name what decides with "
        f"--metric ({', '.join(there) or 'there is nothing'})."
    )


def value_of(record: RunRecord, metric: str) -> float:
    """The run's value of a metric. Raises UserError where it has none."""
    value = record.metrics.get(metric, math.nan)
    if not math.isfinite(value):
        there = [f"test/{name}" for name in OBJECTIVES if f"test/{name}" in record.metrics]
        have = f"; it has {', '.join(there)}" if there else ""
        raise UserError(
            f"run {record.short} has no {metric}: it is undefined on its images{have}; choose "
            "another with --metric."
        )
    return value


def values_of(tracker: Tracker, present: Version, record: RunRecord) -> dict[str, float]:
    """The champion's metrics on the run's images: by its own run, or `vqlab evaluate` since, which
    is the newer."""
    champion = champion_run(tracker, present)
    values: dict[str, float] = {}
    runs = tracker.runs(tags={"vqlab.model_run": present.run_id})
    for run in [*runs, *([champion] if champion else [])]:
        if _tested_on(run) == _tested_on(record):
            values = {k: v for k, v in run.metrics.items() if k.startswith("test/")} | values
    if champion and _validated_on(champion) == _validated_on(record):
        values |= {k: v for k, v in champion.metrics.items() if k.startswith("validation/")}
    return values


def memory(record: RunRecord) -> dict[str, str]:
    """What a version remembers of its run, which somebody may delete: a tag of the version."""
    metrics = {k: v for k, v in record.metrics.items() if k.startswith(_COMPARED)}
    tags = {k: v for k, v in record.tags.items() if k in _TAGS}
    params = {k: v for k, v in record.params.items() if k.startswith("data.")}
    params = {k: v for k, v in params.items() if k.removeprefix("data.") in _PARAMS}
    flat = {k: v for k, v in metrics.items() if k.count("/") == 1}
    return {_MEMORY: json.dumps({"metrics": flat, "tags": tags, "params": params})}


def champion_run(tracker: Tracker, present: Version) -> RunRecord | None:
    """The champion's run as its version remembers it, else as it is stored, deleted or not; None
    where nothing of it is left."""
    if _MEMORY not in present.tags:
        return tracker.stored(present.run_id)
    known = json.loads(present.tags[_MEMORY])
    return RunRecord(
        run_id=present.run_id,
        name=f"version {present.version}",
        experiment="",
        status="FINISHED",
        start=datetime.min,
        duration=None,
        _artifact=Path,
        **known,
    )


def _validated_on(record: RunRecord) -> tuple[str | None, ...]:
    """What decides which images a run was validated on."""
    settings = (record.params.get(f"data.{key}") for key in VALIDATION)
    return record.tags.get("vqlab.data_fingerprint"), *settings


def _tested_on(record: RunRecord) -> tuple[str, str]:
    """The fingerprints of a run's data, and of its test images where they are not all there are."""
    data = record.tags.get("vqlab.data_fingerprint", "")
    return data, record.tags["vqlab.test_fingerprint"] if taken_by(record) else ""


def taken_by(record: RunRecord) -> tuple[str | None, ...]:
    """What decides which test images validation took; empty where it took none (and in runs
    recorded before it could)."""
    if record.params.get("data.validation.source") != "test":
        return ()
    return tuple(record.params.get(f"data.{key}") for key in ("validation.fraction", "seed"))
