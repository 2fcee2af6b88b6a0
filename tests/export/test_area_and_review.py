"""An exported model uses the same inspected area and gives the same three verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqlab import runtime
from vqlab.export import export_model
from vqlab.export.export import test_images as images_of
from vqlab.model import Model
from vqlab.runtime.__main__ import main

pytest.importorskip("onnx")
INSPECTED = np.hypot(*np.mgrid[-15.5:16, -15.5:16]) < 13


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("area") / "roi.png"
    Image.fromarray(INSPECTED.astype(np.uint8) * 255).save(path)
    model = make_model("mean_image", resize="letterbox", brightness="border", roi=str(path))
    path.unlink()
    scores = sorted(model.score(file).score for file in images_of(model))
    review, image = (scores[len(scores) * share // 4] + 1e-4 for share in (1, 2))
    thresholds = replace(model.thresholds, review=review, image=image, promised_review=0.5)
    return replace(model, thresholds=thresholds)


@pytest.fixture(scope="module")
def bundle(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundle")
    export_model(model, "onnx", output, bundle=True)
    return output


def test_verdicts_p_values_and_maps_equal_those_of_the_model(bundle: Path, model: Model) -> None:
    exported, verdicts = runtime.Model(bundle / "model.onnx"), set()
    for path in images_of(model):
        expected, result = model.score(path), exported.score(path)
        assert result.score == pytest.approx(expected.score, rel=1e-5)
        assert result.verdict == expected.verdict
        assert exported.thresholds.p_value(expected.score) == expected.p_value
        np.testing.assert_allclose(result.map, expected.anomaly_map, rtol=1e-4, atol=1e-5)
        verdicts.add(result.verdict)
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        disturbed = np.where(INSPECTED[..., None], expected.image, noise)
        assert exported.score(disturbed).score == result.score
    assert verdicts == {"pass", "review", "reject"}


def test_images_with_another_aspect_ratio_are_rejected(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 20)).save(tmp_path / "wide.png")
    assert main([str(bundle / "model.onnx"), str(tmp_path / "wide.png")]) == 3
    assert (
        "it is 32x20 pixels; the inspected area (data.roi, data.ignore) is 32x32"
        in capsys.readouterr().out
    )


def test_the_readme_states_the_review_threshold(bundle: Path, model: Model) -> None:
    text = (bundle / "README.md").read_text()
    review = model.thresholds.review
    assert f"| review threshold | {review!r} (in review or rejected: at most 0.5) |" in text
    assert "| inspected area | a part of the image; other pixels are filled with grey |" in text
    assert "Otherwise it is in review if its score\nexceeds the review threshold." in text
