"""Tables of metrics fit the terminal."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
from table_texts import CHOSEN, HEADLINES, NAMES, WIDTHS, assert_complete, figures, lines_of

from vqlab.cli import metric_tables
from vqlab.compare import Comparison
from vqlab.evaluation import Report
from vqlab.metrics import Difference, Interval, metric_title
from vqlab.tracking import RunRecord


def report(names: list[str], seed: int = 0, resampled: bool = True) -> Report:
    rng = np.random.default_rng(seed)
    each = {name: {key: float(rng.random()) for key in HEADLINES} for name in names}
    mean = {key: float(np.mean([metrics[key] for metrics in each.values()])) for key in HEADLINES}
    intervals = {key: Interval(mean[key] - 0.05, mean[key] + 0.05) for key in mean}
    return Report(
        each, mean, dict(mean) if len(names) > 1 else {}, warned=tuple(names[1:2]),
        intervals={"mean": intervals} if resampled else {},
    )  # fmt: skip


@WIDTHS
def test_table_of_a_joint_model_has_one_row_per_category(width: int) -> None:
    test = report(NAMES)
    table = metric_tables.report_table(
        "run 5ee43b1c, 45 s", [("validation", report(NAMES, 1, False)), ("test", test)], CHOSEN,
        [("test, mean_image", report(NAMES, 2))],
    )  # fmt: skip
    lines = lines_of(table, width)
    assert_complete(lines, width, [*NAMES, "cable ⚠", "pooled", "mean ⚠", "test, mean_image, mean"])
    essential = ["image_auroc", "pixel_auroc", "aupro", "false_reject_rate", "escape_rate"]
    columns = {80: essential, 120: [*essential, "image_ap", "pixel_ap"], 200: HEADLINES}[width]
    for name, metrics in test.per_category.items():
        expected = [f"{metrics[key]:.3f}" for key in HEADLINES if key in columns]
        first = name[:10]
        rows = [line for line in lines if line.startswith(f"│   {first}")]
        assert re.findall(r"\d\.\d{3}\b", rows[1]) == expected
    assert all(re.fullmatch(r"\d+\.\d+", figure) for figure in figures(lines))
    interval = f"{test.mean['aupro'] - 0.05:.2f}–{test.mean['aupro'] + 0.05:.2f}"
    (place,) = (i for i, line in enumerate(lines) if interval in line)
    assert (f"{test.mean['aupro']:.3f}" in lines[place]) == (width == 200)
    assert f"{test.mean['aupro']:.3f}" in lines[place if width == 200 else place - 1]


@WIDTHS
def test_table_of_a_single_category_has_one_row_per_split(width: int) -> None:
    rows = [("validation", report(["cable"], 1, False)), ("test", report(["cable"]))]
    lines = lines_of(
        metric_tables.report_table("run", rows, CHOSEN, [("test, mean_image", rows[1][1])]), width
    )
    assert_complete(lines, width, ["validation", "test", "test, mean_image", "target", "≤ 0.050"])
    assert_complete(lines, width, ["from 19 held-out normal images", "score exceeds 4.333"])
    assert not any("false rejec…" in line for line in lines)


@WIDTHS
def test_comparison_fits(width: int) -> None:
    names = ("003 K=512 β=0.07 · vqvae", "memory_bank-cable-resnet18-quick")
    runs: list[RunRecord] = [
        SimpleNamespace(run_id="0123456789ab", name=name)  # type: ignore[misc]
        for name in names
    ]
    each = {key: Difference(0.0123, Interval(-0.0121, 0.0345), 0.3) for key in HEADLINES}
    pairs = {key: (0.8, 0.81) for key in HEADLINES}
    comparison = Comparison(*runs, {"cable": pairs}, {"cable": each}, ["cable"])
    (table,) = metric_tables.comparison_tables(comparison)
    lines = lines_of(table, width)
    assert_complete(lines, width, [*names, "cable ⚠", *map(metric_title, HEADLINES)])
    assert sum("+0.012  [-0.012, +0.035]" in line for line in lines) == len(HEADLINES)


@WIDTHS
def test_rates_show_the_number_of_images(width: int) -> None:
    few = Report(
        {"cable": {"image_auroc": 1.0, "escape_rate": 0.0, "false_reject_rate": 1 / 3}},
        {"image_auroc": 1.0, "escape_rate": 0.0, "false_reject_rate": 1 / 3},
        images={"cable": {"normal_images": 3, "anomalous_images": 6}},
        intervals={"mean": {"escape_rate": Interval(0, 0.459)}},
    )
    lines = lines_of(metric_tables.report_table("run", [("test", few)]), width)
    assert_complete(lines, width, ["0 of 6", "0.00–0.46", "1 of 3", "Clopper–Pearson"])
    assert not any("1.00–1.00" in line for line in lines)


@WIDTHS
def test_difference_without_interval_states_the_reason(width: int) -> None:
    runs: list[RunRecord] = [SimpleNamespace(run_id="0123456789ab", name="a")] * 2  # type: ignore[list-item]
    each = {
        "image_auroc": Difference(1.0, None, None, "every resample gives the same value"),
        "escape_rate": Difference(0.0, None, 1.0, "same verdict on every image"),
    }
    values = {"image_auroc": (0.0, 1.0), "escape_rate": (0.5, 0.5)}
    images = {"cable": {"normal_images": 3, "anomalous_images": 6}}
    comparison = Comparison(*runs, {"cable": values}, {"cable": each}, images=images)
    (table,) = metric_tables.comparison_tables(comparison)
    lines = lines_of(table, width)
    assert_complete(
        lines, width, ["0.500 (3 of 6)", "+1.000  no interval", "every resample gives the same"]
    )
    assert_complete(lines, width, ["3 normal and 6 anomalous images"])
