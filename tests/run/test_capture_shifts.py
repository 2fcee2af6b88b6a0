"""Capture shifts in a run: training, thresholds, and the table of errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.config import merge
from vqlab.data import load_dataset
from vqlab.evaluation import ShiftTable
from vqlab.features import FeatureSet
from vqlab.run import SHIFT_TABLE, Outcome, Recording, calibrate, resolve, run
from vqlab.tracking import Tracker

pytestmark = pytest.mark.usefixtures("blank_figures")
SHIFTED = {
    "data": {"shifts": ["noise", "gain"]},
    "detector": {"name": "mean_image"},
    "training": {"epochs": 0},
    "evaluation": {"shifts": 3},
}


@pytest.fixture(scope="module")
def outcome(store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("shifts")
    tree = {**tiny_recipe(write_tiny_set(folder)), "detector": {}}
    return run(resolve(merge(tree, SHIFTED)), store, Recording(results=folder / "results"))


def test_threshold_is_valid_under_each_shift(outcome: Outcome) -> None:
    """The threshold is the maximum of those from the held-out images under each shift."""
    model, splits = outcome.model, load_dataset(outcome.model.data)
    sets = [splits.held_out, *splits.shifted_normals]
    highest = [float(model.score_set(images).image_scores.max()) for images in sets]
    assert model.thresholds.image == max(highest) > highest[0]
    assert model.thresholds.calibration is not None
    assert model.thresholds.calibration.count == len(splits.held_out)


def test_errors_under_shifts_are_logged(outcome: Outcome, store: Tracker) -> None:
    record = store.find(outcome.run_id)
    table = ShiftTable.from_json(json.loads(record.artifact(SHIFT_TABLE).read_text()))
    assert (table.normals, table.anomalies, len(table.rows)) == (3, 3, 17)
    assert table.trained == ("noise", "gain")
    assert {k: v for k, v in record.metrics.items() if k.startswith("shift/")} == table.metrics
    test = load_dataset(outcome.model.data).test
    rejected = [outcome.model.score(r.path).defect for r in test.records if r.label == 0]
    assert table.rows[0].false_rejects == sum(np.array(rejected)[[0, 1, 2]])


def test_shifted_copies_are_in_the_same_part_as_their_image(outcome: Outcome) -> None:
    """An image and its copies are either all held out or all used for training."""
    splits = load_dataset(outcome.model.data)
    parts: list[set[Path]] = []

    class Recorder:
        def eval(self) -> None: ...

        def calibrate(self, train: FeatureSet, held_out: FeatureSet, effort: float) -> None:
            for part in (train, held_out):
                parts.append({record.path for record in part.images.records})
                assert len(part) == 2 * len(parts[-1])

    features = FeatureSet(splits.train, outcome.model.backbone)
    calibrate(Recorder(), features)  # type: ignore[arg-type]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) * 2 == len(splits.train)
