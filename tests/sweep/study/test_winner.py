"""The winner of a study: the trial with the recipe's settings unless another one is significantly
better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from vqlab.evaluation import VALIDATION_EVIDENCE, Scored, Thresholds, evaluate, save_evidence
from vqlab.pixels.resizing import Geometry
from vqlab.sweep import TrialKey
from vqlab.sweep.study.record import key_of, stored
from vqlab.sweep.study.studies import Studies
from vqlab.sweep.study.winner import MARGIN, WinnerRule
from vqlab.tracking import Tracker
from vqlab.types import ImageRecord

SIDE, IMAGES = 16, 40
OBJECTIVE = "validation/pixel_auroc"


@pytest.fixture
def tracker(new_store: Callable[[Path], Tracker], tmp_path: Path) -> Tracker:
    return new_store(tmp_path)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def scored(signal: float, noise: float = 0.0) -> Scored:
    """Return scored images, half of which have a defect that stands out by `signal`; `noise` is
    independent per image."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(IMAGES, SIDE, SIDE))
    other = np.random.default_rng(1).normal(size=(IMAGES, 1, 1))
    labels = np.arange(IMAGES) % 2
    masks = np.zeros((IMAGES, SIDE, SIDE), bool)
    masks[labels == 1, 2:8, 2:8] = True
    maps = (base + (signal + noise * other) * masks).astype(np.float32)
    records = tuple(
        ImageRecord(Path(f"{i}.png"), "toy", "hole", int(v)) for i, v in enumerate(labels)
    )
    geometry = (Geometry((SIDE, SIDE), (0, 0, SIDE, SIDE)),) * IMAGES
    return Scored(list(maps), maps.max((1, 2)), labels, list(masks), records, geometry)


def add(
    study: optuna.Study,
    tracker: Tracker,
    folder: Path,
    images: Scored | None,
    recipe: str = "",
    metric: str = "pixel_auroc",
    **attributes: object,
) -> float:
    """Add a complete trial; without images, its run has no evidence."""
    run = tracker.start(experiment="toy", name="trial", tags={}, params={})
    value = 0.99
    if images is not None:
        report = evaluate(images, Thresholds(0.0, 0.0), keep_evidence=True)
        value = report.mean[metric]
        save_evidence(report, folder / "evidence.npz")
        run.log_artifact(folder / "evidence.npz", str(Path(VALIDATION_EVIDENCE).parent))
    attributes |= {"recipe": recipe} if recipe else {}
    attrs = stored(run_id=run.id, **attributes)
    study.add_trial(optuna.create_trial(value=value, user_attrs=attrs))
    return value


def as_studies(study: optuna.Study) -> Studies:
    return Studies(study.study_name, {"": study})


def winner(rule: WinnerRule, recipe: str | None = None) -> int | None:
    trial = rule.winner(recipe)
    return trial.number if trial else None


def test_without_trials_there_is_no_winner(study: optuna.Study, tracker: Tracker) -> None:
    rule = WinnerRule(as_studies(study), tracker, OBJECTIVE)
    assert rule.winner() is None and rule.reason() == ""


def test_insignificantly_better_trial_does_not_replace_the_recipe(
    study: optuna.Study, tracker: Tracker, tmp_path: Path
) -> None:
    recipe_value = add(study, tracker, tmp_path, scored(1.0), as_in_recipe=True)
    other = add(study, tracker, tmp_path, scored(1.05, noise=0.4))
    assert other > recipe_value
    rule = WinnerRule(as_studies(study), tracker, OBJECTIVE)
    assert winner(rule) == 0 and rule.not_clearly_better() == {TrialKey("", 1)}
    assert (
        "keeps the recipe's own settings: no other trial is clearly better" in rule.reason()
        and f"{other - recipe_value:+.4f}" in rule.reason()
    )


def test_significantly_better_trial_replaces_the_recipe(
    study: optuna.Study, tracker: Tracker, tmp_path: Path
) -> None:
    recipe_value = add(study, tracker, tmp_path, scored(1.0), as_in_recipe=True)
    better = add(study, tracker, tmp_path, scored(2.0))
    rule = WinnerRule(as_studies(study), tracker, OBJECTIVE)
    assert winner(rule) == 1 and not rule.not_clearly_better()
    assert "clearly better than trial 0" in rule.reason()
    assert f"{better - recipe_value:+.4f}" in rule.reason()


def test_lower_is_better_in_a_minimized_study(tracker: Tracker, tmp_path: Path) -> None:
    study = optuna.create_study(direction="minimize")
    add(study, tracker, tmp_path, scored(2.0), as_in_recipe=True)
    add(study, tracker, tmp_path, scored(1.0))
    assert winner(WinnerRule(as_studies(study), tracker, OBJECTIVE)) == 1


def test_recipes_are_compared_by_their_winners(tracker: Tracker, tmp_path: Path) -> None:
    studies = {recipe: optuna.create_study(direction="maximize") for recipe in ("a", "b")}
    add(studies["a"], tracker, tmp_path, scored(1.0), "a", as_in_recipe=True)
    add(studies["b"], tracker, tmp_path, scored(1.02), "b", as_in_recipe=True)
    add(studies["a"], tracker, tmp_path, scored(1.05, noise=0.4), "a")
    rule = WinnerRule(Studies("both", studies), tracker, OBJECTIVE)
    keys = [str(key_of(trial)) for trial in map(rule.winner, (None, "a", "b")) if trial]
    assert keys == ["b:0", "a:0", "b:0"]
    assert rule.not_clearly_better() == {TrialKey("a", 1)}
    settings_won, comparisons = (
        "Trial b:0 has the recipe's own settings.",
        rule.recipe_comparisons(),
    )
    assert rule.reason().startswith(f"{settings_won} Recipe b is better than a (trial a:0: -")
    assert comparisons.keys() == {"a"} and comparisons["a"].distinguishable


def comparison_of(tracker: Tracker, folder: Path, images: dict[str, Scored | None]) -> WinnerRule:
    """Return a comparison of recipes with one trial each, in this order."""
    studies = {recipe: optuna.create_study(direction="maximize") for recipe in images}
    for recipe, each in images.items():
        add(studies[recipe], tracker, folder, each, recipe, as_in_recipe=True)
    return WinnerRule(Studies("both", studies), tracker, OBJECTIVE)


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_first_of_indistinguishable_recipes_wins(
    tracker: Tracker, tmp_path: Path, names: str
) -> None:
    images = {"a": scored(1.0), "b": scored(1.05, noise=0.4)}  # b has the better value
    rule = comparison_of(tracker, tmp_path, {name: images[name] for name in names})
    first, other = names
    best = rule.winner()
    assert best is not None and key_of(best) == TrialKey(first, 0)
    (comparison,) = rule.recipe_comparisons().values()
    assert comparison.trial == TrialKey(other, 0) and not comparison.distinguishable
    assert comparison.difference is not None and comparison.difference.interval is not None
    assert (comparison.difference.value > 0) == (other == "b")
    low, high = comparison.difference.interval
    assert low < 0 < high and f"[{low:+.4f}, {high:+.4f}]" in comparison.difference_text
    warning = f"Warning: validation cannot tell recipe {first} from {other} (trial {other}:0: "
    assert warning in rule.reason()


def test_significantly_worse_recipe_does_not_win(tracker: Tracker, tmp_path: Path) -> None:
    """The first of the two best recipes wins, although a worse one precedes it."""
    images = {"a": scored(1.0), "b": scored(2.0), "c": scored(2.02, noise=0.4)}
    rule = comparison_of(tracker, tmp_path, images)
    best = rule.winner()
    assert best is not None and key_of(best) == TrialKey("b", 0)
    distinguishable = {
        recipe: each.distinguishable for recipe, each in rule.recipe_comparisons().items()
    }
    assert distinguishable == {"a": True, "c": False}


def test_half_a_point_on_synthetic_anomalies_is_not_a_difference(
    tracker: Tracker, tmp_path: Path
) -> None:
    first = synthetic(scored(1.0), 4, {})
    second = synthetic(scored(1.0), 4, dict.fromkeys(range(4), 0.01))
    rule = comparison_of(tracker, tmp_path, {"a": first, "b": second})
    best = rule.winner()
    assert best is not None and key_of(best) == TrialKey("a", 0)


def test_recipe_without_evidence_is_compared_by_its_value(tracker: Tracker, tmp_path: Path) -> None:
    rule = comparison_of(tracker, tmp_path, {"a": scored(1.0), "b": None})
    best, comparison = rule.winner(), rule.recipe_comparisons()["a"]
    assert best is not None and key_of(best) == TrialKey("b", 0)
    assert comparison.distinguishable and comparison.difference is None
    assert comparison.difference_text == comparison.verdict == ""


def test_recipe_whose_trials_violate_a_constraint_does_not_win(
    tracker: Tracker, tmp_path: Path
) -> None:
    studies = {recipe: optuna.create_study(direction="maximize") for recipe in ("a", "b")}
    constraint = "cost/parameters 9 > 5"
    add(studies["a"], tracker, tmp_path, scored(2.0), "a", as_in_recipe=True, violation=constraint)
    add(studies["b"], tracker, tmp_path, scored(1.0), "b", as_in_recipe=True)
    rule = WinnerRule(Studies("both", studies), tracker, OBJECTIVE)
    best = rule.winner()
    assert best is not None and key_of(best) == TrialKey("b", 0) and not rule.recipe_comparisons()


def test_few_validation_images_are_not_significant(
    study: optuna.Study, tracker: Tracker, tmp_path: Path
) -> None:
    add(study, tracker, tmp_path, scored(1.0).take(range(6)), as_in_recipe=True)
    add(study, tracker, tmp_path, scored(4.0).take(range(6)))
    rule = WinnerRule(as_studies(study), tracker, OBJECTIVE)
    assert winner(rule) == 0
    assert "without a 95 % interval: resampling needs at least 5 normal" in rule.reason()


@pytest.mark.parametrize(("images", "chosen"), [(6, 0), (IMAGES, 1)])
def test_constant_difference_of_few_images_is_not_significant(
    tracker: Tracker, tmp_path: Path, images: int, chosen: int
) -> None:
    """All defects escape, or none does, in every resample: significant with 20 images, not with
    3."""
    study = optuna.create_study(direction="minimize")
    some = scored(1.0).take(range(images))
    missed = replace(some, image_scores=-np.ones(images))
    add(study, tracker, tmp_path, missed, metric="escape_rate", as_in_recipe=True)
    better = replace(some, image_scores=some.labels - 0.5)
    add(study, tracker, tmp_path, better, metric="escape_rate")
    rule = WinnerRule(as_studies(study), tracker, "validation/escape_rate")
    assert winner(rule) == chosen


def test_trials_without_evidence_are_compared_by_value(
    study: optuna.Study, tracker: Tracker, tmp_path: Path
) -> None:
    add(study, tracker, tmp_path, scored(1.0), as_in_recipe=True)
    add(study, tracker, tmp_path, None)
    assert winner(WinnerRule(as_studies(study), tracker, OBJECTIVE)) == 1


def test_reused_training_is_evaluated_by_the_first_trial(
    study: optuna.Study, tracker: Tracker, tmp_path: Path
) -> None:
    add(study, tracker, tmp_path, scored(1.0), as_in_recipe=True)
    add(study, tracker, tmp_path, None, same_as=0)
    assert winner(WinnerRule(as_studies(study), tracker, OBJECTIVE)) == 0


def test_trial_replaces_a_recipe_with_a_dead_codebook(
    study: optuna.Study, tracker: Tracker, tmp_path: Path
) -> None:
    add(study, tracker, tmp_path, scored(1.0), as_in_recipe=True, dead_codebook="dead")
    add(study, tracker, tmp_path, scored(0.9))
    assert winner(WinnerRule(as_studies(study), tracker, OBJECTIVE)) == 1


def synthetic(images: Scored, kinds: int, gain: dict[int, float]) -> Scored:
    """Assign kinds to the anomalies in turn; those of the affected kinds stand out more by
    `gain`."""
    records, maps, number = list(images.records), list(images.maps), 0
    for place, record in enumerate(images.records):
        if images.labels[place]:
            kind = number % kinds
            records[place] = replace(record, defect=f"drawn_{kind}")
            maps[place] = maps[place] + np.float32(gain.get(kind, 0.0)) * images.masks[place]
            number += 1
    return replace(images, records=tuple(records), maps=maps)


@pytest.mark.parametrize(
    ("gain", "chosen"), [({0: 2.0, 1: -0.1}, 0), ({0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}, 1)]
)
def test_gain_on_one_kind_of_anomaly_is_not_significant(
    study: optuna.Study, tracker: Tracker, tmp_path: Path, gain: dict[int, float], chosen: int
) -> None:
    """A trial that detects one of four kinds better may be better at that kind only."""
    add(study, tracker, tmp_path, synthetic(scored(1.0), 4, {}), as_in_recipe=True)
    add(study, tracker, tmp_path, synthetic(scored(1.0), 4, gain))
    rule = WinnerRule(as_studies(study), tracker, OBJECTIVE)
    assert winner(rule) == chosen
    difference = rule.differences()[TrialKey("", 1)]
    assert difference.value > 0 and difference.interval is not None
    warning = "Warning: validation cannot tell 1 of 1 other trials from the recipe's own"
    assert (warning in rule.reason()) == (chosen == 0)


def test_gain_is_significant_without_kinds(
    study: optuna.Study, tracker: Tracker, tmp_path: Path
) -> None:
    """The same maps with real defects of one type: the trial is better in every resample."""
    add(study, tracker, tmp_path, scored(1.0), as_in_recipe=True)
    better = replace(scored(1.0), maps=synthetic(scored(1.0), 4, {0: 2.0, 1: -0.1}).maps)
    add(study, tracker, tmp_path, better)
    assert winner(WinnerRule(as_studies(study), tracker, OBJECTIVE)) == 1


def test_gain_below_half_a_point_on_synthetic_anomalies_keeps_the_recipe(
    study: optuna.Study, tracker: Tracker, tmp_path: Path
) -> None:
    every = dict.fromkeys(range(4), 0.01)
    add(study, tracker, tmp_path, synthetic(scored(1.0), 4, {}), as_in_recipe=True)
    add(study, tracker, tmp_path, synthetic(scored(1.0), 4, every))
    rule = WinnerRule(as_studies(study), tracker, OBJECTIVE)
    difference = rule.differences()[TrialKey("", 1)]
    assert difference.interval is not None and 0 < difference.interval.low < MARGIN
    assert winner(rule) == 0


@pytest.mark.parametrize("opposed", [False, True])
def test_kinds_with_different_rankings_give_a_warning(
    study: optuna.Study, tracker: Tracker, tmp_path: Path, opposed: bool
) -> None:
    for step in range(5):
        gain = {0: 0.1 * step, 1: -0.1 * step if opposed else 0.1 * step}
        images = synthetic(scored(1.0), 2, gain)
        add(study, tracker, tmp_path, images, as_in_recipe=step == 0)
    reason = WinnerRule(as_studies(study), tracker, OBJECTIVE).reason()
    warning = (
        "kinds of synthetic anomalies rank the trials differently (mean rank correlation -1.00"
    )
    assert (warning in reason) == opposed
