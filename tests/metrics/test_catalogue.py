"""The metric catalogue."""

from __future__ import annotations

import numpy as np
import pytest

from vqlab.errors import UserError
from vqlab.metrics import (
    METRICS,
    OBJECTIVES,
    PRIMARY,
    RANKINGS,
    RATES,
    Defect,
    PixelStream,
    ThresholdCounts,
    get_metric,
    headlines,
    image_metrics,
    lower_is_better,
    metric_title,
    rate_counts,
    rates,
)


def test_unknown_name_error_suggests_close_matches() -> None:
    assert get_metric("aupro").title == "AUPRO"
    with pytest.raises(UserError, match=r"got 'pixel_f1'; did you mean pixel_f1max or .*\?$"):
        get_metric("pixel_f1")
    with pytest.raises(UserError, match="choose image_auroc, "):
        get_metric("sharpness")


def test_every_metric_has_a_value() -> None:
    labels, scores = np.repeat([0, 1], 4), np.arange(8.0)
    masks = np.zeros((2, 6, 6), bool)
    masks[1, 2:4, 2:4] = True
    maps = masks + np.eye(6, dtype=np.float32)
    defects = [[], [Defect(masks[1], 0.5)]]
    stream = PixelStream(threshold=0.5).update(maps, masks, defects=defects)
    at = ThresholdCounts.of_images(labels, scores > 2, reviewed=scores == 2)
    measured = image_metrics(scores, labels) | stream.compute().metrics
    measured |= rates("image", at) | rates("pixel", stream.at)
    assert set(measured) == set(METRICS) == set(RANKINGS) | set(RATES)
    assert all(0 <= value <= 1 for value in measured.values())


def test_lists_are_derived_from_the_entries() -> None:
    assert PRIMARY == ("image_auroc", "pixel_auroc", "aupro")
    review = ["review_rate", "anomalous_review_rate"]
    assert headlines(1) == [*PRIMARY, "false_reject_rate", "escape_rate", review[0]]
    reported = {*review, "spro_005"}
    assert set(headlines(4)) - reported <= set(OBJECTIVES) <= set(METRICS) - reported
    assert lower_is_better("test/escape_rate_low") and not lower_is_better("test/pg2")
    assert metric_title("image_ap") == "image AP" and metric_title("dead_codes") == "dead codes"


def test_rates_without_images_are_undefined() -> None:
    assert rates("image", ThresholdCounts()) == {} == rates("pixel", ThresholdCounts())
    only_normal = ThresholdCounts.of_images(np.zeros(3), np.array([True, False, False]))
    assert rates("image", only_normal) == {"false_reject_rate": 1 / 3}


def test_defect_in_review_is_not_an_escape() -> None:
    labels, scores = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 0, 1, 1, 2, 2])
    at = ThresholdCounts.of_images(labels, scores == 2, reviewed=scores >= 1)
    measured = rates("image", at)
    assert (measured["false_reject_rate"], measured["review_rate"]) == (0.25, 0.25)
    assert (measured["escape_rate"], measured["anomalous_review_rate"]) == (0.2, 0.4)
    assert (measured["image_recall"], measured["image_precision"]) == (0.4, 2 / 3)
    counts = rate_counts(measured | {"normal_images": 4, "anomalous_images": 5})
    assert {name: count.hits / count.total for name, count in counts.items()} == measured
    two = rates("image", ThresholdCounts.of_images(labels, scores == 2))
    assert two["escape_rate"] == 0.6 and "review_rate" not in two
