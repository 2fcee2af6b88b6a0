"""One extraction per image and run; all other outputs are derived from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vqlab.config import merge
from vqlab.data import load_dataset
from vqlab.detectors import HasAlternatives, HasPanels, detector_class, extract, scores
from vqlab.detectors.vqflow import VQFlow
from vqlab.evaluation import panel_arrays
from vqlab.run import Recording, evaluate_model, resolve, run
from vqlab.testing import as_sample
from vqlab.tracking import Tracker
from vqlab.types import Sample

FLOW = {
    "neighbourhood": 1,
    "positions": 8,
    "concept": {"codebook_size": 4, "dim": 8},
    "pattern": {"codebook_size": 16, "coverage": 50},
    "flow": {"blocks": [1], "hidden": 8, "condition": 8},
}
VAE = {"hidden": 4, "dim": 8, "warmup": 1, "codebook_size": 16, "scoring": {"context_steps": 3}}


def recipe(root: Path, name: str, **detector: Any) -> dict[str, Any]:
    return {
        "data": {"root": str(root), "categories": ["part"], "image_size": 32},
        "evaluation": {"resamples": 50},
        "detector": {"name": name, **detector},
        "training": {"epochs": 1, "device": "cpu", "threads": 1},
    }


class Counted:
    """Counts extractions of each image, identified by its pixels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
        self.images: Counter[bytes] = Counter()
        plain = kind.extract

        def counted(detector: Any, sample: Sample) -> Any:
            self.images.update(image.numpy().tobytes() for image in sample.image)
            return plain(detector, sample)

        monkeypatch.setattr(kind, "extract", counted)


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(("name", "settings"), [("vqflow", FLOW), ("vqvae", VAE)])
def test_run_extracts_every_image_at_most_once(
    root: Path, store: Tracker, tmp_path: Path, name: str, settings: Any, monkeypatch: Any
) -> None:
    config = resolve(recipe(root, name, **settings))
    splits = load_dataset(config.data)
    counted = Counted(monkeypatch, detector_class(name))
    outcome = run(config, store, Recording(results=tmp_path), splits=splits)
    images = [image for part in (splits.validation, splits.test) for image in part.batches(1)]
    assert len(images) == len(splits.validation) + len(splits.test)
    assert {counted.images[batch.images[0].numpy().tobytes()] for batch in images} == {1}
    assert set(counted.images.values()) == {1}
    counted.images.clear()
    evaluate_model(outcome.model, config.data.root, store, tmp_path)
    assert set(counted.images.values()) == {1}
    counted.images.clear()
    outcome.model.score(np.zeros((32, 32, 3), np.uint8)).picture()
    assert list(counted.images.values()) == [1]


@pytest.mark.parametrize(("name", "settings"), [("vqflow", FLOW), ("vqvae", VAE)])
@torch.inference_mode()
def test_one_pass_equals_separate_calls(
    root: Path, store: Tracker, tmp_path: Path, name: str, settings: Any
) -> None:
    config = resolve(merge(recipe(root, name, **settings), {"training": {"epochs": 2}}))
    splits = load_dataset(config.data)
    with torch.inference_mode(False):
        model = run(config, store, Recording(results=tmp_path), splits=splits, test=False).model
    detector, images = model.detector, splits.test
    single = model.predict_set(images, alternatives=True, panels=True)
    batches = model.predict_set(images, batch_size=3, alternatives=True, panels=True)
    assert isinstance(detector, HasAlternatives) and isinstance(detector, HasPanels)
    for index, batch in enumerate(images.batches(1)):
        sample = as_sample(batch.images)
        extracted = extract(detector, sample)
        expected = {"": detector.score(sample), **detector.alternatives(extracted)}
        assert torch.equal(scores(detector, extracted).image_score, expected[""].image_score)
        for key, result in expected.items():
            scored = single.alternatives[key] if key else single.scored
            assert np.array_equal(scored.maps[index], result.anomaly_map[0].numpy())
            assert scored.image_scores[index] == result.image_score.item()
        for title, panel in detector.panels(extracted).items():
            assert np.array_equal(single.panels[title][index], panel_arrays(panel)[0])
    assert set(single.alternatives) == set(batches.alternatives) == set(expected) - {""}
    for key in expected:
        from_single, from_batches = (
            each.alternatives[key] if key else each.scored for each in (single, batches)
        )
        np.testing.assert_allclose(
            from_batches.image_scores, from_single.image_scores, rtol=1e-5, atol=1e-6
        )
    if isinstance(detector, VQFlow):
        assert single.prototypes is not None and batches.prototypes is not None
        assert torch.equal(single.prototypes.indices, batches.prototypes.indices)
