"""An exported file scores as the model does; otherwise it is not written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vqlab import runtime
from vqlab.data import to_network
from vqlab.detectors.mean_image import MeanImage
from vqlab.errors import UserError
from vqlab.export import FORMATS, Exported, describe, export_model, measure_parity
from vqlab.export.export import test_images as images_of
from vqlab.export.graph import rounded_to_half
from vqlab.model import Model
from vqlab.types import Sample, Scores

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def bundle(mean_image: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "new" / "part"
    exported = export_model(mean_image, "onnx", output, version=3, bundle=True)
    assert exported.paths[0] == output / "model.onnx"
    assert {path.name for path in exported.paths} == {path.name for path in output.iterdir()}
    assert_same(exported)
    assert exported.parity.images == 8 and exported.parity.ties == 0
    return output


def assert_same(exported: Exported) -> None:
    assert exported.parity.error <= 1e-4 and exported.parity.different == ()
    assert exported.bytes == exported.paths[0].stat().st_size or exported.paths[0].suffix == ".xml"
    assert exported.parity.torch_ms > 0 and exported.parity.exported_ms > 0


def test_scores_of_files_equal_those_of_the_model(bundle: Path, mean_image: Model) -> None:
    exported = runtime.Model(bundle / "model.onnx")
    for path in images_of(mean_image):
        expected, (score, verdict, anomaly_map) = mean_image.score(path), exported.score(path)
        assert score == pytest.approx(expected.score, rel=1e-5)
        assert verdict == expected.verdict
        np.testing.assert_allclose(anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-5)
        assert exported.thresholds.calibrated(score) == pytest.approx(expected.calibrated, rel=1e-4)
        assert exported.score(expected.image).score == score


@pytest.mark.parametrize("size", [1, 5])
def test_any_batch_size(bundle: Path, mean_image: Model, size: int) -> None:
    images = torch.rand(size, 3, 32, 32)
    maps, scores = runtime.Model(bundle / "model.onnx").run(images.numpy())
    expected = mean_image.detector.score(Sample(images, mean_image.backbone(images)))
    np.testing.assert_allclose(maps, expected.anomaly_map, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores, expected.image_score, rtol=1e-5)


def test_description_has_the_origin_but_no_paths(bundle: Path, mean_image: Model) -> None:
    model = onnx.load(bundle / "model.onnx")
    (entry,) = model.metadata_props
    description = json.loads(entry.value)
    assert description == describe(mean_image, 3)
    assert (description["category"], description["version"]) == ("part", 3)
    assert description["run"] == "0123abcd"
    assert description["preprocessing"] == {
        "image_size": 32, "input_shape": [32, 32], "resize": "letterbox", "brightness": "border",
        "bits": None, "colour": "RGB", "aspect_ratios": [1, 1],
    }  # fmt: skip
    assert description["thresholds"]["image"] == mean_image.thresholds.image
    assert str(Path(__file__).parents[2]).encode() not in (bundle / "model.onnx").read_bytes()
    assert str(mean_image.data.root) not in (bundle / "README.md").read_text()


def test_bundle_has_checksums_of_all_files(bundle: Path) -> None:
    sums = dict(line.split("  ")[::-1] for line in (bundle / "SHA256SUMS").read_text().splitlines())
    assert {*sums, "SHA256SUMS"} == {path.name for path in bundle.iterdir()}
    for name, value in sums.items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == value
    modules = "area aspect bit_depth decoding errors preprocessing resizing runtime verdict".split()
    assert {f"score_{name}.py" for name in modules} | {"score.py"} < {*sums}


def test_parity_check_fails_for_another_model(
    bundle: Path, make_model: Callable[..., Model]
) -> None:
    other = make_model("mean_image", resize="letterbox")
    parity = measure_parity(other, runtime.Model(bundle / "model.onnx"), images_of(other))
    assert parity.error > 1e-2
    with pytest.raises(UserError, match="must score within 0.0001 .* nothing was written"):
        parity.require("the onnx model")


def test_parity_check_reports_verdicts_of_another_threshold(
    bundle: Path, mean_image: Model
) -> None:
    exported = runtime.Model(bundle / "model.onnx")
    exported.thresholds = replace(exported.thresholds, image=0.0)
    parity = measure_parity(mean_image, exported, images_of(mean_image))
    assert parity.different
    with pytest.raises(UserError, match="must give the same verdicts"):
        parity.require("the onnx model")


class Untraceable(MeanImage):
    def score(self, sample: Sample) -> Scores:
        scores = super().score(sample)
        return scores if float(scores.image_score[0]) >= 0 else scores


def test_untraceable_detector_raises(mean_image: Model, tmp_path: Path) -> None:
    detector = Untraceable(mean_image.detector.config, mean_image.detector.spec)
    output = tmp_path / "new" / "part"
    with pytest.raises(UserError, match="detector mean_image cannot be exported: torch.export"):
        export_model(replace(mean_image, detector=detector), "onnx", output)
    assert not (tmp_path / "new").exists()


def test_invalid_arguments_raise(mean_image: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format must be one of onnx, torchscript, openvino"):
        export_model(mean_image, "tflite", tmp_path)
    with pytest.raises(UserError, match="a bundle must have the format onnx"):
        export_model(mean_image, "torchscript", tmp_path, bundle=True)
    few = images_of(mean_image)[0].parent
    with pytest.raises(UserError, match="--images must be a folder of at least 8 images"):
        export_model(mean_image, "onnx", tmp_path, images=few)
    moved = replace(mean_image, data=mean_image.data.model_copy(update={"root": tmp_path / "no"}))
    with pytest.raises(UserError, match="pass --images FOLDER"):
        export_model(moved, "onnx", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rounding_to_half_equals_a_cast() -> None:
    values = torch.randn(10_000) * torch.tensor([1e-3, 1.0, 1e4]).repeat(10_000)[:10_000]
    cast = values.half().float()
    difference = (rounded_to_half(values) - cast).abs()
    assert difference.max() <= 2 ** (np.log2(6.6e4) - 11)
    assert (difference > 3e-8).float().mean() < 1e-3  # ties


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean_image", "memory_bank", "padim", "vqvae", "vqflow"])
def test_every_detector_in_every_format(
    name: str, make_model: Callable[..., Model], tmp_path: Path
) -> None:
    model = make_model(name)
    images, _ = to_network(np.full((32, 32, 3), 99, np.uint8), model.data)
    for kind in FORMATS:
        if kind == "openvino":
            pytest.importorskip("openvino")
        exported = export_model(model, kind, tmp_path / kind)
        assert_same(exported)
        loaded = FORMATS[kind].load(exported.paths[0])
        assert loaded.description == describe(model)
        maps, scores = loaded.run(np.stack([images] * 3))
        assert maps.shape == (3, 32, 32) and scores.shape == (3,)
        np.testing.assert_allclose(scores, scores[0], rtol=1e-6)
