"""Tables at several widths of the terminal: nothing is cut, and no number is broken."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from vqlab.cli import data_tables, tables
from vqlab.cli.fit_width import Column, FittedTable, Row
from vqlab.compare import Comparison
from vqlab.data import STATISTICS, CategoryAudit, CheckReport
from vqlab.data.checks.report import CheckRow
from vqlab.data.published import Counts
from vqlab.evaluation import CalibrationScores, Report, Thresholds
from vqlab.metrics import Difference, Interval, headlines, metric_title
from vqlab.model import Model
from vqlab.predict import PredictedFile, Predictions
from vqlab.sweep import SweepResult, TrialOnTest, TrialRow
from vqlab.tracking import RunRecord

LONG = "hazelnut_with_a_long_name_of_a_product_line"
NAMES = [
    "bottle", "cable", "capsule", "carpet", "grid", LONG, "leather", "metal_nut", "pill", "screw",
    "tile", "toothbrush", "transistor", "wood", "zipper",
]  # fmt: skip
CHOSEN = Thresholds(
    4.33297, 1.234, (), "conformal", 0.05, CalibrationScores.of(np.arange(19, dtype=float))
)
HEADLINES = headlines()
WIDTHS = pytest.mark.parametrize("width", [80, 120, 200])


def lines_of(table: Any, width: int) -> list[str]:
    """As the command line prints it: on a console that wraps softly."""
    console = Console(width=width, soft_wrap=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def figures(lines: list[str]) -> list[str]:
    """All numbers with a fraction, and what is left where one is broken."""
    return re.findall(r"(?<![\w.])\d+\.\d*", "\n".join(lines))


def holds(lines: list[str], width: int, words: list[str]) -> None:
    """Nothing is wider than the terminal or cut, and all words are there, perhaps on lines."""
    assert max(map(cell_len, lines)) <= width
    assert "…" not in "".join(lines)
    columns: dict[int, str] = {}
    for line in lines:
        if line.startswith(("│", "┃")):
            for place, cell in enumerate(re.split("[│┃]", line)[1:-1]):
                columns[place] = columns.get(place, "") + cell.strip().replace(" ", "")
    rest = "".join("".join(lines).split())
    for word in words:
        plain = word.replace(" ", "")
        assert any(plain in column for column in columns.values()) or plain in rest, word


def report(names: list[str], seed: int = 0, resampled: bool = True) -> Report:
    rng = np.random.default_rng(seed)
    each = {name: {key: float(rng.random()) for key in HEADLINES} for name in names}
    mean = {key: float(np.mean([own[key] for own in each.values()])) for key in HEADLINES}
    intervals = {key: Interval(mean[key] - 0.05, mean[key] + 0.05) for key in mean}
    return Report(
        each, mean, dict(mean) if len(names) > 1 else {}, warned=tuple(names[1:2]),
        intervals={"mean": intervals} if resampled else {},
    )  # fmt: skip


@WIDTHS
def test_a_joint_model_has_a_row_per_category(width: int) -> None:
    test = report(NAMES)
    table = tables.report_table(
        "run 5ee43b1c, 45 s", [("validation", report(NAMES, 1, False)), ("test", test)], CHOSEN,
        [("test, mean_image", report(NAMES, 2))],
    )  # fmt: skip
    lines = lines_of(table, width)
    holds(lines, width, [*NAMES, "cable ⚠", "pooled", "mean ⚠", "test, mean_image, mean"])
    essential = ["image_auroc", "pixel_auroc", "aupro", "false_reject_rate", "escape_rate"]
    shown = {80: essential, 120: [*essential, "image_ap", "pixel_ap"], 200: HEADLINES}[width]
    for name, metrics in test.per_category.items():
        wanted = [f"{metrics[key]:.3f}" for key in HEADLINES if key in shown]
        first = name[:10]
        rows = [line for line in lines if line.startswith(f"│   {first}")]
        assert re.findall(r"\d\.\d{3}\b", rows[1]) == wanted
    assert all(re.fullmatch(r"\d+\.\d+", figure) for figure in figures(lines))
    interval = f"{test.mean['aupro'] - 0.05:.2f}–{test.mean['aupro'] + 0.05:.2f}"
    (place,) = (i for i, line in enumerate(lines) if interval in line)
    assert (f"{test.mean['aupro']:.3f}" in lines[place]) == (width == 200)
    assert f"{test.mean['aupro']:.3f}" in lines[place if width == 200 else place - 1]


@WIDTHS
def test_a_run_of_one_category_has_a_row_per_split(width: int) -> None:
    rows = [("validation", report(["cable"], 1, False)), ("test", report(["cable"]))]
    lines = lines_of(
        tables.report_table("run", rows, CHOSEN, [("test, mean_image", rows[1][1])]), width
    )
    holds(lines, width, ["validation", "test", "test, mean_image", "target", "≤ 0.050"])
    holds(lines, width, ["from 19 held-out normal images", "score exceeds 4.333"])
    assert not any("false rejec…" in line for line in lines)


@WIDTHS
def test_the_tables_of_a_study_fit(width: int) -> None:
    params = {
        "recipe": "x", "detector.codebook_size": 512, "training.learning_rate": 1e-4,
        "detector.scoring.terms": '["error","context"]', "detector.commitment": 0.0712345,
    }  # fmt: skip
    trials = [
        TrialRow(n, state, value, params, "0123456789ab", 12.3, reason, None, recipe)
        for n, state, value, reason, recipe in (
            (0, "COMPLETE", 0.812345, "", "memory_bank"), (11, "PRUNED", None, "epoch 3", "vqvae"),
            (12, "COMPLETE", 0.7, "", "paper/vqflow_mvtec"),
        )
    ]  # fmt: skip
    values = [{f"{split}/{key}": 0.8123 for key in HEADLINES} for split in ("validation", "test")]
    why = ("winner", "earlier winner", "on request")
    tested = [
        TrialOnTest(row.number, reason, "0123456789ab", *values, (), row.recipe)  # type: ignore[arg-type]
        for row, reason in zip(trials, why, strict=True)
    ]
    result: SweepResult = SimpleNamespace(  # type: ignore[assignment]
        study="cable-all-quick-9f3d", objective="validation/pixel_ap", best=trials[0],
        trials=trials, tested=tested, recipes={"memory_bank": trials[0], LONG: None},
    )  # fmt: skip
    lines = lines_of(tables.trials_table(result), width)
    chosen = ["codebook_size=512", "learning_rate=0.0001", "terms=error+context"]
    holds(lines, width, [*chosen, "commitment=0.07123", "(epoch 3)", "paper/vqflow_mvtec"])
    for words in chosen:
        assert sum(words in line for line in lines) == 3  # not broken
    lines = lines_of(tables.tested_table(result), width)
    holds(lines, width, ["earlier winner", "on request", "01234567", "12 (paper/vqflow_mvtec)"])
    assert len([line for line in lines if line.startswith("┏")]) == 1
    digits = 3 if width == 80 else 4
    assert len(re.findall(rf"\b0\.\d{{{digits}}}\b", "\n".join(lines))) == 3 * 4 * 2
    holds(lines_of(tables.recipes_table(result), width), width, [LONG, "s per trial", "0.8123"])
    keyed = {"validation": (values[0], "validation"), "test": (values[1], "test")}
    lines = lines_of(tables.figures_table("best", keyed, warned=True, thresholds=CHOSEN), width)
    holds(lines, width, ["validation", "test ⚠", "conformal", "image metrics may be inflated"])


@WIDTHS
def test_the_comparison_fits(width: int) -> None:
    names = ("003 K=512 β=0.07 · vqvae", "memory_bank-cable-resnet18-quick")
    runs: list[RunRecord] = [
        SimpleNamespace(run_id="0123456789ab", name=name)  # type: ignore[misc]
        for name in names
    ]
    each = {key: Difference(0.0123, Interval(-0.0121, 0.0345), 0.3) for key in HEADLINES}
    pairs = {key: (0.8, 0.81) for key in HEADLINES}
    found = Comparison(*runs, {"cable": pairs}, {"cable": each}, ["cable"])
    (table,) = tables.comparison_tables(found)
    lines = lines_of(table, width)
    holds(lines, width, [*names, "cable ⚠", *map(metric_title, HEADLINES)])
    assert sum("+0.012  [-0.012, +0.035]" in line for line in lines) == len(HEADLINES)


@WIDTHS
def test_counts_of_few_images_are_shown_beside_rates(width: int) -> None:
    few = Report(
        {"cable": {"image_auroc": 1.0, "escape_rate": 0.0, "false_reject_rate": 1 / 3}},
        {"image_auroc": 1.0, "escape_rate": 0.0, "false_reject_rate": 1 / 3},
        images={"cable": {"normal_images": 3, "anomalous_images": 6}},
        intervals={"mean": {"escape_rate": Interval(0, 0.459)}},
    )
    lines = lines_of(tables.report_table("run", [("test", few)]), width)
    holds(lines, width, ["0 of 6", "0.00–0.46", "1 of 3", "Clopper–Pearson"])
    assert not any("1.00–1.00" in line for line in lines)


@WIDTHS
def test_a_difference_without_interval_says_why(width: int) -> None:
    runs: list[RunRecord] = [SimpleNamespace(run_id="0123456789ab", name="a")] * 2  # type: ignore[list-item]
    each = {
        "image_auroc": Difference(1.0, None, None, "every resample gives the same value"),
        "escape_rate": Difference(0.0, None, 1.0, "same verdict on every image"),
    }
    values = {"image_auroc": (0.0, 1.0), "escape_rate": (0.5, 0.5)}
    images = {"cable": {"normal_images": 3, "anomalous_images": 6}}
    found = Comparison(*runs, {"cable": values}, {"cable": each}, images=images)
    (table,) = tables.comparison_tables(found)
    lines = lines_of(table, width)
    holds(lines, width, ["0.500 (3 of 6)", "+1.000  no interval", "every resample gives the same"])
    holds(lines, width, ["3 normal and 6 anomalous images"])


@WIDTHS
def test_predictions_fit(width: int) -> None:
    paths = ["cable/005.png", f"/home/a b/2024-01-02 [left]/{LONG}_of_camera_0001.png"]
    summary = Predictions(Path())
    summary.add(
        [
            PredictedFile(paths[0], 5.1234, 4.33297, 0.951, "reject", marked=0.1),
            PredictedFile(paths[1], 5.1234, 4.33297, 0.951, "pass", marked=0.0),
            PredictedFile("cut.png", None, 4.33297, None, "unreadable", reason="it is empty"),
        ]
    )
    model: Model = SimpleNamespace(category="cable", thresholds=CHOSEN)  # type: ignore[assignment]
    lines = lines_of(tables.prediction_table(summary, model), width)
    title = "cable: 1 of 3 images rejected, 1 unreadable"
    holds(lines, width, [title, *paths, "cut.png", "held-out normal images"])
    first, second = (line for line in lines if "5.123" in line)
    assert any("calibrated" in line for line in lines) == (width == 200)
    assert "reject" in first and "10.0%" in first and " pass " in second and "%" not in second


@WIDTHS
def test_check_and_audit_fit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=width, soft_wrap=True, highlight=False)
    monkeypatch.setattr(data_tables, "out", console)
    row = CheckRow(LONG, Counts(391, 40, 70), 70, "640x480 to 1024x1024", "has 391 / 40 / 71", "")
    with console.capture() as capture:
        tables.check_table(CheckReport(Path("MVTec"), "MVTec AD layout", [row]))
    words = ["391", "test anomalous", "640x480 to 1024x1024", "has 391 / 40 / 71", LONG]
    holds(capture.get().splitlines(), width, words)
    aurocs = {name: 0.9123 for name in STATISTICS}
    rows = [
        CategoryAudit(name, 9, 9, aurocs, dict.fromkeys(STATISTICS, True), "keep") for name in NAMES
    ]
    with console.capture() as capture:
        tables.audit_table(rows, STATISTICS)
    lines = capture.get().splitlines()
    table = [line for line in lines if not line.startswith("warning")]
    holds(table, width, [*NAMES, *STATISTICS.values()])
    assert "\n".join(table).count("0.912 ↑") == len(NAMES) * len(STATISTICS)


TEXTS = st.text("ab_/-.1 ", min_size=1, max_size=60).map(lambda text: " ".join(text.split()) or "a")
FIGURES = st.floats(0, 1).map(lambda value: f"{value:.3f}")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, st.lists(FIGURES, min_size=9, max_size=9)), min_size=1, max_size=3),
    st.integers(40, 200),
)
def test_any_table_fits_and_keeps_every_figure(
    rows: list[tuple[str, list[str]]], width: int
) -> None:
    columns = [Column("name", text=True), *(Column(f"figure {n}") for n in range(9))]
    table = FittedTable("a table", columns, [Row([name, *cells]) for name, cells in rows])
    lines = lines_of(table, width)
    assert max(map(cell_len, lines)) <= width
    said = "\n".join(line for line in lines if line.startswith("│"))
    for cells in (cells for _, cells in rows):
        for cell in cells:
            assert cell in said
    if width < 80:
        assert len([line for line in lines if line.startswith("┏")]) > 1
