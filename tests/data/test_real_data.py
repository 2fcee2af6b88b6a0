"""Real photographs in VQLAB_REAL_DATA: every file is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vqlab.data import DataSettings, check_dataset, load_dataset
from vqlab.data.datasets import Counts

REAL = os.environ.get("VQLAB_REAL_DATA")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not REAL, reason="VQLAB_REAL_DATA names no folder of real images"),
]
COUNTS = {
    ("MVTec", "bottle"): Counts(209, 20, 63),
    ("MVTec", "screw"): Counts(320, 41, 119),
    ("Kolektor", "commutator"): Counts(264, 84, 52),
    ("Cookies", "cookie"): Counts(31, 14, 32),
}


@pytest.mark.parametrize(("folder", "category"), COUNTS)
def test_loads_all_images(folder: str, category: str) -> None:
    root = Path(str(REAL)) / folder
    counts = COUNTS[folder, category]
    splits = load_dataset(DataSettings(root=root, categories=category, image_size=64))
    assert len(splits.train) + len(splits.held_out) == counts.train
    batch = splits.test.batch(range(len(splits.test)))
    assert batch.labels.sum() == counts.defect and len(batch) == counts.good + counts.defect
    assert (batch.masks.flatten(1).any(dim=1) == batch.labels.bool()).all()
    assert 0.05 < batch.images.mean() < 0.95


@pytest.mark.parametrize("folder", ["MVTec", "Kolektor", "Cookies"])
def test_check_reports_no_problems(folder: str) -> None:
    report = check_dataset(Path(str(REAL)) / folder)
    assert report.errors == []
    repeated = [message for message in report.warnings if "more than once" in message]
    assert report.warnings == repeated and len(repeated) == (2 if folder == "Kolektor" else 0)
    assert {row.category: row.counts for row in report.rows} == {
        name: counts for (place, name), counts in COUNTS.items() if place == folder
    }
