"""The leaderboard: order, columns, differing settings, and width."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from vqlab.cli import main
from vqlab.cli.fit_width import Column, from_columns
from vqlab.cli.leaderboard_table import Board, make_board, seeds_table
from vqlab.metrics import lower_is_better
from vqlab.tracking import CHECKPOINT, Tracker, ranked

SETTINGS = {"data.image_size": 256, "features.backbone": "filters", "training.seed": 0}


@pytest.fixture(scope="module")
def tracker(store: Tracker) -> Tracker:
    """Runs of two categories, without training."""

    def run(name: str, category: str, auroc: float | None, escapes: float, **more: object) -> str:
        settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in more.items()}}
        tags = {"vqlab.kind": "train", "vqlab.category": category, "vqlab.detector": "memory_bank"}
        data = {"vqlab.data": "synthetic", "vqlab.data_fingerprint": category * 4}
        with store.start(
            experiment=category, name=name, tags={**tags, **data}, params=settings
        ) as started:
            started.log_text("weights", CHECKPOINT)
            started.log_metrics({"train/loss": escapes, "validation/image_auroc": 0.5})
            if auroc is not None:
                test = {"image_auroc": auroc, "escape_rate": escapes, "aupro": 0.5}
                started.log_metrics({f"test/{key}": value for key, value in test.items()})
                started.log_metrics({"test_mean_image/image_auroc": 0.7})
        return started.id

    best = run("best", "cable", 0.95, 0.3, features__backbone="resnet18")
    run("small", "cable", 0.85, 0.1, data__image_size=128)
    run("seed", "cable", 0.86, 0.2, training__seed=1)
    run("seeds", "cable", 0.87, 0.25)
    run("untested", "cable", None, 0.0)
    run("gear", "gear", 0.6, 0.9)
    store.registry.set_champion(store.registry.register(best, CHECKPOINT, "cable"), None)
    return store


@pytest.fixture
def vqlab(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    def call(*arguments: str, code: int = 0) -> str:
        words = ["vqlab", "leaderboard", "--mlruns", str(tracker.root), *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        assert ended.value.code == code, output.out + output.err
        return output.err if code else output.out

    return call


def names(text: str) -> list[str]:
    return [row["name"] for row in json.loads(text)]


def test_best_runs_are_first_for_either_direction(vqlab: Callable[..., str]) -> None:
    cable = ("--category", "cable", "--json")
    assert names(vqlab(*cable)) == ["best", "seeds", "seed", "small"]
    assert names(vqlab(*cable, "--metric", "test/escape_rate"))[:2] == ["small", "seed"]
    assert names(vqlab(*cable, "--metric", "train/loss"))[0] == "small"
    assert names(vqlab("--json", "--limit", "2")) == ["best", "seeds"]
    printed = vqlab("--metric", "train/loss", "--category", "cable")
    assert "sorted by train/loss, ascending" in printed and re.search(r"0\.1 ", printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--category", "cabel"], "category cabel has no runs; did you mean cable?"),
        (["--category", "socket"], "category socket has no runs; there are runs of cable, gear."),
        (["--metric", "test/image_aurok"], "did you mean test/image_auroc?"),
        (["--metric", "sharpness"], "their metrics include test/aupro, test/escape_rate"),
        (["--mlruns", "nowhere"], "no tracked runs"),
    ],
)
def test_unknown_category_metric_or_store(
    vqlab: Callable[..., str], arguments: list[str], message: str
) -> None:
    output = vqlab(*arguments, code=2)
    assert message in output and output.count("\n") == 1
    assert not Path("nowhere").exists()


def test_json_and_csv_have_equal_content(vqlab: Callable[..., str]) -> None:
    rows = json.loads(vqlab("--json", "--category", "cable"))
    best = rows[0]
    assert best["champion"] and not rows[1]["champion"]
    assert best["settings"]["features.backbone"] == "resnet18"
    assert best["metrics"]["test/escape_rate"] == 0.3 and best["seconds"] >= 0
    table = list(csv.DictReader(io.StringIO(vqlab("--csv", "--category", "cable"))))
    assert [row["run_id"] for row in table] == [row["run_id"] for row in rows]
    assert table[1]["data.image_size"] == "256" and table[3]["data.image_size"] == "128"
    assert table[0]["test/image_auroc"] == "0.95"


def board(tracker: Tracker, category: str | None = "cable") -> Board:
    runs = [run for run in tracker.runs() if category in (None, run.experiment)]
    runs = ranked(runs, "test/image_auroc", ascending=False)
    runs = [run for run in runs if "test/image_auroc" in run.metrics]
    champion = tracker.registry.by_alias("cable")
    assert champion is not None
    return make_board(runs, len(runs), "test/image_auroc", [champion.run_id])


def lines(table: object, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text().splitlines()


def test_rows_that_differ_in_settings_show_these(tracker: Tracker) -> None:
    text = "\n".join(lines(board(tracker).table(), 200))
    assert "backbone=resnet18 image_size=256 seed=0" in text
    assert "backbone=filters image_size=128 seed=0" in text
    assert text.count("★") == 2 and "★ champion" in text  # key of a row and its explanation
    single = "\n".join(lines(board(tracker, "gear").table(), 200))
    assert "differs in" not in single and "baseline" in single


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_nothing_is_truncated_at_any_width(tracker: Tracker, width: int) -> None:
    for table in (board(tracker, None).table(), seeds_table(board_runs(tracker))):
        printed = lines(table, width)
        assert max(map(cell_len, printed)) <= width
        assert not any("…" in line for line in printed)
    text = "\n".join(lines(board(tracker, None).table(), width))
    for row in board(tracker, None).rows:
        assert row.run.run_id[:8] in text and f"{row.run.metrics['test/image_auroc']:.3f}" in text
    assert ("AUPRO" in text) == (width >= 80) and ("name" in text) == (width >= 140)


def board_runs(tracker: Tracker) -> list[object]:
    return [row.run for row in board(tracker).rows]


def test_runs_that_differ_only_in_their_seed(tracker: Tracker) -> None:
    text = "\n".join(lines(seeds_table(board_runs(tracker)), 100))
    assert "0 1" in text and "0.865 ± 0.007" in text


def test_words_are_wrapped_and_numbers_are_not() -> None:
    cells = ["learning_rate=0.00123456 pixel_false_positive_rate=0.02605"]
    columns = [(Column("run", text=True), ["abcd"]), (Column("differs in", text=True), cells)]
    table = from_columns("", columns)
    text = "\n".join(lines(table, 38))
    assert "0.00123456" in text and "0.02605" in text and "…" not in text


@pytest.mark.parametrize(
    ("key", "less"),
    [
        ("test/image_auroc", False),
        ("test/escape_rate", True),
        ("test/cable/false_reject_rate", True),
        ("test/escape_rate_low", True),
        ("train/loss", True),
        ("train/nll", True),
        ("codebook/dead_codes", True),
        ("codebook/pattern_dead_codes", True),
        ("codebook/perplexity", False),
        ("test/image_recall", False),
        ("codebook/concept_live", False),
    ],
)
def test_lower_is_better(key: str, less: bool) -> None:
    assert lower_is_better(key) is less
