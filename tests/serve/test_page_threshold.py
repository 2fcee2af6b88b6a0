"""The threshold simulation of the page equals that of `vqlab.evaluation`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from inspection import opened
from tiny_set import tiny_recipe

from vqlab.evaluation import CalibrationScores, operating_point
from vqlab.model import Model
from vqlab.run import Recording, resolve, run
from vqlab.serve.operating_points import defect_scores, normal_scores
from vqlab.tracking import CHECKPOINT, Tracker

pytestmark = pytest.mark.slow
COUNTS = """
async ([points, thresholds]) => {
  const { rejects, escapes } = await import("/page/operating.js");
  return thresholds.map((image) => {
    const counts = [rejects(points, image), escapes(points, { image, review: null })];
    const inReview = escapes(points, { image: image + 1, review: image }); // escapes are below it
    if (JSON.stringify(inReview) !== JSON.stringify(counts[1])) throw new Error(image);
    return counts;
  });
}
"""


def expected(threshold: float, normals: CalibrationScores | None, defects: list[float]) -> list:
    """Return the numbers of the page as computed in Python."""
    point = operating_point(threshold, normals, defects)
    pairs = ((point.rejects, point.reject_interval), (point.escapes, point.escape_interval))
    return [
        count and {"hits": count.hits, "total": count.total, "interval": list(interval)}
        for count, interval in pairs
    ]


def thresholds_around(scores: list[float]) -> list[float]:
    """Return thresholds below, at, next to, between and above scores."""
    near = [math.nextafter(each, side) for each in scores for side in (-math.inf, math.inf)]
    between = [(a + b) / 2 for a, b in zip(scores, scores[1:], strict=False)]
    return [scores[0] - 1, *scores, *near, *between, scores[-1] + 1]


def older(scores: np.ndarray) -> CalibrationScores:
    """Return the calibration of an older checkpoint, which has quantiles only."""
    return CalibrationScores(len(scores), CalibrationScores.of(scores).quantiles)


def test_counts_and_intervals_agree(browser: Any, server: str) -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=300)
    tied = np.round(rng.normal(size=40), 1)
    defects = sorted(np.round(rng.normal(1, 1, 25), 1).tolist())
    with opened(browser, server) as page:
        for normals in (None, *map(CalibrationScores.of, (many, tied, tied[:1])), older(many)):
            for known_defects in (defects, []):
                thresholds = thresholds_around(sorted({*tied.tolist(), *many[::9], *defects}))
                points = {
                    "normals": normal_scores(normals),
                    "defects": defect_scores(known_defects),
                }
                counts = page.evaluate(COUNTS, [points, thresholds])
                assert counts == [expected(each, normals, known_defects) for each in thresholds]


def test_text_for_a_tested_model(
    browser: Any, mlruns: Path, images: Path, part_server: str
) -> None:
    """A version with known defects beside the champion: API, chart and text."""
    tracker = Tracker.open(mlruns)
    recipe = tiny_recipe(images, "part", seed=2)
    recording = Recording(name="tested", results=mlruns.parent / "results")
    run_id = run(resolve(recipe), tracker, recording).run_id
    registered = tracker.registry.register(run_id, CHECKPOINT, "part")
    version = registered.version
    thresholds = Model.load(tracker.registry.checkpoint(registered), "cpu").thresholds
    address = f"{part_server}/v1/categories/part/operating-points"
    points = requests.get(address, params={"version": version}, timeout=30).json()
    defects = points["defects"]["scores"]
    assert len(defects) == 4
    with opened(browser, part_server) as page:
        page.wait_for_selector(".meaning")
        page.locator("#version").select_option(str(version))
        page.wait_for_selector(f"[aria-label='Threshold of part version {version}']")
        for image in (thresholds.image, defects[1], defects[-1] + 1):
            page.locator(".threshold-field").fill(repr(image))
            page.keyboard.press("Enter")
            point = operating_point(image, thresholds.calibration, defects)
            text = page.locator(".meaning").inner_text()
            assert f"of the known defects {point.escapes.hits} of 4 escape" in text
            share = 100 * point.rejects.hits / point.rejects.total
            assert float(re.search(r"about (\S+) would", text)[1]) == pytest.approx(share, abs=0.5)
