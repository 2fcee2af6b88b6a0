"""Runs read by SQL agree with MLflow's search; filters of runs."""

from __future__ import annotations

import math
import time
from datetime import timedelta

import pytest
from tracked_runs import start

from vqlab.errors import UserError
from vqlab.tracking import RunRecord, Tracker
from vqlab.tracking.run_filter import Condition, RunFilter, parse_age


def comparable(run: RunRecord) -> tuple[object, ...]:
    metrics = {key: repr(value) for key, value in run.metrics.items()}
    fields = (run.run_id, run.name, run.experiment, run.status, run.start, run.duration)
    return (*fields, run.tags, run.params, metrics, run.artifact(""))


def test_rows_agree_with_mlflow(tracker: Tracker) -> None:
    for number, experiment in enumerate(("cable", "nut", "cable", "gone")):
        params = {"training.seed": number, "none": None}
        with tracker.start(experiment=experiment, name=f"r{number}", params=params) as run:
            values = {"a": 0.1 * number, "nan": math.nan, "infinite": math.inf}
            run.log_metrics(values, step=1)
            run.log_metrics({"a": 7.0 + number}, step=2)
            run.set_tags({"Tag": f"it's {number}"})
    running = start(tracker, "running")
    tracker._client.delete_run(tracker.find("r2").run_id)
    gone = tracker._client.get_experiment_by_name("gone").experiment_id
    tracker._client.delete_experiment(gone)
    expected = tracker._search("")
    assert {run.name for run in expected} == {"r0", "r1", "running"}
    assert [comparable(run) for run in tracker.runs()] == [comparable(run) for run in expected]
    by_tag = tracker.runs(tags={"Tag": "it's 1"})
    assert [run.name for run in by_tag] == ["r1"] and by_tag[0].metrics["a"] == 8.0
    assert tracker.runs(tags={"Tag": "IT'S 1"}) == []
    assert [run.name for run in tracker.runs() if run.experiment == "nut"] == ["r1"]
    running.finish()


def test_filters(tracker: Tracker) -> None:
    for number, (kind, detector) in enumerate((("train", "vqvae"), ("trial", "vqflow"))):
        tags = {"kind": kind, "detector": detector, "study": f"s{number}", "category": "cable"}
        with start(tracker, f"r{number}", **tags) as run:
            run.log_metrics({"test/image_auroc": 0.8 + number / 10})
    with pytest.raises(RuntimeError), start(tracker, "failed", "nut", category="nut"):
        raise RuntimeError

    def names(**choice: object) -> list[str]:
        return sorted(run.name for run in RunFilter(**choice).select(tracker.runs()))

    assert names() == ["failed", "r0", "r1"]
    assert names(category="cable") == ["r0", "r1"] and names(category="nut") == ["failed"]
    assert names(status="FAILED") == ["failed"] and names(kind="trial") == ["r1"]
    assert names(detector="vqvae") == ["r0"] and names(study="s1") == ["r1"]
    for text, expected in (
        ("test/image_auroc>=0.9", ["r1"]), ("test/image_auroc < 0.9", ["r0"]),
        ("test/image_auroc<=1", ["r0", "r1"]), ("test/image_auroc>0.9", []),
    ):  # fmt: skip
        assert names(conditions=[Condition.parse(text)]) == expected
    time.sleep(0.01)
    assert names(older_than=timedelta(milliseconds=1)) == ["failed", "r0", "r1"]
    assert names(older_than=parse_age("1h")) == []
    with pytest.raises(UserError, match="did you mean test/image_auroc"):
        names(conditions=[Condition.parse("test/image_aurocc>0")])
    for text in ("test/image_auroc", "test/image_auroc=1", "a>=many"):
        with pytest.raises(UserError, match="a condition must be METRIC>=NUMBER"):
            Condition.parse(text)
    for text in ("yesterday", "7", "99999999999w"):
        with pytest.raises(UserError, match="an age must be a number"):
            parse_age(text)
    with pytest.raises(UserError, match="--status must be one of RUNNING"):
        RunFilter(status="done")


@pytest.mark.parametrize(
    ("text", "hours"),
    [("90m", 1.5), ("12h", 12), ("7d", 168), ("2w", 336), ("999999w", 167_999_832)],
)
def test_ages(text: str, hours: float) -> None:
    assert parse_age(text) == timedelta(hours=hours)
