"""Search of scoring settings without retraining, and reuse of identical trainings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_set import tiny_recipe

from vqlab.config import flatten, merge
from vqlab.data import load_dataset
from vqlab.evaluation import evaluate, extract_images, score_extracted
from vqlab.model import Model
from vqlab.run import calibrate_and_assess, make_trainer, resolve, run
from vqlab.sweep import SweepResult, make_comparison, make_space, sweep
from vqlab.sweep.space.compile import plan
from vqlab.sweep.trial import scoring_search
from vqlab.sweep.trial.scoring_search import search_scoring
from vqlab.tracking import Tracker
from vqlab.training import choose_device
from vqlab.types import UserError

Tree = dict[str, Any]
pytestmark = pytest.mark.usefixtures("blank_figures")
SCORING: Tree = {
    "detector.scoring.terms": {"choices": [["error", "context"], ["error"], ["neighbours"]]},
    "detector.scoring.code_smoothing": {"low": 0.02, "high": 0.2},
    "detector.scoring.error": {"choices": ["plain", "relative"]},
}
SIZES: Tree = {"detector.codebook_size": {"choices": [8, 16]}}


@pytest.fixture(scope="module")
def tree(root: Path) -> Tree:
    return tiny_recipe(root)


@pytest.fixture
def tracker(new_store: Callable[[Path], Tracker], tmp_path: Path) -> Tracker:
    return new_store(tmp_path)


def trained_model(tree: Tree) -> tuple[Model, Any, Any]:
    config = resolve(tree)
    splits = load_dataset(config.data)
    trainer = make_trainer(config, splits, choose_device(config.training))
    trainer.fit(lambda epoch, metrics: None)
    return calibrate_and_assess(config, trainer, splits, "none")[0], config, splits


def run_sweep(tree: Tree, tracker: Tracker, trials: int, axes: Tree, **more: Any) -> SweepResult:
    space = make_space({"space": axes, "validations": 0, **more})
    return sweep(
        make_comparison(space, tree), tracker, trials=trials, results=tracker.root / "results"
    )


def test_axes_are_split_into_training_and_scoring(tree: Tree) -> None:
    axes = {**SIZES, **SCORING, "detector.scoring.context_steps": {"choices": [2, 3]}}
    checked = plan(make_space({"space": axes}), tree)
    assert set(checked.scoring) == set(SCORING)
    assert set(checked.sampled) == {"detector.codebook_size", "detector.scoring.context_steps"}
    without = merge(tree, {"detector": {"scoring": {"terms": ["error"]}}})
    later = plan(make_space({"space": SCORING}), without)
    assert "detector.scoring.terms" in later.sampled, (
        "a prior that was not fitted requires training"
    )


def test_image_score_is_not_searched_on_synthetic_anomalies(tree: Tree, root: Path) -> None:
    axes = {"detector.scoring.image_score": {"choices": ["max", "top"]}}
    with pytest.raises(UserError, match="data.validation.source=test"):
        plan(make_space({"space": axes}), tree)
    real = merge(tree, {"data": {"validation": {"source": "test", "fraction": 0.5}}})
    assert set(plan(make_space({"space": axes}), real).image_scoring) == set(axes)


def test_rescoring_equals_scoring_after_calibration(tree: Tree) -> None:
    """Scores with other settings, computed from stored outputs, equal those of a detector that was
    calibrated with these settings."""
    model, config, splits = trained_model(tree)
    checked = plan(make_space({"space": SCORING, "scorings": 6}), tree)
    candidates = search_scoring(model, splits, config, checked, seed=0)
    assert set(candidates.chosen) == set(SCORING) and 6 <= candidates.evaluated <= 7
    other, _, _ = trained_model(candidates.tree)
    direct = other.score_set(splits.validation)
    np.testing.assert_array_equal(np.stack(candidates.scored.maps), np.stack(direct.maps))
    np.testing.assert_array_equal(candidates.scored.image_scores, direct.image_scores)


def test_selected_candidate_is_the_best(tree: Tree) -> None:
    model, config, splits = trained_model(tree)
    axes = {"detector.scoring.terms": SCORING["detector.scoring.terms"]}
    checked = plan(make_space({"space": axes}), tree)
    candidates = search_scoring(model, splits, config, checked, seed=0)
    values = {}
    for terms in axes["detector.scoring.terms"]["choices"]:
        single, _, _ = trained_model(merge(tree, {"detector": {"scoring": {"terms": terms}}}))
        report = evaluate(single.score_set(splits.validation), single.thresholds)
        values[tuple(terms)] = report.mean["pixel_auroc"]
    assert candidates.evaluated == 3
    best = max(values, key=lambda terms: values[terms])
    assert tuple(candidates.chosen["detector.scoring.terms"]) == best
    assert candidates.rules == {"detector.scoring.terms": "validation/pixel_auroc"}


@pytest.mark.parametrize(("margin", "stays"), [(0.0, False), (1.0, True)])
def test_scoring_of_the_recipe_is_replaced_only_by_a_clearly_better_one(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, margin: float, stays: bool
) -> None:
    monkeypatch.setattr(scoring_search, "MARGIN", margin)
    smoothed = {**tree, "training": {"epochs": 0, "device": "cpu"}}
    # far above the margin
    smoothed["detector"] = {"name": "mean_image", "scoring": {"smoothing": 0.25}}
    model, config, splits = trained_model(smoothed)
    before = evaluate(model.score_set(splits.validation), model.thresholds)
    axis = {"detector.scoring.smoothing": {"low": 0.05, "high": 0.25}}
    checked = plan(make_space({"space": axis, "scorings": 6}), smoothed)
    candidates = search_scoring(model, splits, config, checked, seed=0)
    after = evaluate(candidates.scored, model.thresholds).mean["pixel_auroc"]
    assert (candidates.chosen == {"detector.scoring.smoothing": 0.25}) == stays
    assert (after == before.mean["pixel_auroc"]) == stays
    assert after >= before.mean["pixel_auroc"]
    (rule,) = candidates.rules.values()
    assert rule == (scoring_search.UNCHANGED if stays else "validation/pixel_auroc")


def test_no_margin_is_required_on_real_defects(
    tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_search, "MARGIN", 1.0)
    smoothed = merge(tree, {"detector": {"scoring": {"code_smoothing": 0.02}}})
    smoothed = merge(smoothed, {"data": {"validation": {"source": "test", "fraction": 0.5}}})
    model, config, splits = trained_model(smoothed)
    axis = {"detector.scoring.code_smoothing": {"low": 0.02, "high": 0.2}}
    checked = plan(make_space({"space": axis, "scorings": 6}), smoothed)
    candidates = search_scoring(model, splits, config, checked, seed=0)
    assert candidates.rules == {"detector.scoring.code_smoothing": "validation/pixel_auroc"}


def test_scores_from_stored_outputs_equal_direct_scores(tree: Tree) -> None:
    model, _, splits = trained_model(tree)
    extracted = extract_images(model.detector, model.features(splits.validation))
    once, direct = score_extracted(model.detector, extracted), model.score_set(splits.validation)
    np.testing.assert_array_equal(np.stack(once.maps), np.stack(direct.maps))
    np.testing.assert_array_equal(once.image_scores, direct.image_scores)
    assert (once.labels == direct.labels).all() and once.records == direct.records


def test_trial_searches_and_stores_its_scoring(
    tree: Tree, tracker: Tracker, epochs: list[int]
) -> None:
    result = run_sweep(tree, tracker, 2, {**SIZES, **SCORING}, scorings=5)
    assert epochs == [1, 2] * 2, "one training per trial"
    record = tracker.find(str(result.best.run_id))
    assert record.tags["vqlab.chosen_by.detector.scoring.terms"] == "validation/pixel_auroc"
    model = Model.load(record.checkpoint(), "cpu")
    config = flatten(model.meta["config"])
    for setting in SCORING:
        assert result.best.params[setting] == config[setting]
    splits = load_dataset(resolve(tree).data)
    repeated = evaluate(model.score_set(splits.validation), model.thresholds)
    assert repeated.mean["pixel_auroc"] == result.best.value
    trained = resolve(tree)
    assert trained.detector["scoring"] != resolve(model.meta["config"]).detector["scoring"]


def test_identical_training_is_reused_within_a_study(
    tree: Tree, tracker: Tracker, epochs: list[int]
) -> None:
    result = run_sweep(tree, tracker, 5, SIZES)
    assert len(epochs) == 4, "two sizes with two epochs each"
    assert [row.state for row in result.trials] == ["COMPLETE"] * 5
    by_size: dict[int, set[float | None]] = {}
    for row in result.trials:
        by_size.setdefault(row.params["detector.codebook_size"], set()).add(row.value)
    assert all(len(values) == 1 for values in by_size.values())
    reused = [row for row in result.trials if row.reused]
    assert len(reused) == 3 and result.saved > 0
    tags = tracker.find(str(reused[0].run_id)).tags
    source = next(row for row in result.trials if reused[0].reused == f"trial {row.number}")
    assert tags["vqlab.reused"] == reused[0].reused and not source.reused
    assert float(tags["vqlab.seconds_saved"]) == pytest.approx(source.seconds, abs=0.01)
    seconds_saved = float(tracker.find(result.parent_id).tags["vqlab.seconds_saved"])
    assert seconds_saved == pytest.approx(result.saved)
    assert not result.best.reused and tracker.find(str(result.best.run_id)).checkpoint().exists()


def test_checkpoint_is_reused_by_a_later_study(
    tree: Tree, tracker: Tracker, epochs: list[int]
) -> None:
    trained = run(resolve(tree), tracker, test=False)
    assert epochs == [1, 2]
    result = run_sweep(tree, tracker, 1, {**SIZES, **SCORING}, scorings=4)
    assert epochs == [1, 2], "already trained by `train`"
    (row,) = result.trials
    before, now = tracker.find(trained.run_id).tags, tracker.find(str(row.run_id))
    assert row.training_reused and row.reused == f"run {trained.run_id}" and row.state == "COMPLETE"
    assert now.tags["vqlab.reused"] == row.reused
    assert now.tags["vqlab.seconds_saved"] == before["vqlab.training_seconds"]
    assert now.checkpoint().exists()
    other = merge(tree, {"training": {"seed": 1}})
    run_sweep(other, tracker, 1, {**SIZES, **SCORING}, scorings=4)
    assert epochs == [1, 2, 1, 2], "another seed requires another training"


@pytest.mark.parametrize("searched", [{}, {"detector.scoring.error": {"choices": ["relative"]}}])
def test_reused_checkpoint_is_scored_with_the_settings_of_the_trial(
    searched: Tree, tree: Tree, tracker: Tracker
) -> None:
    """Neither maps nor normalization of the original run are used."""
    expected_tree = merge(
        tree, {"detector": {"scoring": {"terms": ["error"], "error_smoothing": 0.1}}}
    )
    plain, _, splits = trained_model(expected_tree)
    run(resolve(tree), tracker, test=False)
    (row,) = run_sweep(expected_tree, tracker, 1, {**SIZES, **searched}).trials
    assert row.reused.startswith("run ")
    model = Model.load(tracker.find(str(row.run_id)).checkpoint(), "cpu")
    expected, result = plain.score_set(splits.validation), model.score_set(splits.validation)
    np.testing.assert_allclose(np.stack(result.maps), np.stack(expected.maps), rtol=1e-5, atol=1e-6)
    assert row.value == evaluate(result, model.thresholds).mean["pixel_auroc"]
