"""The data record of a run: roles of images, warnings of the audit, and no comparison of metrics
from different test images."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_set import baseline_recipe, tiny_recipe, write_tiny_set

from vqlab.checkpoint import load_checkpoint
from vqlab.cli.leaderboard_table import make_board, seeds_table
from vqlab.cli.metric_tables import comparison_tables, report_table
from vqlab.cli.progress import out
from vqlab.cli.sweep import say_result
from vqlab.compare import compare
from vqlab.config import merge, nest
from vqlab.data import STATISTICS, load_dataset, read_image
from vqlab.model import Model
from vqlab.promote import promote
from vqlab.promote.reproduce import Reproduction
from vqlab.run import Outcome, Recording, audit_warned, evaluate_model, resolve, run
from vqlab.sweep import make_comparison, make_space, sweep
from vqlab.tracking import RunRecord, Tracker
from vqlab.types import UserError

Tree = dict[str, Any]
METRIC = "test/image_auroc"
pytestmark = pytest.mark.usefixtures("blank_figures")


def baseline(root: Path, **validation: object) -> Tree:
    tree = baseline_recipe(root)
    return merge(tree, nest("data.validation", validation)) if validation else tree


@pytest.fixture(scope="module")
def synthetic(root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    results = tmp_path_factory.mktemp("results")
    return run(resolve(baseline(root)), store, Recording(name="drawn", results=results))


@pytest.fixture(scope="module")
def shared_validation(
    root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    results = tmp_path_factory.mktemp("results")
    config = resolve(baseline(root, source="test", fraction=0.5))
    return run(config, store, Recording(name="shared", results=results))


@pytest.fixture
def tracker(store: Tracker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    """The store without champions; scores are not reproduced again."""
    reproduction = Reproduction(images=1, exact=True)
    monkeypatch.setattr("vqlab.promote.promotion.reproduce", lambda record, data: reproduction)
    yield store
    client = store._client
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)


def table(record: RunRecord) -> list[dict[str, str]]:
    text = record.artifact("data/splits.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def test_run_stores_its_split(
    synthetic: Outcome, shared_validation: Outcome, store: Tracker, root: Path
) -> None:
    for outcome, description in (
        (synthetic, "held-out normal images with synthetic anomalies"),
        (shared_validation, "held-out normal images and 50% of test, excluded from test"),
    ):
        record = store.find(outcome.run_id)
        assert record.tags["vqlab.validation"] == description
        splits = load_dataset(resolve(record_config(record)).data)
        assert record.tags["vqlab.test_fingerprint"] == splits.test_fingerprint
        rows = table(record)
        for name in ("train", "held_out", "validation", "test"):
            files = [root / row["file"] for row in rows if row["split"] == name]
            assert files == [record.path for record in getattr(splits, name).records]
        assert (read_image(record.artifact("data/validation.png")) == splits.validation_sheet).all()


def record_config(record: RunRecord) -> Tree:
    return Model.load(record.checkpoint(), "cpu").meta["config"]


def test_images_used_for_validation_are_not_in_the_report(
    synthetic: Outcome, shared_validation: Outcome
) -> None:
    assert synthetic.pictures is not None and shared_validation.pictures is not None
    scores = [
        list(csv.DictReader((outcome.pictures / "scores.csv").read_text().splitlines()))
        for outcome in (synthetic, shared_validation)
        if outcome.pictures
    ]
    assert [len(rows) for rows in scores] == [8, 4]


def test_every_test_set_is_audited(synthetic: Outcome, store: Tracker) -> None:
    """The defect of the tiny set is a bright square, which the brightest pixel detects."""
    record = store.find(synthetic.run_id)
    figures = json.loads(record.artifact("data/audit.json").read_text())
    assert figures.keys() == {f"audit/{name}" for name in STATISTICS}
    assert figures["audit/brightest"] == 1
    assert not [key for key in record.metrics if key.startswith("audit")]
    assert "part: brightest pixel alone" in record.tags["vqlab.audit"]
    assert synthetic.test is not None
    assert any("brightest pixel alone" in note for note in synthetic.test.notes)


def test_leaderboard_marks_the_category(
    synthetic: Outcome, shared_validation: Outcome, store: Tracker
) -> None:
    records = [store.find(outcome.run_id) for outcome in (synthetic, shared_validation)]
    board = make_board(records, 2, METRIC).table()
    places = {column.header: place for place, column in enumerate(board.columns)}
    data = [str(row.cells[places["data"]]) for row in board.rows]
    assert str(board.title).splitlines()[1] == "category: part ⚠" and "⚠" in str(board.caption)
    fingerprint = records[0].tags["vqlab.data_fingerprint"][:8]
    part = records[1].tags["vqlab.test_fingerprint"][:8]
    assert data[0].endswith(fingerprint) and data[1].endswith(f"{fingerprint}, part {part}")
    assert len(board.rows) == 4  # one baseline for each of the two test sets
    unmarked = [store.find(synthetic.run_id)]
    del unmarked[0].tags["vqlab.audit"]
    assert make_board(unmarked, 1, METRIC).table().caption == ""


def printed(table: Any) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_every_table_of_test_metrics_marks_the_category(synthetic: Outcome, store: Tracker) -> None:
    assert synthetic.test is not None
    rows = [
        ("validation", synthetic.validation),
        ("test", synthetic.test),
        *synthetic.other_reports.items(),
    ]
    report = report_table("run", rows)
    lines = printed(report).splitlines()
    names = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert [name for name in names if name] == ["validation", "test ⚠", "mean_image ⚠"]
    compared = comparison_tables(compare(store, synthetic.run_id, synthetic.run_id, resamples=100))
    assert [table.title for table in compared] == ["part ⚠: 4 normal and 4 anomalous images"]
    record = store.find(synthetic.run_id)
    other = replace(record, params={**record.params, "training.seed": "1"})
    seeds = seeds_table([record, other])
    assert seeds is not None and [row.cells[0] for row in seeds.rows] == ["part ⚠"]
    assert all("\n⚠" in printed(table) for table in (report, *compared, seeds))
    assert "⚠" not in printed(report_table("run", rows[:1]))
    assert audit_warned(record.tags, ["art", "part", "parts"]) == ["part"]


def test_sweep_prints_the_warnings_of_the_audit(
    root: Path, store: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 120)  # wide enough for the name of a row on one line
    space = make_space({"space": {"detector.floor": {"choices": [0.01, 0.05]}}})
    events = []
    for _ in range(2):  # the second call does not score again
        result = sweep(
            make_comparison(space, baseline(root)), store, trials=1, results=tmp_path / "results"
        )
        with out.capture() as captured:
            say_result(result)
        events.append(captured.get())
    for text in events:
        assert "test ⚠" in text and "test, mean_image ⚠" in text
        assert text.count("note: part: brightest pixel alone") == 1


def test_runs_on_other_test_images_are_not_compared(
    synthetic: Outcome, shared_validation: Outcome, tracker: Tracker, root: Path, tmp_path: Path
) -> None:
    assert promote(tracker, "part", ref=shared_validation.run_id).promoted
    refused = promote(tracker, "part", ref=synthetic.run_id)
    assert not refused.promoted and refused.champion_value is None
    assert "50% of test, excluded from test; train one of them again" in refused.reason
    evaluate_model(
        Model.load(shared_validation.checkpoint, "cpu"), None, tracker, tmp_path / "results"
    )
    assert not promote(tracker, "part", ref=synthetic.run_id).promoted
    repeated = run(
        resolve(baseline(root, source="test", fraction=0.5)),
        tracker,
        Recording(results=tmp_path / "again"),
    )
    assert promote(tracker, "part", ref=repeated.run_id).champion_value is not None
    other = run(
        resolve(baseline(root, source="test", fraction=0.3)),
        tracker,
        Recording(results=tmp_path / "other"),
    )
    assert "train one of them again" in promote(tracker, "part", ref=other.run_id).reason


def test_runs_of_earlier_versions_are_compared(
    synthetic: Outcome, root: Path, tracker: Tracker, tmp_path: Path
) -> None:
    """They lack the setting and the tags, and report the complete test set."""
    old = run(resolve(baseline(root)), tracker, Recording(name="old", results=tmp_path))
    for key in ("vqlab.test_fingerprint", "vqlab.validation"):
        tracker._client.delete_tag(old.run_id, key)
    find = tracker.find

    def find_old(reference: str) -> RunRecord:
        record = find(reference)
        if record.run_id == old.run_id:
            record.params.pop("data.validation.source", None)
            record.params.pop("data.validation.fraction", None)
        return record

    tracker.find = find_old  # type: ignore[method-assign]
    try:
        assert promote(tracker, "part", ref=old.run_id).promoted
        compared = promote(tracker, "part", ref=synthetic.run_id)
    finally:
        del tracker.find
    assert not compared.promoted and compared.champion_value == compared.value


def swap_labels(root: Path) -> Path:
    """Poison every test label: normal images are labelled as defects, with masks, and defects as
    normal."""
    part = root / "part"
    (part / "test/good").rename(part / "test/was_good")
    (part / "test/hole").rename(part / "test/good")
    (part / "ground_truth/hole").rename(part / "ground_truth/was_good")
    return root


def test_poisoned_test_labels_do_not_change_weights_or_thresholds(
    root: Path, tracker: Tracker, tmp_path: Path
) -> None:
    outcomes = [
        run(resolve(tiny_recipe(place, validate_every=1)), tracker, test=False)
        for place in (root, swap_labels(write_tiny_set(tmp_path / "poisoned")))
    ]
    states = [load_checkpoint(outcome.checkpoint)[0] for outcome in outcomes]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert outcomes[0].model.thresholds == outcomes[1].model.thresholds
    assert outcomes[0].validation.mean == outcomes[1].validation.mean
    fingerprints = [outcome.model.meta["data"]["fingerprint"] for outcome in outcomes]
    assert fingerprints[0] != fingerprints[1]  # the labels were poisoned


def test_poisoned_test_labels_do_not_change_the_chosen_settings(
    root: Path, tracker: Tracker, tmp_path: Path
) -> None:
    space = make_space({"space": {"detector.floor": {"choices": [0.01, 0.05, 0.3]}}})
    chosen = []
    for place in (root, swap_labels(write_tiny_set(tmp_path / "poisoned"))):
        result = sweep(
            make_comparison(space, baseline(place)), tracker, trials=3, results=tmp_path / "results"
        )
        chosen.append((json.dumps(result.best.params), result.best.value))
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("setting", ["data.validation.source", "data.validation.fraction"])
def test_sweep_over_validation_settings_raises(root: Path, tracker: Tracker, setting: str) -> None:
    values = ["drawn", "test"] if setting.endswith("source") else [0.2, 0.4]
    space = make_space({"space": {setting: {"choices": values}}})
    with pytest.raises(UserError, match="must not be searched"):
        sweep(make_comparison(space, baseline(root)), tracker, trials=1)
