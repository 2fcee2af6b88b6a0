"""A served model with an inspected area and three verdicts, on images that are not square."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from servers import post, running
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.config import merge
from vqlab.model import Model
from vqlab.run import resolve, run
from vqlab.serve import ServeSettings
from vqlab.tracking import CHECKPOINT, Tracker


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set, 48 x 32 px, and roi.png, which excludes the last 8 columns."""
    root = write_tiny_set(tmp_path_factory.mktemp("wide"))
    for file in root.glob("part/**/*.png"):
        Image.open(file).resize((48, 32), Image.Resampling.NEAREST).save(file)
    Image.fromarray((np.arange(48) < np.full((32, 1), 40)).astype(np.uint8) * 255).save(
        root / "roi.png"
    )
    return root


@pytest.fixture(scope="module")
def mlruns(wide: Path, store: Tracker) -> Path:
    settings = {
        "data": {"roi": str(wide / "roi.png"), "resize": "letterbox"},
        "threshold": {"review_rate": 0.4},
    }
    recipe = merge(tiny_recipe(wide), settings)
    run_id = run(resolve(recipe), store, test=False).run_id
    store.registry.set_champion(store.registry.register(run_id, CHECKPOINT, "part"), None)
    return store.root


@pytest.fixture(scope="module")
def server(mlruns: Path) -> Iterator[str]:
    with running(ServeSettings(mlruns=mlruns)) as address:
        yield address


def test_responses_equal_the_predictions_of_the_model(
    server: str, mlruns: Path, wide: Path
) -> None:
    model = Model.load(Tracker.open(mlruns).champion("part").checkpoint)
    (category,) = requests.get(f"{server}/v1/categories", timeout=10).json()
    assert category["thresholds"]["review"] == model.thresholds.review is not None
    good, hole = (wide / f"part/test/{kind}/000.png" for kind in ("good", "hole"))
    square = wide / "square.png"
    Image.new("RGB", (40, 40)).save(square)
    files = [good, hole, square]
    body = post(server, *(f.read_bytes() for f in files), category="part", overlay=1).json()
    *scored, refused = body["images"]
    for image, file in zip(scored, files[:2], strict=True):
        expected = model.score(file)
        assert image["score"] == pytest.approx(expected.score, rel=1e-5)
        assert (image["verdict"], image["p_value"]) == (expected.verdict, expected.p_value)
        assert expected.inspected is not None and not expected.mask[:, 40:].any()
    assert refused["verdict"] is None
    assert "it is 40x40 pixels; the inspected area" in refused["error"]
