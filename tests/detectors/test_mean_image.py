"""The baseline without learning: scores equal a manual calculation."""

from __future__ import annotations

import torch

from vqlab.config import validate
from vqlab.detectors.mean_image import MeanImage, MeanImageSettings
from vqlab.nn.smoothing import smooth
from vqlab.testing import as_sample
from vqlab.types import InputSpec

SPEC = InputSpec(channels=(3,), sizes=((8, 8),), image_size=(16, 16))


def test_score_is_the_distance_from_the_mean_in_standard_deviations() -> None:
    settings = validate(MeanImageSettings, {"floor": 0.2, "scoring": {"smoothing": 0.05}})
    detector = MeanImage(settings, SPEC)
    normals, image = torch.rand(20, 3, 8, 8), torch.rand(2, 3, 8, 8)
    detector.prepare([as_sample(part) for part in normals.split(7)])
    sd = normals.std(0, unbiased=False).clamp_min(0.2)
    distance = ((image - normals.mean(0)).abs() / sd).mean(1, keepdim=True)
    full = torch.nn.functional.interpolate(distance, (16, 16), mode="bilinear")
    scores = detector.score(as_sample(image))
    torch.testing.assert_close(scores.anomaly_map, smooth(full[:, 0], 0.05 * 16))
    torch.testing.assert_close(scores.image_score, scores.anomaly_map.amax((1, 2)))
    mean = detector.panels(detector.extract(as_sample(image)))["reconstruction"]
    torch.testing.assert_close(mean, normals.mean(0).expand(2, -1, -1, -1))


def test_second_prepare_replaces_the_first() -> None:
    detector = MeanImage(MeanImageSettings(), SPEC)
    detector.prepare([as_sample(torch.rand(9, 3, 8, 8))])
    detector.prepare([as_sample(torch.full((4, 3, 8, 8), 0.25))])
    assert torch.equal(detector.mean, torch.full((3, 8, 8), 0.25))
    assert not detector.sd.any()
