"""Sweeps on fewer training images than a setting of the recipe or space needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_set import tiny_recipe

from vqlab.data import load_dataset
from vqlab.sweep import Event, StudyOpened, make_comparison, make_space, sweep
from vqlab.sweep.space.image_limits import limit_plan
from vqlab.sweep.study.storage import opened_storage, storage_address
from vqlab.sweep.study.studies import load_studies
from vqlab.tracking import Tracker

Tree = dict[str, Any]
pytestmark = pytest.mark.usefixtures("blank_figures")
PROTOTYPES = "detector.concept.codebook_size"


def flow(root: Path, prototypes: int) -> Tree:
    detector: Tree = {
        "name": "vqflow",
        "positions": 8,
        "pattern": {"codebook_size": 8, "dim": 16, "coverage": 20},
        "concept": {"codebook_size": prototypes, "dim": 8},
        "flow": {"blocks": [1], "hidden": 8, "condition": 8},
    }
    return {**tiny_recipe(root), "features": {"backbone": "filters"}, "detector": detector}


def test_choices_and_the_recipe_are_limited(root: Path, store: Tracker, tmp_path: Path) -> None:
    space = make_space({"validations": 0, "space": {PROTOTYPES: {"choices": [4, 32, 64]}}})
    comparison = make_comparison(space, flow(root, 32))
    images = len(load_dataset(comparison.first.config.data).train)
    assert 4 < images < 32
    events: list[Event] = []
    result = sweep(comparison, store, trials=2, on_event=events.append, results=tmp_path)
    opened = next(event for event in events if isinstance(event, StudyOpened))
    note = f"{PROTOTYPES} is one of 4, {images // 4}: there are only {images} training images."
    assert note in opened.notes
    with opened_storage(storage_address(store.root)) as storage:
        trials = load_studies(storage, opened.study).trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert trials[0].params[PROTOTYPES] == images // 4  # the recipe, as a run limits it
    assert {trial.params[PROTOTYPES] for trial in trials} <= {4, images // 4}
    again = sweep(comparison, store, trials=2, results=tmp_path)
    assert again.best.run_id == result.best.run_id


@pytest.mark.parametrize("prototypes", [4, 64])
def test_single_choices_apply_to_all_trials(root: Path, prototypes: int) -> None:
    size = {"detector.pattern.codebook_size": {"choices": [4]}}  # not the recipe's value
    space = make_space({"space": {PROTOTYPES: {"choices": [32, 64]}, **size}})
    plan = make_comparison(space, flow(root, prototypes)).first
    splits = load_dataset(plan.config.data)
    limited = limit_plan(plan, splits)
    images = len(splits.train)
    choices = {name: axis.choices for name, axis in limited.space.axes.items()}
    assert choices == {PROTOTYPES: (images // 4,), "detector.pattern.codebook_size": (4,)}
    expected = prototypes if prototypes <= images else images // 4
    assert limited.config.detector["concept"]["codebook_size"] == expected
    assert f"{PROTOTYPES} is {images // 4}: there are only {images}" in limited.note


def test_a_space_that_suits_the_images_is_unchanged(root: Path) -> None:
    space = make_space({"space": {PROTOTYPES: {"choices": [2, 4]}}})
    plan = make_comparison(space, flow(root, 4)).first
    assert limit_plan(plan, load_dataset(plan.config.data)) is plan


def test_other_detectors_are_unchanged(root: Path) -> None:
    space = make_space({"space": {"detector.codebook_size": {"choices": [8, 512]}}})
    plan = make_comparison(space, tiny_recipe(root)).first
    assert limit_plan(plan, load_dataset(plan.config.data)) is plan
