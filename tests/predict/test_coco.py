"""Regions in COCO format are read by pycocotools and cover the pixels of the mask."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_fill_holes, label
from small_photos import write_photo

from vqlab.data import find_regions, polygon_of
from vqlab.model import Model
from vqlab.predict import predict_files

coco = pytest.importorskip("pycocotools.coco")
masks = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""Of pycocotools 2.0.11 with NumPy 2."""
NAMES = ['quote".png', "brackets [1].png", "line\nbreak.png", "外壳.png", b"pi\xe8ce.png"]


def loaded(path: Path) -> coco.COCO:
    with redirect_stdout(io.StringIO()):
        return coco.COCO(str(path))


@settings(deadline=None, max_examples=200)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_polygons_cover_the_pixels_of_regions(mask: np.ndarray) -> None:
    for region in find_regions(mask.astype(float), mask):
        single = np.zeros_like(mask)
        left, top, width, height = region.box
        window = np.s_[top : top + height, left : left + width]
        labels, _ = label(mask, np.ones((3, 3)))
        x, y = region.peak_at
        single[window] = labels[window] == labels[y, x]
        polygon = polygon_of(region.contour)
        assert len(polygon) >= 8 and len(polygon) % 2 == 0
        encoded = masks.merge(masks.frPyObjects([polygon], *mask.shape))
        assert (masks.decode(encoded).astype(bool) == binary_fill_holes(single)).all()
        xs, ys = polygon[::2], polygon[1::2]
        assert [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] == list(region.box)


def test_predictions_load_in_pycocotools(
    stricter: Model, photos: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = photos(6)
    for number, name in enumerate(NAMES):
        write_photo(tmp_path / "odd.png", number)
        (tmp_path / "odd.png").rename(folder / os.fsdecode(name))
    (folder / "broken.png").write_text("no image")
    out = tmp_path / "out"
    summary = predict_files(stricter, [folder], out, pictures="none", coco=True)
    rows = {row.file: row for row in summary.rows}
    data = loaded(out / "predictions.coco.json")
    images = data.loadImgs(data.getImgIds())
    assert {image["file_name"] for image in images} == {f for f, r in rows.items() if r.width}
    assert len(images) == len(rows) - 1 == 11
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == ["defect"]
    total = 0
    for image in images:
        row = rows[image["file_name"]]
        decoded = stricter.score(row.path)
        assert (image["height"], image["width"]) == decoded.mask.shape
        annotations = data.loadAnns(data.getAnnIds(imgIds=[image["id"]]))
        assert [a["score"] for a in annotations] == [r.peak for r in decoded.regions()]
        covered = np.zeros(decoded.mask.shape, bool)
        for annotation, region in zip(annotations, decoded.regions(), strict=True):
            assert tuple(annotation["bbox"]) == region.box and annotation["area"] == region.area
            assert json.loads(json.dumps(asdict(region)))["rank"] == annotation["rank"]
            covered |= data.annToMask(annotation).astype(bool)
        assert (covered >= decoded.mask).all()
        total += len(annotations)
    assert total > 0
    with redirect_stdout(io.StringIO()):
        data.loadRes(data.loadAnns(data.getAnnIds()))


def test_older_file_is_deleted(model: Model, photos: Callable[[int], Path], tmp_path: Path) -> None:
    folder, out = photos(2), tmp_path / "out"
    predict_files(model, [folder], out, pictures="none", coco=True)
    assert loaded(out / "predictions.coco.json").getImgIds() == [1, 2]
    predict_files(model, [folder], out, pictures="none")
    assert not (out / "predictions.coco.json").exists()
