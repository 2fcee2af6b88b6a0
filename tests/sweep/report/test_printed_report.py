"""The report of a study, printed on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from vqlab.sweep.report import ReportContext, write_report
from vqlab.sweep.study.studies import Studies

pytestmark = pytest.mark.slow
PORTRAIT, LANDSCAPE = 688, 1016
"""Widths of a page of A4 between its margins in CSS pixels."""
RIGHT = """
name => Math.max(...[...document.querySelectorAll(name)].map(n => n.getBoundingClientRect().right))
"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Report of a study with 12 settings, whose table is wider than the paper."""
    study = optuna.create_study(study_name="wide", direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        return sum(trial.suggest_float(f"detector.part.setting_{i}", 0, 1) for i in range(12))

    study.optimize(objective, 6)
    studies = Studies("wide", {"": study})
    return write_report(studies, ["validation/pixel_auroc"], tmp_path, ReportContext())[1]


def test_no_chart_or_table_is_clipped(browser: Any, report: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    page.goto(report.as_uri())
    before = page.evaluate(RIGHT, ".main-svg")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.set_viewport_size({"width": LANDSCAPE, "height": 900})
    assert page.evaluate(RIGHT, "#all") <= LANDSCAPE
    page.set_viewport_size({"width": PORTRAIT, "height": 900})
    assert page.evaluate(RIGHT, ".main-svg") <= PORTRAIT < before
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    fills = page.evaluate("[...document.querySelectorAll('.xtick text')].map(n => n.style.fill)")
    assert set(fills) == {"rgb(31, 41, 51)"}
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(RIGHT, ".main-svg") == pytest.approx(before, abs=20)
    assert page.pdf().startswith(b"%PDF")
    page.close()
