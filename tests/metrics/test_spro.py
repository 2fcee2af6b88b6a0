"""sPRO: a defect counts as its marked pixels over its saturation area, at most 1."""

from __future__ import annotations

import numpy as np
import pytest

from vqlab.metrics import Defect, PixelStream
from vqlab.metrics.groups import Array
from vqlab.metrics.regions import saturated_weights


def plain_spro(maps: Array, masks: Array, defects: list[list[Defect]], limit: float) -> float:
    """Compute sPRO by its definition for every threshold: mean over all defects, trapezoids up to
    `limit`."""
    areas = [defect.saturation * defect.mask.sum() for each in defects for defect in each]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        marked = maps >= threshold
        hits = [
            float((marked[i] & defect.mask).sum())
            for i, each in enumerate(defects)
            for defect in each
        ]
        overlap = np.mean([min(hit / area, 1) for hit, area in zip(hits, areas, strict=True)])
        points.append((float(marked[~masks].sum() / (~masks).sum()), float(overlap)))
    x, y = np.array(points).T
    inside = x <= limit
    end = np.interp(limit, x, y)
    x, y = np.append(x[inside], limit), np.append(y[inside], end)
    return float(np.trapezoid(y, x) / limit)


def random_set(seed: int, overlapping: bool) -> tuple[Array, Array, list[list[Defect]]]:
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(4, 30, 30)).astype(np.float32)
    first, second = np.zeros((2, 30, 30), bool)
    first[3:13, 3:13] = True
    second[11:15, 11:15] = True
    if not overlapping:
        second = np.roll(second, 10, axis=1)
    defects = [[], [Defect(first, 0.3), Defect(second, 1.0)], [Defect(second, 0.55)], []]
    masks = np.zeros(maps.shape, bool)
    for mask, each in zip(masks, defects, strict=True):
        for defect in each:
            mask |= defect.mask
    maps[masks] += 1.5
    return maps, masks, defects


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed: int, overlapping: bool) -> None:
    maps, masks, defects = random_set(seed, overlapping)
    summary = PixelStream().update(maps, masks, defects=defects).compute()
    expected = plain_spro(maps, masks, defects, 0.05)
    assert abs(summary.metrics["spro_005"] - expected) <= summary.bounds["spro_005"] + 1e-9
    assert summary.metrics["spro_005"] == pytest.approx(expected, abs=2e-3)
    # marking part of a mask is sufficient
    assert summary.metrics["spro_005"] > summary.metrics["aupro_005"]


def test_full_saturation_areas_give_aupro() -> None:
    """The saturation area is the complete mask, and each mask is one region."""
    maps, masks, defects = random_set(0, overlapping=False)
    unsaturated = [[Defect(defect.mask, 1.0) for defect in each] for each in defects]
    metrics = PixelStream().update(maps, masks, defects=unsaturated).compute().metrics
    assert metrics["spro_005"] == pytest.approx(metrics["aupro_005"], abs=1e-12)


def test_saturation_areas_are_required_for_every_defective_image() -> None:
    maps, masks, defects = random_set(0, overlapping=False)
    assert "spro_005" not in PixelStream().update(maps, masks).compute().metrics
    some = PixelStream().update(maps, masks, defects=[*defects[:2], [], []])
    assert "spro_005" not in some.compute().metrics


def test_constant_first_map() -> None:
    maps, masks, defects = random_set(1, overlapping=True)
    flat = np.zeros_like(maps[:1])
    order = [1, 0, 2, 3]
    maps, masks = np.concatenate([flat, maps[[0, 2, 3]]]), masks[order]
    summary = PixelStream().update(maps, masks, defects=[defects[i] for i in order]).compute()
    expected = plain_spro(maps, masks, [defects[i] for i in order], 0.05)
    assert summary.metrics["spro_005"] == pytest.approx(expected, abs=2e-3)


def test_weights_fill_each_saturation_area_from_the_highest_score() -> None:
    values = np.array([[4.0, 3.0, 2.0, 1.0]])
    weights = saturated_weights(values, [Defect(np.ones((1, 4), bool), 0.625)])
    np.testing.assert_allclose(weights, [[0.4, 0.4, 0.2, 0]])
