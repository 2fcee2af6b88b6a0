"""Verdicts, p-values and calibrated values are defined once, without dependencies."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from vqlab.evaluation import CalibrationScores, Thresholds, display_unit
from vqlab.verdict import ExportedThresholds, p_value, verdict_of


@pytest.mark.parametrize("score, verdict", [(1.0, "pass"), (1.0000001, "reject"), (-5.0, "pass")])
def test_image_is_rejected_above_the_threshold(score: float, verdict: str) -> None:
    assert verdict_of(score, 1.0) == verdict == Thresholds(1.0, 0.0).verdict(score)


@pytest.mark.parametrize("score, verdict", [(1.0, "pass"), (1.1, "review"), (2.0, "review")])
def test_image_is_in_review_between_the_thresholds(score: float, verdict: str) -> None:
    assert verdict_of(score, 2.0, 1.0) == verdict == Thresholds(2.0, 0.0, review=1.0).verdict(score)


def test_p_values_include_equal_scores() -> None:
    assert [p_value(score, (1.0, 2.0, 2.0)) for score in (0, 1, 2, 3)] == [1, 1, 0.75, 0.25]
    assert p_value(1.0, ()) == 1 and math.isnan(p_value(math.nan, (1.0,)))


def test_exported_thresholds_give_the_verdicts_of_the_model() -> None:
    normal = CalibrationScores(3, (0.25, 0.5, 1.5))
    model = Thresholds(1.5, 0.0, review=1.0, calibration=normal)
    described = {"image": 1.5, "review": 1.0, "normal_scores": [0.25, 0.5, 1.5]}
    exported = ExportedThresholds.parse(described | {"unit": float(display_unit(1.5, normal))})
    for score in (-math.inf, -1.0, 0.25, 0.5, 1.25, 1.5, 1.75, math.inf):
        assert exported.verdict(score) == model.verdict(score)
        assert exported.p_value(score) == model.p_value(score)
        assert exported.calibrated(score) == pytest.approx(model.calibrated(score), rel=1e-12)


def test_thresholds_of_older_exported_models() -> None:
    old = ExportedThresholds.parse({"image": 1.0, "unit": 0.5})
    assert old.verdict(1.5) == "reject" and old.p_value(1.5) is None
    assert old.calibrated(1.5) == 0.75


def test_module_requires_the_standard_library_only() -> None:
    code = "import sys, vqlab.verdict; print({'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
