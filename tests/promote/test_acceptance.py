"""The acceptance report: its content, and escaping of names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from promotions import Train
from tiny_set import baseline_recipe

from vqlab.promote import GateSettings, promote
from vqlab.promote.acceptance.training import changed_settings
from vqlab.promote.reproduce import score_images
from vqlab.run import Outcome
from vqlab.tracking import Tracker

pytestmark = pytest.mark.usefixtures("blank_figures")
LOADED = re.compile(r"(?:src|href)=\"(?!data:image/|#)|url\(|@import|<script|<link|<iframe")
"""Markup that would load something."""


def test_report_of_a_promoted_run(
    tested: Outcome, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    result = promote(tracker, "part", ref="tested", output=tmp_path)
    assert result.report == tmp_path / "acceptance" / "part-v1.html"
    page = result.report.read_text()
    record = tracker.find("tested")
    assert page == record.artifact("acceptance/report.html").read_text()
    assert not LOADED.search(page) and "default-src 'none'" in page
    for gate in result.gates:
        assert f">{gate.name}</td>" in page
    version = tracker.registry.versions("part")[0]
    facts = (
        record.run_id, record.tags["vqlab.data_fingerprint"], record.tags["vqlab.test_fingerprint"],
        record.tags["mlflow.user"], version.tags["vqlab.checkpoint_sha256"],
        "mean_image (baseline)", "the first champion of its category", "Worst misses",
    )  # fmt: skip
    for fact in facts:
        assert fact in page
    auroc = f"{record.metrics['test/image_auroc']:.4f}"
    assert f'<td data-head="this model">{auroc}' in page
    with record.artifact("results/part/scores.csv").open(newline="") as file:
        labels = Counter(row["label"] for row in csv.DictReader(file))
    pictures = sum(min(4, count) for count in labels.values())
    assert page.count("data:image/jpeg;base64,") == pictures


def test_report_of_a_rejection_and_of_the_next_champion(
    train: Train, tracker: Tracker, tmp_path: Path
) -> None:
    promote(tracker, "part", ref=train("a", 0.9))
    rejected = promote(tracker, "part", ref=train("b", 0.8), output=tmp_path)
    assert rejected.report is not None and rejected.report.name == "part-refused.html"
    page = rejected.report.read_text()
    assert "Not promoted" in page and "below the champion&#x27;s 0.9000 (version 1)" in page
    better = promote(tracker, "part", ref=train("c", 0.95), output=tmp_path)
    assert better.report is not None
    assert "vqlab rollback -c part --to 1" in better.report.read_text()


def test_names_are_escaped(train: Train, tracker: Tracker, tmp_path: Path) -> None:
    name = '<img src=x onerror="alert(1)">|`*x*`'
    result = promote(
        tracker, "part", ref=train(name, 0.9), gates=GateSettings(code="ignore"), output=tmp_path
    )
    assert result.report is not None
    page = result.report.read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page
    stored = tracker._client.get_model_version("vqlab-part", "1").description
    assert not re.search(r"(?<!\\)<img", stored) and r"\<img src=x" in stored
    assert all(line.count("|") - line.count(r"\|") == 6 for line in stored.splitlines()[2:10])


def test_settings_that_differ_from_the_defaults(root: Path) -> None:
    changed = changed_settings(baseline_recipe(root))
    assert changed["training.epochs"] == (0, 30) and "training.seed" not in changed
    assert changed["data.image_size"][0] == 32
