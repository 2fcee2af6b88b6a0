"""Concept metrics equal those of scikit-learn, cover every image, and are logged by every run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import homogeneity_score
from tiny_set import write_tiny_set

from vqlab.data import ImageSet, load_dataset
from vqlab.detectors import ImagePrototypes
from vqlab.evaluation import Concepts, assign_concepts
from vqlab.features import Backbone, FeatureSet, FeatureSettings
from vqlab.plots.style import code_colours
from vqlab.run import Outcome, Recording, resolve, run
from vqlab.tracking import Tracker
from vqlab.types import ImageRecord, Sample

CPU = torch.device("cpu")


def concepts(names: list[str], indices: np.ndarray, size: int) -> Concepts:
    records = tuple(ImageRecord(Path(f"{i}.png"), name, "good") for i, name in enumerate(names))
    return Concepts(indices, np.zeros((len(names), 2)), np.zeros((size, 2)), records)


@pytest.mark.parametrize("seed", range(15))
def test_information_is_mutual_information_over_entropy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"part_{number}" for number in rng.integers(0, 4, 50)]
    codes = np.where(rng.random(50) < 0.6, [int(n[-1]) for n in names], rng.integers(0, 9, 50))
    result, pairs = concepts(names, codes, 12), list(zip(names, codes.tolist(), strict=True))
    metrics = result.metrics()
    assert metrics["concept_information"] == pytest.approx(homogeneity_score(names, codes))
    assert metrics["concept_live"] == len(set(codes.tolist()))
    groups = {code: [n for n, c in pairs if c == code] for _, code in pairs}
    upper_bound = sum(max(map(group.count, group)) for group in groups.values())
    assert metrics["concept_purity"] == pytest.approx(upper_bound / 50)
    assert result.counts.shape == (len(set(names)), 12) and result.counts.sum() == 50
    assert result.counts[result.categories.index("part_2"), 2] == pairs.count(("part_2", 2))


def test_single_category_has_no_information() -> None:
    assert concepts(["a"] * 3, np.array([0, 0, 1]), 4).metrics() == {"concept_live": 2.0}
    separated = concepts(["a", "b", "b"], np.array([0, 1, 1]), 4).metrics()
    assert separated == {"concept_live": 2.0, "concept_information": 1.0, "concept_purity": 1.0}


class Brightness:
    """A detector with two prototypes: dark and bright images."""

    def prototypes(self, extracted: tuple[torch.Tensor, ...]) -> ImagePrototypes:
        mean = extracted[0].mean((1, 2, 3))[:, None]
        return ImagePrototypes((mean[:, 0] > 0.5).long(), mean, torch.tensor([[0.2], [0.8]]))

    def extract_prototypes(self, sample: Sample) -> ImagePrototypes:
        return self.prototypes((sample.image,))


class Nothing:
    def prototypes(self, extracted: tuple[torch.Tensor, ...]) -> None:
        return None

    extract_prototypes = prototypes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories, one dark and one bright."""
    root = write_tiny_set(tmp_path_factory.mktemp("tiny"), ("night", "noon"))
    for path in sorted(root.glob("*/t*/*/*.png")):
        with Image.open(path) as file:
            pixels = np.array(file) // 2 + (127 if "noon" in path.parts else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def tree(tiny: Path) -> dict[str, Any]:
    """A joint model of both categories, without labels."""
    return {
        "data": {"root": str(tiny), "categories": "all", "joint": True, "image_size": 32},
        "evaluation": {"resamples": 50},
        "detector": {
            "name": "vqflow",
            "neighbourhood": 1,
            "positions": 8,
            "concept": {"codebook_size": 4, "dim": 8},
            "pattern": {"codebook_size": 16, "coverage": 50},
            "flow": {"blocks": [1], "hidden": 8, "condition": 8},
        },
        "training": {"epochs": 1, "device": "cpu", "threads": 1},
    }


def test_prototypes_are_extracted_once_per_image_in_order(tree: dict[str, Any]) -> None:
    splits = load_dataset(resolve(tree).data)
    backbone = Backbone(FeatureSettings(), 32)
    images = splits.test.subset([*range(len(splits.test))] * 3)  # more than one batch
    result = assign_concepts(Brightness(), FeatureSet(images, backbone))
    assert result is not None and result.records == images.records
    names = [record.category for record in images.records]
    assert result.indices.tolist() == [int(name == "noon") for name in names]
    means = [float(images.batch([i]).images.mean()) for i in range(len(images))]
    assert np.allclose(result.vectors[:, 0], means)
    assert result.metrics()["concept_information"] == pytest.approx(1.0)
    assert assign_concepts(Nothing(), FeatureSet(images, backbone)) is None
    nothing: ImageSet = images.subset([])
    assert assign_concepts(Brightness(), FeatureSet(nothing, backbone)) is None


@pytest.fixture(scope="module")
def outcome(
    tree: dict[str, Any], store: Tracker, tmp_path_factory: pytest.TempPathFactory
) -> Outcome:
    """A run whose other curves are not rendered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.plots.results.save_figure", lambda figure, path: path.touch())
        return run(resolve(tree), store, Recording(results=tmp_path_factory.mktemp("results")))


def test_run_logs_concept_metrics_and_figures(outcome: Outcome, store: Tracker) -> None:
    record = store.find(outcome.run_id)
    assert record.metrics["codebook/concept_information"] > 0.8
    assert 2 <= record.metrics["codebook/concept_live"] <= 4
    assert record.metrics["codebook/concept_purity"] > 0.8
    assert record.metrics["test/concept_information"] > 0.8
    assert outcome.pictures is not None
    for name in ("usage.png", "map.png", "likelihood.png"):
        with Image.open(outcome.pictures / "concepts" / name) as file:
            assert np.ptp(np.array(file.convert("L"))) > 100
        content = (outcome.pictures / "concepts" / name).read_bytes()
        assert record.artifact(f"concepts/{name}").read_bytes() == content


def test_prediction_picture_shows_pattern_codes(outcome: Outcome, tiny: Path) -> None:
    prediction = outcome.model.score(next((tiny / "noon/test/good").iterdir()))
    codes = prediction.panels["pattern codes"]
    assert codes.shape == (32, 32) and np.issubdtype(codes.dtype, np.integer)
    assert outcome.model.detector.codebook_sizes() == {"pattern codes": 16}
    picture = prediction.picture()
    panel = picture[90 : 90 + 256, 18 + 268 : 18 + 268 + 256]
    assert (panel == code_colours(16)[codes].repeat(8, 0).repeat(8, 1)).all()


def test_pattern_codes_cover_a_letterboxed_image(outcome: Outcome) -> None:
    boxed = outcome.model.data.model_copy(update={"resize": "letterbox"})
    wide = replace(outcome.model, data=boxed).score(np.full((20, 40, 3), 90, np.uint8))
    assert wide.panels["pattern codes"].shape == (16, 32)


def test_colours_of_codes_are_distinct_and_stable() -> None:
    colours = code_colours(5000)
    assert len(np.unique(colours, axis=0)) == 5000
    assert (colours[:64] == code_colours(64)).all()
    distances = np.linalg.norm(colours[:64, None].astype(float) - colours[None, :64], axis=2)
    assert (distances + 1000 * np.eye(64)).min() > 12
