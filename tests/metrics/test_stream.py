"""Streaming metrics in bins agree with sorting within their stated bound."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import f1_score

from vqlab.metrics import PixelStream, Regions, rates, summarise_pixels
from vqlab.metrics.kernels import BITS, SIDE
from vqlab.metrics.stream import Bins
from vqlab.metrics.summary import pixel_metrics

ROUNDING = 1e-12


def smooth_maps(count: int = 12, side: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return maps (n, h, w) float32 of smooth noise with raised ellipses, and their masks."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((count, side, side)), (0, 3, 3))
    maps = (noise / noise.std() + 0.05 * rng.standard_normal(noise.shape)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    y, x = np.mgrid[:side, :side] / side
    for mask in masks[::2]:
        for _ in range(rng.integers(1, 4)):
            cx, cy, a, b = *rng.uniform(0.2, 0.8, 2), *rng.uniform(0.04, 0.12, 2)
            mask |= ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
    maps[masks] += 1.5
    return maps, masks


def stream(maps, masks, batch: int = 5, **settings_) -> PixelStream:
    made = PixelStream(**settings_)
    for start in range(0, len(maps), batch):
        made.update(maps[start : start + batch], masks[start : start + batch])
    return made


def assert_within_bounds(maps, masks) -> None:
    result, exact = stream(maps, masks).compute(), summarise_pixels(list(maps), list(masks))
    assert result.metrics.keys() == exact.metrics.keys() == result.bounds.keys()
    for name, value in exact.metrics.items():
        assert abs(result.metrics[name] - value) <= result.bounds[name] + ROUNDING, name
        assert exact.bounds[name] == 0


@st.composite
def any_maps(draw):
    kind = draw(st.sampled_from([np.float32, np.float64, np.float16, np.int16]))
    if kind == np.int16:
        values = st.integers(-300, 300)
    elif kind == np.float16:
        values = st.floats(-1000, 1000, width=16)
    else:
        few = st.sampled_from([-3e6, -1.0, 0.0, 1e-30, 0.5, 2.0, 7e7, 3e38])
        near = st.floats(-1e6 - 1, -1e6 + 1, width=32)
        values = draw(
            st.sampled_from([few, near, st.floats(-float(2**99), float(2**99), width=32)])
        )
    maps, masks = [], []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
        constant = draw(st.booleans()) and draw(st.booleans())
        fill = np.full(shape, draw(values), kind)
        maps.append(fill if constant else draw(hnp.arrays(kind, shape, elements=values)))
        masks.append(draw(hnp.arrays(np.bool_, shape)))
    masks[0][0, 0], masks[0][1, 1] = True, False
    return maps, masks


@given(any_maps())
def test_agrees_with_sorting_within_the_stated_bound(case):
    assert_within_bounds(*case)


WARPS = {
    "as they are": lambda m: m,
    "log-likelihoods": lambda m: m - np.float32(1e6),
    "tiny": lambda m: m * np.float32(1e-20),
    "huge": lambda m: m * np.float32(1e20),
    "negative": lambda m: m - np.float32(1000),
    "probabilities": lambda m: 1 / (1 + np.exp(-m)),
    "squared errors": lambda m: np.exp(3 * m),
    "float64": lambda m: m.astype(np.float64) - 1e9,
}


@pytest.mark.parametrize("name", WARPS)
def test_increasing_transforms_change_metrics_within_the_bound(name):
    maps, masks = smooth_maps()
    transformed = WARPS[name](maps)
    assert_within_bounds(transformed, masks)
    result = stream(transformed, masks).compute()
    # rounding may create ties: compare with the transformed scores
    exact = pixel_metrics(list(transformed), list(masks))
    for metric, bound in result.bounds.items():
        assert abs(result.metrics[metric] - exact[metric]) <= bound + ROUNDING
    # few distinct float32 values: all ties are exact
    limit = 1e-4 if name != "log-likelihoods" else 1e-9
    assert max(result.bounds.values()) < limit, name


def test_ties_are_counted_exactly():
    maps, masks = smooth_maps()
    coarse = np.round(maps * 2) / 2
    result, exact = stream(coarse, masks).compute(), pixel_metrics(list(coarse), list(masks))
    assert result.bounds == {name: 0 for name in exact}
    assert result.metrics == pytest.approx(exact, abs=ROUNDING)


def test_constant_maps_are_a_single_tie():
    masks = smooth_maps(4)[1]
    for value in (0.0, -7.5e8, 3e-40):
        maps = np.full(masks.shape, value, np.float32)
        result = stream(maps, masks).compute()
        assert result.metrics["pixel_auroc"] == 0.5
        assert result.metrics["pixel_ap"] == pytest.approx(masks.mean())
        assert set(result.bounds.values()) == {0.0}


def test_negative_zero_equals_zero():
    for kind in (np.float32, np.float64):
        maps, mask = np.array([[[-0.0, 1], [0, 0]]], kind), np.array([[[1, 0], [0, 0]]], bool)
        assert_within_bounds(maps, mask)


def test_constant_maps_before_the_bins_are_fixed_are_included():
    maps, masks = smooth_maps(6)
    maps[:2] = 0.25
    maps[2] = -0.5
    assert_within_bounds(maps, masks)
    late = stream(maps, masks, keep_images=True)
    assert len(late.images) == 6
    for image, mask in zip(late.images, masks, strict=True):
        defective = image[1].sum() if len(image) == 3 else 0
        assert (image[0].sum(), defective) == ((~mask).sum(), mask.sum())


def test_outlier_does_not_reduce_the_resolution():
    maps, masks = smooth_maps()
    maps[0, 0, 0], maps[3, 1, 1] = 3e38, -3e38
    assert_within_bounds(maps, masks)
    assert max(stream(maps, masks).compute().bounds.values()) < 1e-4


def test_f1max_is_attained_at_its_threshold():
    maps, masks = smooth_maps()
    result = stream(maps, masks).compute()
    flagged = maps >= np.float32(result.f1max_threshold)
    f1 = 2 * np.sum(flagged & masks) / (np.sum(flagged) + masks.sum())
    assert result.metrics["pixel_f1max"] == pytest.approx(f1, abs=ROUNDING)


def test_metrics_are_independent_of_the_batch_size():
    maps, masks = smooth_maps()
    single, batched = stream(maps, masks, 1).compute(), stream(maps, masks, 12).compute()
    assert single.metrics == batched.metrics
    assert single.bounds == batched.bounds


def test_missing_masks_are_normal():
    maps, _ = smooth_maps(3)
    assert PixelStream().update(maps).compute().metrics == {}


@pytest.mark.parametrize("values", [np.float32, np.float64])
def test_bin_index_is_monotonic(values):
    rng = np.random.default_rng(1)
    scores = np.sort(np.concatenate([rng.normal(0, s, 4000) for s in (1e-6, 1, 1e6, 1e30)]))
    bins = Bins(values(0.3), values(7), False)
    places = bins.places(scores.astype(values))
    assert (np.diff(places) >= 0).all()
    assert places.min() >= 0
    assert places.max() < 2 * SIDE
    near = np.abs(scores - 0.3) < 1e6  # never wider than the relative resolution
    edges = np.array([bins.edge(int(p)) for p in np.unique(places[near])[::97]])
    width = np.array([bins.edge(int(p) + 1) for p in np.unique(places[near])[::97]]) - edges
    assert (width <= 2**-BITS * (np.abs(edges - 0.3) + width + 1 / 7) * 1.001).all()


def test_edge_is_the_smallest_value_of_its_bin():
    bins = Bins(np.float32(-3), np.float32(11), False)
    for value in (-1e5, -3.0, -2.99, 0.0, 4.2e7):
        place = int(bins.places(np.array([value], np.float32))[0])
        edge = np.float32(bins.edge(place))
        assert bins.places(np.array([edge]))[0] == place
        below = np.nextafter(edge, np.float32(-np.inf))
        assert bins.places(np.array([below]))[0] < place


def test_counts_at_a_threshold():
    maps, masks = smooth_maps()
    result = rates("pixel", stream(maps, masks, threshold=1.1).at)
    flagged = maps > 1.1
    both = np.sum(flagged & masks)
    assert result["pixel_iou"] == pytest.approx(both / np.sum(flagged | masks))
    f1 = f1_score(masks.ravel(), flagged.ravel())
    assert result["seg_f1"] == pytest.approx(f1)
    assert result["pixel_recall"] == pytest.approx(both / masks.sum())
    assert result["pixel_precision"] == pytest.approx(both / flagged.sum())
    shares = []
    for hit, mask in zip(flagged, masks, strict=True):
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        shares += [hit[regions == region].mean() for region in range(1, count + 1)]
    assert result["region_overlap"] == pytest.approx(np.mean(shares))
    assert "pixel_precision" not in rates("pixel", stream(maps, masks, threshold=1e9).at)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_regions_agree_with_scipy(mask):
    expected, count = ndimage.label(mask, np.ones((3, 3)))
    result = Regions.of(mask)
    assert result.count == count
    painted = np.zeros(mask.shape, int)
    height, width = result.labels.shape
    painted[result.top : result.top + height, result.left : result.left + width] = result.labels
    assert (painted > 0).tolist() == mask.tolist()
    pairs = {(int(a), int(b)) for a, b in zip(painted.ravel(), expected.ravel(), strict=True)}
    assert len(pairs) == count + (not mask.all())  # one-to-one correspondence of labels
    areas = np.bincount(painted[mask], minlength=1)[1:]
    assert result.areas.tolist() == areas.tolist()
    assert result.pixel_weights() == pytest.approx(1 / areas[painted[mask] - 1])


def test_spiral_is_one_region():
    mask = np.zeros((9, 9), bool)
    mask[0, :] = mask[:, 8] = mask[8, :] = mask[2:, 0] = mask[2, :7] = mask[2:7, 6] = True
    mask[6, 2:7] = mask[4:7, 2] = True
    assert Regions.of(mask).count == 1


def test_nan_error_names_position_and_keeps_previous_maps():
    maps, masks = smooth_maps(6)
    bad = maps.copy()
    bad[4, 3, 3], bad[4, 4, 4] = np.nan, np.inf
    broken = PixelStream().update(bad[:1], masks[:1])
    with pytest.raises(ValueError, match="got 2 NaN or infinite at index 4"):
        broken.update(bad[1:], masks[1:])
    assert broken.compute().metrics == stream(maps[:4], masks[:4]).compute().metrics
    with pytest.raises(ValueError, match="at index 0"):
        PixelStream().update(np.full((1, 4, 4), np.nan))


def test_mismatched_shapes_raise():
    with pytest.raises(ValueError, match=r"map \(4, 4\) and mask \(4, 5\) at index 0"):
        PixelStream().update(np.zeros((1, 4, 4)), np.zeros((1, 4, 5)))
    with pytest.raises(ValueError, match="got 2 and 1"):
        PixelStream().update(np.zeros((2, 4, 4)), np.zeros((1, 4, 4)))


def test_memory_is_independent_of_the_number_of_images():
    maps, masks = smooth_maps(8, 128)
    counted = stream(maps, masks)
    counted.compute()
    tracemalloc.start()
    for _ in range(40):
        counted.update(maps, masks)
    grown, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counted.seen == 41 * 8
    assert grown < 50_000
    assert peak < 2_000_000


def test_bin_counts_exceed_16_bits():
    # 90,000 pixels in one bin; a 16-bit count holds 65,535
    maps = np.zeros((4, 300, 300), np.float32)
    maps[:, 5:9, 20:90] = 1
    masks = np.zeros(maps.shape, bool)
    masks[1, 4:280, 10:200] = masks[3, 7, 40:60] = True
    assert_within_bounds(maps, masks)
    broken, bad = stream(maps, masks), maps[:1].copy()
    bad[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="at index 4"):
        broken.update(bad)
    assert broken.compute().metrics == stream(maps, masks).compute().metrics


def test_mostly_defective_map():
    maps, masks = smooth_maps()
    masks[3, 2:] = True
    assert_within_bounds(maps, masks)


def test_update_after_compute():
    maps, masks = smooth_maps()
    maps[6:] *= 3  # outside the range of the first maps
    early = stream(maps[:6], masks[:6])
    early.compute()
    early.update(maps[6:], masks[6:])
    assert early.compute().metrics == pytest.approx(stream(maps, masks).compute().metrics)
