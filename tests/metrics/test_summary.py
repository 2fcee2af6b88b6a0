from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from vqlab.metrics import FPR_LIMIT, image_metrics, summarise_images, summarise_pixels
from vqlab.metrics.summary import pixel_metrics

# Metrics by their definition, threshold by threshold: slow, simple and independent of vqlab.


def plain_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the probability that a positive exceeds a negative; a tie counts one half."""
    pairs = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return float(np.mean((pairs[0] > pairs[1]) + 0.5 * (pairs[0] == pairs[1])))


def plain_f1max(scores: np.ndarray, labels: np.ndarray) -> float:
    best = 0.0
    for threshold in np.unique(scores):
        flagged = scores >= threshold
        hits = np.sum(flagged & (labels == 1))
        best = max(best, 2 * hits / (np.sum(flagged) + np.sum(labels == 1)))
    return float(best)


def regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Return 8-connected regions by flood fill."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    result = []
    while left:
        region, front = [], [left.pop()]
        while front:
            y, x = front.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        result.append(region)
    return result


def plain_aupro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    thresholds = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    every = [(m, r) for m, mask in zip(maps, masks, strict=True) for r in regions(mask)]
    normal = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    x, y = [0.0], [0.0]
    for threshold in thresholds:
        x.append(float(np.mean(normal >= threshold)))
        y.append(float(np.mean([np.mean([m[p] >= threshold for p in r]) for m, r in every])))
    area = 0.0
    for x0, x1, y0, y1 in zip(x[:-1], x[1:], y[:-1], y[1:], strict=True):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        at_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + at_end) / 2
    return area / limit


# Few distinct values, so that ties are frequent, including large, tiny and negative ones.
TIED = st.sampled_from([-1e300, -5e6, -1.5, -0.0, 0.0, 1e-300, 0.25, 1.0, 1e9, 1e300])
LOOSE = st.floats(-1e12, 1e12, allow_nan=False)


@st.composite
def images(draw, values=TIED | LOOSE):
    labels = draw(st.lists(st.integers(0, 1), min_size=2, max_size=40))
    labels = [0, 1, *labels]
    scores = draw(st.lists(values, min_size=len(labels), max_size=len(labels)))
    return np.array(scores, dtype=np.float64), np.array(labels)


@st.composite
def maps_and_masks(draw):
    kind = draw(st.sampled_from([np.float32, np.float64]))
    maps, masks = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(2, 7), st.integers(2, 7)))
        few = st.sampled_from([-3e6, -1.0, 0.0, 0.5, 2.0, 7e7])
        many = st.floats(-100, 100, width=16)
        maps.append(draw(hnp.arrays(kind, shape, elements=draw(st.sampled_from([few, many])))))
        masks.append(draw(hnp.arrays(np.bool_, shape)))
    masks[0][0, 0], masks[0][1, 1] = True, False
    return maps, masks


@given(images())
def test_image_metrics_agree_with_definition_and_scikit_learn(case):
    scores, labels = case
    result = image_metrics(scores, labels)
    assert result["image_auroc"] == pytest.approx(plain_auroc(scores, labels), abs=1e-12)
    assert result["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert result["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert result["image_f1max"] == pytest.approx(plain_f1max(scores, labels), abs=1e-12)


def plain_presorted(scores: np.ndarray, labels: np.ndarray, share: float) -> tuple[float, float]:
    """Return PG and PB threshold by threshold for the verdict `score > threshold`."""
    good = bad = 0.0
    for threshold in (-np.inf, *np.unique(scores)):
        rejected = scores > threshold
        if np.mean(~rejected[labels == 1]) <= share:
            good = max(good, float(np.mean(~rejected[labels == 0])))
        if np.mean(rejected[labels == 0]) <= share:
            bad = max(bad, float(np.mean(rejected[labels == 1])))
    return good, bad


@given(images(), st.sampled_from([1, 60]))
def test_presorted_shares_agree_with_their_definition(case, copies):
    scores, labels = (np.repeat(part, copies) for part in case)
    scores = scores + np.arange(len(scores)) % copies  # one of 60 copies may be missed
    result = image_metrics(scores, labels)
    expected = plain_presorted(scores, labels, 0.02)
    assert (result["pg2"], result["pb2"]) == pytest.approx(expected, abs=1e-12)


@given(images(LOOSE), st.integers(0, 41), st.floats(0, 1e6))
def test_presorted_shares_increase_with_anomalous_scores(case, index, lift):
    scores, labels = case
    index %= len(labels)
    moved = scores.copy()
    moved[index] += lift if labels[index] else -lift
    before, after = image_metrics(scores, labels), image_metrics(moved, labels)
    assert after["pg2"] >= before["pg2"] and after["pb2"] >= before["pb2"]


def test_presorted_shares_of_perfect_separation_and_ties():
    labels = np.repeat([0, 1], 10)
    perfect = image_metrics(np.arange(20.0), labels)
    assert perfect["pg2"] == perfect["pb2"] == 1
    tied = image_metrics(np.zeros(20), labels)
    assert tied["pg2"] == tied["pb2"] == 0  # all images have the same verdict
    scores = np.arange(20.0)
    scores[10] = 4.5  # rejecting the last defect costs five good parts
    assert image_metrics(scores, labels)["pg2"] == 0.5
    assert image_metrics(scores, labels)["pb2"] == 0.9


@given(maps_and_masks())
def test_pixel_metrics_agree_with_definition_and_scikit_learn(case):
    maps, masks = case
    scores = np.concatenate([m.ravel() for m in maps]).astype(np.float64)
    labels = np.concatenate([m.ravel() for m in masks]).astype(int)
    result = pixel_metrics(maps, masks)
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert result["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert result["pixel_f1max"] == pytest.approx(plain_f1max(scores, labels), abs=1e-12)
    assert result["aupro"] == pytest.approx(plain_aupro(maps, masks, FPR_LIMIT), abs=1e-12)
    assert result["aupro_005"] == pytest.approx(plain_aupro(maps, masks, 0.05), abs=1e-12)


def test_larger_maps_agree_with_scikit_learn():
    rng = np.random.default_rng(3)
    maps = [rng.normal(-1e6, 1, (64, 48)).astype(np.float32) for _ in range(8)]
    masks = [np.zeros((64, 48), bool) for _ in maps]
    for map_, mask in zip(maps[::2], masks[::2], strict=True):
        mask[5:20, 7:30] = mask[40:43, 2:6] = True
        map_[mask] += rng.normal(1, 1, mask.sum()).astype(np.float32)
    scores, labels = np.stack(maps).ravel(), np.stack(masks).ravel()
    precision, recall, _ = precision_recall_curve(labels, scores)
    result = pixel_metrics(maps, masks)
    assert result["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert result["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    best = np.max(2 * precision * recall / (precision + recall + 1e-30))
    assert result["pixel_f1max"] == pytest.approx(best, abs=1e-12)


@given(images(st.integers(-1000, 1000)), st.sampled_from(["shift", "scale", "cube", "exp"]))
def test_image_metrics_are_invariant_to_increasing_transforms(case, how):
    scores, labels = case
    transform = {
        "shift": lambda s: s - 1e6,
        "scale": lambda s: s * 1e-200,
        "cube": lambda s: s**3,
        "exp": lambda s: np.exp(s / 2),
    }[how]
    assert image_metrics(transform(scores), labels) == image_metrics(scores, labels)


def test_pixel_metrics_are_invariant_to_shift_scale_and_order():
    rng = np.random.default_rng(0)
    maps = list(rng.integers(-50, 50, (4, 16, 16)))
    masks = list(rng.random((4, 16, 16)) > 0.9)
    plain = pixel_metrics(maps, masks)
    for moved in (
        [m - 10**6 for m in maps],
        [m * 2.0**60 for m in maps],
        [(m / 2.0**40).astype(np.float32) for m in maps],
    ):
        assert pixel_metrics(moved, masks) == plain
    reordered = pixel_metrics(maps[::-1], masks[::-1])
    assert reordered == pytest.approx(plain, abs=1e-12)


def test_negated_scores_give_one_minus_auroc():
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 9, 200).astype(float), rng.integers(0, 2, 200)
    up, down = image_metrics(scores, labels), image_metrics(-scores, labels)
    assert up["image_auroc"] + down["image_auroc"] == pytest.approx(1, abs=1e-12)
    assert up["image_auroc"] != pytest.approx(0.5, abs=1e-3)


def test_perfect_constant_and_inverted_maps():
    mask = np.zeros((20, 20), bool)
    mask[2:4, 2:4] = mask[10:16, 10:16] = True
    perfect = pixel_metrics([mask.astype(np.float32)], [mask])
    assert perfect == pytest.approx(
        {"pixel_auroc": 1, "pixel_ap": 1, "pixel_f1max": 1, "aupro": 1, "aupro_005": 1}
    )
    share = mask.mean()
    constant = pixel_metrics([np.full((20, 20), -7.5)], [mask])
    assert constant == pytest.approx(
        # The PRO curve of a constant map is the diagonal: its mean up to the limit is limit / 2.
        {
            "pixel_auroc": 0.5,
            "pixel_ap": share,
            "pixel_f1max": 2 * share / (1 + share),
            "aupro": FPR_LIMIT / 2,
            "aupro_005": 0.05 / 2,
        }
    )
    inverted = pixel_metrics([-mask.astype(np.float32)], [mask])
    assert inverted["pixel_auroc"] == inverted["aupro"] == 0


def test_aupro_weights_regions_equally_and_uses_8_connectivity():
    mask = np.zeros((30, 30), bool)
    mask[0, 0] = mask[1, 1] = True  # one region: connected at a corner
    mask[10:20, 10:20] = True
    result = np.zeros((30, 30))
    result[0, 0] = result[1, 1] = 1
    # Half the regions are detected at the first threshold; the others, tied with all normal pixels,
    # along a line from (0, 1/2) to (1, 1).
    expected = (0.5 + 0.5 * FPR_LIMIT / 2 * 1) if FPR_LIMIT else 0
    assert pixel_metrics([result], [mask])["aupro"] == pytest.approx(expected, abs=1e-12)


def test_aupro_interpolates_at_the_limit():
    # 10 normal pixels, one defective: exceeded by 2 of them (FPR 0.2), tied with 4 more (to 0.6).
    scores = np.array([[9, 8, 5, 5, 5, 5, 5, 1, 1, 1, 1]], dtype=float)
    mask = np.array([[0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]], dtype=bool)
    at_limit = 0.25  # on the line from (0.2, 0) to (0.6, 1) at 0.3
    expected = 0.1 * at_limit / 2 / 0.3
    assert pixel_metrics([scores], [mask])["aupro"] == pytest.approx(expected, abs=1e-12)


def test_f1max_threshold_attains_f1max():
    rng = np.random.default_rng(5)
    scores, labels = rng.integers(-20, 20, 300) / 4, rng.integers(0, 2, 300)
    summary = summarise_images(scores, labels)
    flagged = scores >= summary.f1max_threshold
    hits = np.sum(flagged & (labels == 1))
    assert 2 * hits / (flagged.sum() + labels.sum()) == summary.metrics["image_f1max"]


def test_curves_are_thinned_and_preserve_the_areas():
    rng = np.random.default_rng(2)
    maps = [rng.normal(size=(100, 100)) for _ in range(3)]
    masks = [rng.random((100, 100)) > 0.97 for _ in maps]
    for map_, mask in zip(maps, masks, strict=True):
        map_[mask] += 1.5
    summary = summarise_pixels(maps, masks)
    assert set(summary.curves) == {"roc", "precision_recall", "pro"}
    for curve in summary.curves.values():
        assert len(curve.x) == len(curve.y) <= 500
        assert (np.diff(curve.x) >= 0).all()
        assert curve.y.min() >= 0 and curve.y.max() <= 1
    roc, pro = summary.curves["roc"], summary.curves["pro"]
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(summary.metrics["pixel_auroc"], abs=2e-3)
    assert pro.x[-1] == FPR_LIMIT
    thinned = np.trapezoid(pro.y, pro.x) / FPR_LIMIT
    assert thinned == pytest.approx(summary.metrics["aupro"], abs=2e-3)


@pytest.mark.parametrize("label", [0, 1])
def test_undefined_metrics_are_absent(label):
    assert image_metrics([0.1, 0.5], [label, label]) == {}
    assert pixel_metrics([np.zeros((3, 3))], [np.full((3, 3), bool(label))]) == {}
    assert image_metrics([], []) == {} == pixel_metrics([], [])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_raise(bad):
    with pytest.raises(ValueError, match="index 2"):
        image_metrics([0.0, 1.0, bad, 3.0], [0, 1, 0, 1])
    maps = [np.zeros((4, 4)) for _ in range(3)]
    maps[1][2, 2] = bad
    with pytest.raises(ValueError, match="1 NaN or infinite at index 1"):
        pixel_metrics(maps, [np.eye(4, dtype=bool)] * 3)


def test_mismatched_label_shapes_raise():
    with pytest.raises(ValueError, match=r"\(3,\) and labels \(2,\)"):
        image_metrics([1, 2, 3], [0, 1])
    with pytest.raises(ValueError, match=r"map \(2, 3\) and mask \(3, 2\) at index 0"):
        pixel_metrics([np.zeros((2, 3))], [np.zeros((3, 2))])
    with pytest.raises(ValueError, match="one mask per map; got 2 and 1"):
        pixel_metrics([np.zeros((2, 2))] * 2, [np.zeros((2, 2))])


def test_inputs_are_not_modified():
    rng = np.random.default_rng(4)
    scores, labels = rng.normal(size=50), rng.integers(0, 2, 50)
    maps, masks = [rng.normal(size=(9, 9))], [rng.random((9, 9)) > 0.5]
    copies = scores.copy(), labels.copy(), maps[0].copy(), masks[0].copy()
    image_metrics(scores, labels)
    pixel_metrics(maps, masks)
    for before, after in zip(copies, (scores, labels, maps[0], masks[0]), strict=True):
        assert np.array_equal(before, after)
