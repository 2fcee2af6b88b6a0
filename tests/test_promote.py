"""The gate: what becomes champion, what is refused and why, and the way back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.config import merge, nest
from vqlab.model import Model
from vqlab.predict import load_model
from vqlab.promote import promote, rollback
from vqlab.promote.reproduce import score_images
from vqlab.run import Outcome, evaluate_model, resolve, run
from vqlab.sweep import make_space, sweep
from vqlab.tracking import PREVIOUS, Tracker
from vqlab.types import UserError

METRIC = "test/image_auroc"
pytestmark = pytest.mark.usefixtures("blank_figures")
Tree = dict[str, Any]
Train = Callable[..., str]


def baseline(root: Path, category: str = "part") -> Tree:
    recipe = tiny_recipe(root, category, epochs=0)
    return {**recipe, "detector": {"name": "mean_image"}}


@pytest.fixture(scope="module")
def tested(root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(
        resolve(baseline(root)), store, name="tested", results=tmp_path_factory.mktemp("results")
    )


@pytest.fixture
def tracker(store: Tracker) -> Iterator[Tracker]:
    """The store, without champions."""
    yield store
    client = store._client
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)


@pytest.fixture
def train(root: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Train:
    """A trained run whose test metric is what the test says; nothing is scored for it."""
    monkeypatch.setattr("vqlab.promote.promotion.reproduce", lambda record, data: "skipped")

    def make(name: str, value: float | None, tree: Tree | None = None, **tags: str) -> str:
        outcome = run(resolve(tree or baseline(root)), tracker, name=name, test=False)
        added = tracker.amend(outcome.run_id)
        added.set_tags({key.replace("__", "."): tag for key, tag in tags.items()})
        if value is not None:
            added.log_metrics({METRIC: value})
        return outcome.run_id

    return make


def champion(tracker: Tracker) -> int | None:
    version = tracker.registry.by_alias("part")
    return version.version if version else None


def test_the_gate(train: Train, tracker: Tracker) -> None:
    first, worse, better = train("a", 0.95), train("b", 0.94), train("c", 0.97)
    one = promote(tracker, "part", ref=first)
    assert (one.promoted, one.version, champion(tracker)) == (True, 1, 1)
    assert "the first" in one.reason
    refused = promote(tracker, "part", ref=worse)
    assert not refused.promoted and not refused.is_champion and champion(tracker) == 1
    assert "is 0.9400, below the champion's 0.9500 (version 1)" in refused.reason
    same = train("d", 0.95)
    assert (
        "equal to the champion's" in promote(tracker, "part", ref=same).reason
        and champion(tracker) == 1
    )
    two = promote(tracker, "part", ref=better)
    assert (two.promoted, two.version, champion(tracker)) == (True, 2, 2)
    assert two.champion_value == 0.95 and two.value == 0.97
    again = promote(tracker, "part", ref=better)
    assert not again.promoted and again.is_champion and champion(tracker) == 2
    assert len(tracker.registry.versions("part")) == 2
    back = rollback(tracker, "part")
    assert (back.version, back.run_id) == (1, first) and champion(tracker) == 1
    tags = {v.version: v.tags for v in tracker.registry.versions("part")}
    assert "vqlab.rolled_back_at" in tags[2] and tags[2]["vqlab.rolled_back_to"] == "1"
    assert "vqlab.restored_at" in tags[1]
    assert tags[2]["vqlab.promoted_from"] == better and tags[2]["vqlab.metric_value"] == "0.97"
    assert (
        tags[2]["vqlab.champion_value"] == "0.95" and "replaces version" in tags[2]["vqlab.reason"]
    )
    returned = promote(tracker, "part", ref=better)
    assert returned.version == 2 and champion(tracker) == 2


def test_rollback_goes_back_in_history(train: Train, tracker: Tracker) -> None:
    """A version that was rolled back is not crowned again by going back once more."""
    for number, value in enumerate((0.90, 0.92, 0.94, 0.96), 1):
        assert promote(tracker, "part", ref=train(f"r{number}", value)).version == number
    registry = tracker.registry
    assert registry.history("part") == [1, 2, 3, 4]
    assert [rollback(tracker, "part").version for _ in range(3)] == [3, 2, 1]
    assert registry.by_alias("part", PREVIOUS) is None
    with pytest.raises(UserError, match=r"no champion before version 1; .*--to \(2, 3, 4\)"):
        rollback(tracker, "part")
    assert rollback(tracker, "part", to=3).version == 3 and registry.history("part") == [1, 3]
    assert rollback(tracker, "part").version == 1
    with pytest.raises(UserError, match="version 1 is already the champion of part"):
        rollback(tracker, "part", to=1)
    with pytest.raises(UserError, match=r"no version 9; choose a version with --to \(2, 3, 4\)"):
        rollback(tracker, "part", to=9)
    assert champion(tracker) == 1


def test_rollback_after_a_version_was_promoted_twice(train: Train, tracker: Tracker) -> None:
    one, two = train("one", 0.9), train("two", 0.95)
    promote(tracker, "part", ref=one)
    promote(tracker, "part", ref=two)
    promote(tracker, "part", ref=one, force=True)
    assert tracker.registry.history("part") == [1, 2, 1]
    assert [rollback(tracker, "part").version for _ in range(2)] == [2, 1]
    with pytest.raises(UserError, match="no champion before"):
        rollback(tracker, "part")


def test_rollback_in_a_store_without_a_recorded_history(train: Train, tracker: Tracker) -> None:
    """Stores of an earlier vqlab have the tags of the versions alone."""
    for number, value in enumerate((0.90, 0.92, 0.94), 1):
        promote(tracker, "part", ref=train(f"r{number}", value))
        version = tracker.registry.versions("part")[0]
        tracker.registry.set_tags(version, {"vqlab.promoted_at": f"2026-01-0{number}T00:00:00"})
    tracker._client.delete_registered_model_tag("vqlab-part", "vqlab.champions")
    assert tracker.registry.history("part") == [1, 2, 3]
    assert [rollback(tracker, "part").version for _ in range(2)] == [2, 1]


def test_rollback_to_a_version_whose_checkpoint_is_gone(train: Train, tracker: Tracker) -> None:
    first = train("a", 0.9)
    promote(tracker, "part", ref=first)
    promote(tracker, "part", ref=train("b", 0.95))
    tracker.delete_artifact(first, "checkpoint")
    with pytest.raises(UserError, match="version 1 of part cannot be used: run .* has no artifact"):
        rollback(tracker, "part")
    assert champion(tracker) == 2 and tracker.registry.history("part") == [1, 2]


def test_without_a_study_candidates_are_listed(train: Train, tracker: Tracker) -> None:
    with pytest.raises(UserError, match=r"no finished study and no run to promote; sweep it first"):
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


def test_a_model_of_another_category_is_refused(tested: Outcome, tracker: Tracker) -> None:
    for reference in ("tested", str(tested.checkpoint)):
        with pytest.raises(UserError, match="must be trained on other; it was trained on part"):
            load_model(reference, "other", tracker.root)
        assert load_model(reference, "part", tracker.root).category == "part"
        assert load_model(reference, None, tracker.root).category == "part"


def test_a_misspelt_champion(train: Train, tracker: Tracker) -> None:
    promote(tracker, "part", ref=train("a", 0.9))
    with pytest.raises(UserError, match=r"'prat' has no champion; did you mean part\?"):
        load_model("champion", "prat", tracker.root)
    with pytest.raises(UserError, match=r"did you mean part\?"):
        rollback(tracker, "prat")


def test_min_delta_and_force(train: Train, tracker: Tracker) -> None:
    promote(tracker, "part", ref=train("a", 0.90))
    near = train("b", 0.91)
    refused = promote(tracker, "part", ref=near, min_delta=0.02)
    assert not refused.promoted and "but not by more than min_delta = 0.02" in refused.reason
    worse = train("c", 0.5)
    forced = promote(tracker, "part", ref=worse, force=True)
    assert forced.promoted and "by force" in forced.reason and champion(tracker) == 2


def test_less_is_better_for_escapes(train: Train, tracker: Tracker) -> None:
    one, two = train("a", 0.5), train("b", 0.5)
    tracker.amend(one).log_metrics({"test/escape_rate": 0.2})
    tracker.amend(two).log_metrics({"test/escape_rate": 0.1})
    assert promote(tracker, "part", ref=one, metric="test/escape_rate").promoted
    assert promote(tracker, "part", ref=two, metric="test/escape_rate").promoted
    assert not promote(tracker, "part", ref=one, metric="test/escape_rate").promoted


def test_other_data_is_refused_until_the_champion_is_scored_there(
    train: Train, tracker: Tracker, root: Path, tmp_path: Path
) -> None:
    old = train("old", 0.8)
    assert promote(tracker, "part", ref=old).promoted
    other = write_tiny_set(tmp_path / "other", seed=5)
    new = train("new", 1.0, baseline(other))
    refused = promote(tracker, "part", ref=new)
    assert not refused.promoted and champion(tracker) == 1
    assert "never measured on the same data" in refused.reason
    assert "vqlab evaluate --model champion --category part" in refused.reason
    model = Model.load(tracker.champion("part").checkpoint, "cpu")
    evaluate_model(model, other, tracker, tmp_path / "results")
    compared = promote(tracker, "part", ref=new)
    assert compared.champion_value is not None
    assert compared.promoted == (1.0 > compared.champion_value)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"vqlab__category": "screw"}, "was trained on screw, not part"),
        ({"vqlab__objective": "test/image_auroc"}, "were selected on the test set"),
        ({"vqlab__kind": "evaluate"}, "must be a finished training"),
    ],
)
def test_what_may_not_be_promoted(
    train: Train, tracker: Tracker, tags: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        promote(tracker, "part", ref=train("a", 0.9, **tags))
    assert champion(tracker) is None


def test_an_unfinished_run_is_refused(train: Train, tracker: Tracker) -> None:
    run_id = train("a", 0.9)
    tracker.set_status(run_id, "KILLED", {})
    with pytest.raises(UserError, match="KILLED"):
        promote(tracker, "part", ref=run_id)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("validation/pixel_auroc", "metric must be one of"),
        ("test/aupro_005", "metric must be one of"),
        ("image_auroc", "metric must be one of"),
        ("test/image_aurok", "got 'image_aurok'; did you mean image_auroc or"),
    ],
)
def test_only_test_metrics_decide(tracker: Tracker, metric: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        promote(tracker, "part", ref="x", metric=metric)


def test_nothing_to_go_back_to(train: Train, tracker: Tracker) -> None:
    with pytest.raises(UserError, match="has no champion"):
        rollback(tracker, "part")
    promote(tracker, "part", ref=train("a", 0.9))
    with pytest.raises(UserError, match="no champion before version 1; promote another run"):
        rollback(tracker, "part")


def test_the_checkpoint_is_scored_again_in_a_fresh_process(
    tested: Outcome, tracker: Tracker
) -> None:
    result = promote(tracker, "part", ref="tested")
    assert result.promoted
    assert tested.test is not None and result.value == tested.test.mean["image_auroc"]
    tags = tracker.champion("part").tags
    assert tags["vqlab.reproduced"].endswith("bit for bit")
    assert int(tags["vqlab.reproduced"].split()[0]) >= 4


def test_a_checkpoint_that_scores_otherwise_is_refused(
    tested: Outcome, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    table = tracker.find(tested.run_id).artifact("results/part/scores.csv")
    before = table.read_bytes()
    rows = list(csv.reader(before.decode().splitlines()))
    column = rows[0].index("score")
    rows[1][column] = repr(float(rows[1][column]) * 1.001)
    try:
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        with pytest.raises(UserError, match="when it was tested"):
            promote(tracker, "part", ref="tested")
    finally:
        table.write_bytes(before)
    assert champion(tracker) is None and not tracker.registry.versions("part")


def test_the_best_of_the_latest_study_is_scored_once_and_promoted(
    root: Path, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = make_space({"space": {"detector.floor": {"low": 0.01, "high": 0.1}}})
    result = sweep(baseline(root), space, tracker, trials=1, results=tmp_path / "results")
    monkeypatch.setattr("vqlab.promote.promotion.test_model", None)  # it is tested already
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    promoted = promote(tracker, "part")
    assert promoted.promoted and promoted.run_id == result.best.run_id
    assert promoted.value == result.test[METRIC]


def test_an_untested_run_is_tested_once_and_the_data_must_be_the_same(
    root: Path, train: Train, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = train("untested", None)
    result = promote(tracker, "part", ref="untested")
    assert result.promoted
    assert tracker.find(run_id).metrics[METRIC] == result.value
    assert (tmp_path / "results" / "part" / "scores.csv").exists()

    changing = write_tiny_set(tmp_path / "changing")
    train("stale", None, merge(baseline(changing), nest("data.seed", 1)))
    write_tiny_set(changing, seed=9)
    with pytest.raises(UserError, match="trained on other data"):
        promote(tracker, "part", ref="stale")


def delete_for_good(tracker: Tracker, run_id: str) -> None:
    """As `mlflow gc` does with a run that was deleted."""
    tracker._client.delete_run(run_id)
    tracker._client._client._tracking_client.store._hard_delete_run(run_id)


@pytest.mark.parametrize("for_good", [False, True])
def test_the_run_of_the_champion_was_deleted(
    train: Train, tracker: Tracker, for_good: bool
) -> None:
    """Its version remembers what is compared with."""
    first, better = train("a", 0.95), train("c", 0.97)
    promote(tracker, "part", ref=first)
    if for_good:
        delete_for_good(tracker, first)
    else:
        tracker._client.delete_run(first)
    refused = promote(tracker, "part", ref=train("b", 0.94))
    assert "is 0.9400, below the champion's 0.9500 (version 1)" in refused.reason
    assert promote(tracker, "part", ref=better).champion_value == 0.95
    if for_good:
        with pytest.raises(UserError, match=r"version 1 of part was deleted for good \(mlflow gc"):
            rollback(tracker, "part")
    else:
        assert rollback(tracker, "part").version == 1


def test_the_champion_was_deleted_and_its_version_remembers_nothing(
    train: Train, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of an older vqlab."""
    monkeypatch.setattr("vqlab.promote.promotion.run_summary", lambda record: {})
    first, worse = train("a", 0.95), train("b", 0.94)
    promote(tracker, "part", ref=first)
    delete_for_good(tracker, first)
    refused = promote(tracker, "part", ref=worse)
    assert "champion (version 1) of part was deleted" in refused.reason
    assert first[:6] not in refused.reason and "--force" in refused.reason
    assert promote(tracker, "part", ref=worse, force=True).promoted


def test_a_deleted_version_is_no_predecessor(train: Train, tracker: Tracker) -> None:
    for name, value in (("a", 0.8), ("b", 0.9), ("c", 0.95)):
        promote(tracker, "part", ref=train(name, value))
    tracker._client.delete_model_version("vqlab-part", "2")
    assert rollback(tracker, "part").version == 1
    assert tracker.registry.by_alias("part", "previous") is None


def test_a_deleted_run_is_told_with_what_brings_it_back(train: Train, tracker: Tracker) -> None:
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
