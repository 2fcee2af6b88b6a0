"""Agreement with the metrics of other libraries on the same maps."""

from __future__ import annotations

import numpy as np
import pytest
from test_stream import smooth_maps

from vqlab.metrics import PixelStream, image_metrics
from vqlab.metrics.summary import pixel_metrics


def test_aupro_agrees_with_anomalib():
    """AUPRO of anomalib 2.7.0 (fpr_limit 0.3 and 0.05) for these maps, in float32."""
    maps, masks = smooth_maps(12, 64, 0)
    result = pixel_metrics(list(maps), list(masks))
    assert result["aupro"] == pytest.approx(0.52120268, abs=2e-7)
    assert result["aupro_005"] == pytest.approx(0.22670548, abs=2e-7)


def test_agrees_with_adeval(monkeypatch: pytest.MonkeyPatch):
    """ADEval bins between given limits and interpolates the precision-recall curve linearly.

    It requires opencv-python; the headless build provides the same module: pip install --no-deps
    adeval.
    """
    adeval = pytest.importorskip("adeval")
    if not hasattr(np, "trapz"):  # removed in NumPy 2.4, still used by ADEval 1.1
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    maps, masks = smooth_maps(12, 64, 0)
    scores, labels = maps.max((1, 2)), masks.any((1, 2))
    low, high = float(maps.min()), float(maps.max())
    theirs = adeval.EvalAccumulator(low, high, low, high)
    for values, mask, score, label in zip(maps, masks, scores, labels, strict=True):
        theirs.add_image(float(score), int(label))
        theirs.add_anomap(values, mask.astype(np.uint8))
    with np.errstate(invalid="ignore"):
        result = theirs.summary()
    ours = PixelStream().update(maps, masks).compute().metrics | image_metrics(scores, labels)
    pairs = {"p_auroc": "pixel_auroc", "p_aupr": "pixel_ap", "p_aupro": "aupro"}
    for name, key in {**pairs, "i_auroc": "image_auroc"}.items():
        allowed = 3e-3 if name == "p_aupr" else 1e-4
        assert ours[key] == pytest.approx(result[name], abs=allowed), name
