"""Settings that are limited by a small set of training images."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.config import Tree, merge
from vqlab.data import load_dataset
from vqlab.detectors.vqflow import VQFlow
from vqlab.model import Model
from vqlab.run import Recording, resolve, run, trained_key
from vqlab.run.settings import TRAINED_TAG
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """vqflow with 32 prototypes on 14 normal images, 12 of them for training."""
    tree = tiny_recipe(write_tiny_set(tmp_path / "set"), epochs=1, steps_per_epoch=2)
    pattern = {"codebook_size": 8, "patches": 200, "coverage": 20}
    detector = {"name": "vqflow", "pattern": pattern, "flow": {"blocks": [2], "condition": 8}}
    return {**tree, "detector": detector, "features": {"backbone": "filters"}}


def test_fewer_images_than_prototypes(tree: Tree, tmp_path: Path, store: Tracker) -> None:
    config = resolve(tree)
    splits = load_dataset(config.data)
    images = len(splits.train)
    outcome = run(config, store, Recording(results=tmp_path / "results"))
    assert outcome.test is not None
    (note,) = [each for each in outcome.test.notes if "codebook_size" in each]
    assert note == (
        f"detector.concept.codebook_size is {images // 4} instead of 32: there are only {images} "
        "training images."
    )
    detector = Model.load(outcome.checkpoint).detector
    assert isinstance(detector, VQFlow)
    assert detector.config.concept.codebook_size == images // 4
    tags = store.find(outcome.run_id).tags
    # found by the requested settings
    assert tags[TRAINED_TAG] == trained_key(config, splits.fingerprint)


def test_trial_of_a_sweep_raises(tree: Tree, store: Tracker) -> None:
    with pytest.raises(UserError, match="32 prototypes need as many training images"):
        run(resolve(tree), store, test=False)


def test_settings_are_unchanged_with_enough_images(
    tree: Tree, tmp_path: Path, store: Tracker
) -> None:
    config = resolve(merge(tree, {"detector": {"concept": {"codebook_size": 8}}}))
    outcome = run(config, store, Recording(results=tmp_path / "results"))
    assert outcome.test is not None
    assert not [note for note in outcome.test.notes if "codebook_size" in note]
    assert outcome.model.detector.config.concept.codebook_size == 8  # type: ignore[attr-defined]
