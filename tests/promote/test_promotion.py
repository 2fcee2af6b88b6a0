"""Promotion: accepted and rejected runs, with reasons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from promotions import METRIC, Train, champion
from tiny_set import baseline_recipe, write_tiny_set

from vqlab.config import merge, nest
from vqlab.predict import load_model
from vqlab.promote import GateSettings, promote, rollback
from vqlab.promote.reproduce import score_images
from vqlab.run import Outcome
from vqlab.sweep import make_comparison, make_space, sweep
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")
ESCAPES = GateSettings(metric="test/escape_rate")


def test_better_run_is_promoted_and_worse_run_rejected(train: Train, tracker: Tracker) -> None:
    first, worse, better = train("a", 0.95), train("b", 0.94), train("c", 0.97)
    result = promote(tracker, "part", ref=first)
    assert (result.promoted, result.version, champion(tracker)) == (True, 1, 1)
    assert "the first champion" in result.reason
    with pytest.raises(UserError, match=r"choose one with --category \(part\)"):
        load_model("champion", None, tracker.root)
    refused = promote(tracker, "part", ref=worse)
    assert not refused.promoted and not refused.is_champion and champion(tracker) == 1
    assert "is 0.9400, below the champion's 0.9500 (version 1)" in refused.reason
    unchanged = train("d", 0.95)
    assert (
        "equal to the champion's" in promote(tracker, "part", ref=unchanged).reason
        and champion(tracker) == 1
    )
    two = promote(tracker, "part", ref=better)
    assert (two.promoted, two.version, champion(tracker)) == (True, 2, 2)
    assert two.champion_value == 0.95 and two.value == 0.97
    repeated = promote(tracker, "part", ref=better)
    assert not repeated.promoted and repeated.is_champion and champion(tracker) == 2
    assert len(tracker.registry.versions("part")) == 2
    rolled_back = rollback(tracker, "part")
    assert (rolled_back.version, rolled_back.run_id) == (1, first) and champion(tracker) == 1
    tags = {v.version: v.tags for v in tracker.registry.versions("part")}
    assert "vqlab.rolled_back_at" in tags[2] and tags[2]["vqlab.rolled_back_to"] == "1"
    assert "vqlab.restored_at" in tags[1]
    assert tags[2]["vqlab.promoted_from"] == better and tags[2]["vqlab.metric_value"] == "0.97"
    assert (
        tags[2]["vqlab.champion_value"] == "0.95" and "replaces version" in tags[2]["vqlab.reason"]
    )
    returned = promote(tracker, "part", ref=better)
    assert returned.version == 2 and champion(tracker) == 2


def test_without_a_study_candidates_are_listed(train: Train, tracker: Tracker) -> None:
    with pytest.raises(UserError, match="no run to promote; run a sweep first"):
        promote(tracker, "socket")
    tag = {"vqlab__category": "listed"}
    low, high, without = (train(n, v, **tag) for n, v in (("a", 0.8), ("b", 0.9), ("c", None)))
    with pytest.raises(UserError, match=r"no finished study .*choose one of its runs") as error:
        promote(tracker, "listed")
    lines = str(error.value).splitlines()[1:]
    assert [line.split()[:3] for line in lines] == [
        [high[:12], METRIC, "0.9000"],
        [low[:12], METRIC, "0.8000"],
        [without[:12], METRIC, "not"],
    ]
    with pytest.raises(UserError, match=r"did you mean listed\?"):
        promote(tracker, "lisetd")


def test_model_of_another_category_is_rejected(tested: Outcome, tracker: Tracker) -> None:
    for reference in ("tested", str(tested.checkpoint)):
        with pytest.raises(UserError, match="must be trained on other; it was trained on part"):
            load_model(reference, "other", tracker.root)
        assert load_model(reference, "part", tracker.root).category == "part"
        assert load_model(reference, None, tracker.root).category == "part"


def test_misspelt_champion_is_suggested(train: Train, tracker: Tracker) -> None:
    promote(tracker, "part", ref=train("a", 0.9))
    with pytest.raises(UserError, match=r"'prat' has no champion; did you mean part\?"):
        load_model("champion", "prat", tracker.root)
    with pytest.raises(UserError, match=r"did you mean part\?"):
        rollback(tracker, "prat")


def test_min_delta_and_force(train: Train, tracker: Tracker) -> None:
    promote(tracker, "part", ref=train("a", 0.90))
    slightly_better = train("b", 0.91)
    refused = promote(tracker, "part", ref=slightly_better, gates=GateSettings(min_delta=0.02))
    assert not refused.promoted and "but not by more than min_delta = 0.02" in refused.reason
    worse = train("c", 0.5)
    forced = promote(tracker, "part", ref=worse, force=True)
    assert forced.promoted and "by force" in forced.reason and champion(tracker) == 2


def test_lower_escape_rate_is_better(train: Train, tracker: Tracker) -> None:
    first, second = train("a", 0.5), train("b", 0.5)
    tracker.amend(first).log_metrics({"test/escape_rate": 0.2})
    tracker.amend(second).log_metrics({"test/escape_rate": 0.1})
    assert promote(tracker, "part", ref=first, gates=ESCAPES).promoted
    assert promote(tracker, "part", ref=second, gates=ESCAPES).promoted
    assert not promote(tracker, "part", ref=first, gates=ESCAPES).promoted


def test_champion_is_evaluated_on_the_data_of_the_run(
    train: Train, tracker: Tracker, root: Path, tmp_path: Path
) -> None:
    old = train("old", 0.8)
    assert promote(tracker, "part", ref=old).promoted
    other = write_tiny_set(tmp_path / "other", seed=5)
    evaluations = {"vqlab.model_run": old}
    forced = promote(tracker, "part", ref=train("forced", 0.1, baseline_recipe(other)), force=True)
    assert forced.champion_value is None and not tracker.runs(tags=evaluations)
    rollback(tracker, "part")
    new = train("new", 1.0, baseline_recipe(other))
    compared = promote(tracker, "part", ref=new)
    assert compared.champion_value is not None
    assert compared.promoted == (1.0 > compared.champion_value)
    [evaluation] = tracker.runs(tags=evaluations)
    assert evaluation.metrics[METRIC] == compared.champion_value
    repeated = promote(tracker, "part", ref=train("worse", 0.0, baseline_recipe(other)))
    assert not repeated.promoted and len(tracker.runs(tags=evaluations)) == 1


def test_models_with_different_inspected_areas_are_not_compared(
    train: Train, root: Path, tracker: Tracker, tmp_path: Path
) -> None:
    """The champion is not evaluated needlessly; the reason names the settings of the area."""
    polygon = [[0, 0], [24, 0], [24, 32], [0, 32]]
    (tmp_path / "roi.json").write_text(json.dumps({"size": [32, 32], "polygons": [polygon]}))
    part = merge(baseline_recipe(root), {"data": {"roi": str(tmp_path / "roi.json")}})
    uncropped, inspected = train("whole", 0.9), train("inspected", 0.95, part)
    assert promote(tracker, "part", ref=uncropped).promoted
    refused = promote(tracker, "part", ref=inspected)
    assert not refused.promoted
    assert "inspects another area" in refused.reason and "data.roi" in refused.reason
    assert not tracker.runs(tags={"vqlab.model_run": uncropped})
    assert promote(tracker, "part", ref=inspected, force=True).promoted


def test_champion_that_cannot_be_evaluated_on_the_data_of_the_run(
    train: Train, tracker: Tracker, tmp_path: Path
) -> None:
    old = train("old", 0.8)
    assert promote(tracker, "part", ref=old).promoted
    new = train("new", 1.0, baseline_recipe(write_tiny_set(tmp_path / "other", seed=6)))
    tracker.champion("part").checkpoint.unlink()
    with pytest.raises(UserError, match="the champion .* to be compared: .*, use --force"):
        promote(tracker, "part", ref=new)
    assert champion(tracker) == 1
    assert promote(tracker, "part", ref=new, force=True).promoted


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"vqlab__category": "screw"}, "was trained on screw, not part"),
        ({"vqlab__objective": "test/image_auroc"}, "were selected on the test set"),
        ({"vqlab__kind": "evaluate"}, "must be a finished training"),
    ],
)
def test_biased_and_unsuitable_runs_are_rejected(
    train: Train, tracker: Tracker, tags: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        promote(tracker, "part", ref=train("a", 0.9, **tags))
    assert champion(tracker) is None


def test_unfinished_run_is_rejected(train: Train, tracker: Tracker) -> None:
    run_id = train("a", 0.9)
    tracker.set_status(run_id, "KILLED", {})
    with pytest.raises(UserError, match="KILLED"):
        promote(tracker, "part", ref=run_id)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("validation/pixel_auroc", "metric must be one of"),
        ("test/aupro_005", "metric must be one of"),
        ("image_auroc", "metric must be one of"),
        ("test/image_aurok", "got 'image_aurok'; did you mean image_auroc or"),
    ],
)
def test_metric_must_be_on_test(tracker: Tracker, metric: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        promote(tracker, "part", ref="x", gates=GateSettings(metric=metric))


def test_best_trial_of_the_latest_study_is_tested_once_and_promoted(
    root: Path, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = make_space({"space": {"detector.floor": {"low": 0.01, "high": 0.1}}})
    result = sweep(
        make_comparison(space, baseline_recipe(root)),
        tracker,
        trials=1,
        results=tmp_path / "results",
    )
    monkeypatch.setattr("vqlab.promote.candidate.test_model", None)  # the run is already tested
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    promoted = promote(tracker, "part")
    assert promoted.promoted and promoted.run_id == result.best.run_id
    assert promoted.value == result.test[METRIC]


def test_untested_run_is_tested_once_on_unchanged_data(
    root: Path, train: Train, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = train("untested", None)
    result = promote(tracker, "part", ref="untested")
    assert result.promoted
    assert tracker.find(run_id).metrics[METRIC] == result.value
    assert (tmp_path / "results" / "part" / "scores.csv").exists()

    changing = write_tiny_set(tmp_path / "changing")
    train("stale", None, merge(baseline_recipe(changing), nest("data.seed", 1)))
    write_tiny_set(changing, seed=9)
    with pytest.raises(UserError, match="trained on other data"):
        promote(tracker, "part", ref="stale")


def delete_permanently(tracker: Tracker, run_id: str) -> None:
    """Delete a deleted run permanently, as `mlflow gc` does."""
    tracker._client.delete_run(run_id)
    tracker._client._client._tracking_client.store._hard_delete_run(run_id)


@pytest.mark.parametrize("permanently", [False, True])
def test_run_of_the_champion_was_deleted(train: Train, tracker: Tracker, permanently: bool) -> None:
    """Its version stores the values for comparison."""
    first, better = train("a", 0.95), train("c", 0.97)
    promote(tracker, "part", ref=first)
    if permanently:
        delete_permanently(tracker, first)
    else:
        tracker._client.delete_run(first)
    refused = promote(tracker, "part", ref=train("b", 0.94))
    assert "is 0.9400, below the champion's 0.9500 (version 1)" in refused.reason
    assert promote(tracker, "part", ref=better).champion_value == 0.95
    if permanently:
        with pytest.raises(
            UserError, match=r"version 1 of part was permanently deleted \(mlflow gc"
        ):
            rollback(tracker, "part")
    else:
        assert rollback(tracker, "part").version == 1


def test_deleted_champion_whose_version_has_no_metrics(
    train: Train, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of an older vqlab."""
    monkeypatch.setattr("vqlab.promote.provenance.run_summary", lambda record: {})
    first, worse = train("a", 0.95), train("b", 0.94)
    promote(tracker, "part", ref=first)
    delete_permanently(tracker, first)
    refused = promote(tracker, "part", ref=worse)
    assert "champion (version 1) of part was deleted" in refused.reason
    assert first[:6] not in refused.reason and "--force" in refused.reason
    assert promote(tracker, "part", ref=worse, force=True).promoted


def test_deleted_version_is_skipped_by_rollback(train: Train, tracker: Tracker) -> None:
    for name, value in (("a", 0.8), ("b", 0.9), ("c", 0.95)):
        promote(tracker, "part", ref=train(name, value))
    tracker._client.delete_model_version("vqlab-part", "2")
    assert rollback(tracker, "part").version == 1
    assert tracker.registry.by_alias("part", "previous") is None


def test_deleted_run_is_named_with_how_to_restore_it(train: Train, tracker: Tracker) -> None:
    run_id = train("gone", 0.9)
    tracker._client.delete_run(run_id)
    for reference in ("gone", run_id, run_id[:8]):
        with pytest.raises(
            UserError, match=rf"was deleted; .*mlflow runs restore --run-id {run_id}"
        ):
            promote(tracker, "part", ref=reference)
    tracker._client.restore_run(run_id)
    experiment = tracker._client.get_run(run_id).info.experiment_id
    tracker._client.delete_experiment(experiment)
    with pytest.raises(UserError, match="deleted with its experiment part; .*experiments restore"):
        tracker.find("gone")
