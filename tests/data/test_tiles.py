"""Tiles cover large images at native resolution; behaviour without tiles is unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import make_category
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vqlab.data import DataSettings, ImageSet, image_cache, load_dataset, to_network, to_tiles
from vqlab.data.tiles import tile_grid
from vqlab.types import UserError

SIZE = (80, 112)


def settings(root: Path, **data: Any) -> DataSettings:
    tree = {"root": root, "categories": "nut", "image_size": 32, "tiles": {"size": 32}, **data}
    return DataSettings.model_validate(tree)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    make_category(tmp_path, "nut", size=SIZE)
    return tmp_path


@given(
    st.integers(32, 400), st.integers(32, 400), st.integers(8, 16), st.floats(0.1, 0.5),
)  # fmt: skip
def test_tiles_cover_the_image_and_overlap(
    height: int, width: int, fours: int, overlap: float
) -> None:
    side = min(4 * fours, height, width) // 4 * 4
    tiles = {"size": side, "overlap": overlap}
    grid = tile_grid(
        (height, width), DataSettings.model_validate({"image_size": side, "tiles": tiles})
    )
    count = np.zeros((height, width), int)
    for tile in grid:
        count[tile.window] += 1
        assert count[tile.window].shape == (side, side)
    assert count.min() >= 1
    assert [tile.first for tile in grid] == [True] + [False] * (len(grid) - 1)
    assert [tile.last for tile in grid] == [False] * (len(grid) - 1) + [True]
    for axis in ("top", "left"):
        starts = sorted({getattr(tile, axis) for tile in grid})
        assert all(
            b - a <= side - grid[0].overlap for a, b in zip(starts, starts[1:], strict=False)
        )


def test_tiles_have_the_pixels_of_the_file(large: Path) -> None:
    images = load_dataset(settings(large)).test
    tiles = images.tiled()
    assert tiles.is_tiles and tiles.tiled() is tiles and tiles.image_count == len(images) == 4
    batch = tiles.batch(range(len(tiles)))
    assert batch.tiles is not None and batch.images.shape[1:] == (3, 32, 32)
    for number, tile in enumerate(batch.tiles):
        with Image.open(batch.records[number].path) as file:
            pixels = np.asarray(file)[tile.window]
        expected = torch.from_numpy(pixels.transpose(2, 0, 1).copy()) / 255
        assert torch.equal(batch.images[number], expected)
    some = images.subset([3, 1]).tiled()
    assert [r.path for r in some.records][0] == images.records[3].path and some.image_count == 2


def test_tile_may_be_larger_than_the_network_input(large: Path) -> None:
    """64 pixels of the file become 32: the image is halved."""
    images = load_dataset(settings(large, tiles={"size": 64})).test
    assert images.resized(0).image.shape == (40, 56, 3)
    assert images.tiled().batch([0]).images.shape == (1, 3, 32, 32)


def test_tiles_of_one_image_equal_those_of_a_set(large: Path) -> None:
    """Also with brightness correction, which is computed from the complete image."""
    for brightness in ("keep", "border"):
        chosen = settings(large, brightness=brightness)
        images = load_dataset(chosen).test.subset([1])
        tensors, tiles, geometry = to_tiles(images.original(0), chosen)
        batch = images.tiled().batch(range(len(tensors)))
        assert torch.equal(torch.stack(tensors), batch.images)
        assert batch.tiles == tuple(tiles) and batch.geometry[0] == geometry
    plain, _, _ = to_tiles(images.original(0), settings(large))
    factors = [float(t.sum() / p.sum()) for t, p in zip(tensors, plain, strict=True)]
    assert max(factors) - min(factors) < 0.05  # a single factor, up to clipping at white


def test_images_are_unchanged_without_tiles(large: Path) -> None:
    images = load_dataset(settings(large, tiles={"size": None})).test
    assert images.tiled() is images and images.batch([0]).tiles is None
    network, _ = to_network(images.original(0), images.settings)
    assert torch.equal(network, images.batch([0]).images[0])
    assert images.resized(0).gain is None


def test_tiles_outside_the_inspected_area_are_skipped(large: Path, tmp_path: Path) -> None:
    roi = np.zeros(SIZE, np.uint8)
    roi[10:30, 10:30] = 255
    Image.fromarray(roi).save(tmp_path / "roi.png")
    chosen = settings(large, roi=tmp_path / "roi.png")
    tiles = load_dataset(chosen).test.tiled()
    assert len(tiles) == 4 * 4  # tiles that start before row and column 30
    batch = tiles.batch(range(4))
    assert batch.inspected is not None and batch.inspected.flatten(1).any(dim=1).all()


def test_synthetic_anomalies_have_the_size_of_tiles(tmp_path: Path) -> None:
    make_category(tmp_path, "nut", size=(300, 400))
    splits = load_dataset(settings(tmp_path))
    anomalous = [i for i, record in enumerate(splits.validation.records) if record.label]
    for index in anomalous:
        mask = splits.validation.resized(index).mask
        rows, columns = np.nonzero(mask)
        assert np.ptp(rows) < 256 and np.ptp(columns) < 256
        normal = load_again(splits.validation, index)
        changed = (splits.validation.resized(index).image != normal).any(axis=2)
        assert changed.any() and mask.sum() < 256 * 256 / 2
    reloaded = load_dataset(settings(tmp_path))
    assert reloaded.validation.fingerprint == splits.validation.fingerprint
    assert reloaded.validation.tiled().fingerprint == splits.validation.tiled().fingerprint


def load_again(images: ImageSet, index: int) -> np.ndarray:
    with Image.open(images.records[index].path) as file:
        return np.asarray(file)


def test_image_smaller_than_a_tile_raises(large: Path) -> None:
    with pytest.raises(UserError, match=r"files cannot be used; .*\(it is 112x80 pixels, smaller"):
        load_dataset(settings(large, tiles={"size": 96}))
    with pytest.raises(UserError, match=r"112x80 pixels, smaller than a tile .*size=96\)\.$"):
        to_tiles(np.zeros((80, 112, 3), np.uint8), settings(large, tiles={"size": 96}))


def test_images_beyond_the_memory_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are not decoded once per tile or batch; a few of them remain in memory."""
    make_category(tmp_path, "nut", good=8, size=SIZE)
    images = load_dataset(settings(tmp_path, memory_mib=0)).test.tiled()
    calls: list[Path] = []
    inspect = image_cache.inspect_image

    def counted(path: Path, bits: int | None) -> Any:
        calls.append(path)
        return inspect(path, bits)

    monkeypatch.setattr(image_cache, "inspect_image", counted)
    for _ in images.batches(5):
        pass
    assert 10 - image_cache.RECENT <= len(calls) == len(set(calls)) <= 10
