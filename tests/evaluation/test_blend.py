"""Maps of tiles are blended into maps of images without steps at the seams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vqlab.data import DataSettings
from vqlab.data.tiles import tile_grid
from vqlab.evaluation.tiles import Blend, Mosaic
from vqlab.types import Tile


def grid(size: tuple[int, int], overlap: float = 0.25) -> list[Tile]:
    tree = {"image_size": 32, "tiles": {"size": 32, "overlap": overlap}}
    return tile_grid(size, DataSettings.model_validate(tree))


def blend(tiles: list[Tile], maps: list[Any], scores: list[float] | None = None) -> Any:
    blended = None
    blender = Blend()
    for tile, map, score in zip(tiles, maps, scores or [0.0] * len(maps), strict=True):
        assert blended is None
        blended = blender.add(map, score, tile)
    return blended


@pytest.mark.parametrize("size", [(32, 32), (33, 90), (100, 75), (64, 57)])
@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.5])
def test_constant_maps_are_preserved(size: tuple[int, int], overlap: float) -> None:
    tiles = grid(size, overlap)
    map, _ = blend(tiles, [np.full((32, 32), 0.1, np.float32)] * len(tiles))
    assert map.shape == size and map.dtype == np.float32
    np.testing.assert_array_equal(map, np.float32(0.1))


def test_tiles_of_one_map_reproduce_the_map() -> None:
    original = np.random.default_rng(0).normal(size=(100, 75)).astype(np.float32)
    tiles = grid(original.shape)
    map, _ = blend(tiles, [original[tile.window] for tile in tiles])
    np.testing.assert_allclose(map, original, rtol=0, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.5])
def test_offsets_between_tiles_become_ramps(overlap: float) -> None:
    """Each tile adds a constant offset to a smooth map: neighbouring pixels differ by at most the
    slope of the map and of the steepest ramp, far less than the offsets."""
    rows, columns = np.mgrid[:100, :75]
    smooth = np.sin(rows / 30) + np.cos(columns / 25)
    tiles = grid(smooth.shape, overlap)
    offsets = np.arange(len(tiles)) % 2 * 1.0  # horizontal neighbours differ by 1
    maps = [smooth[t.window] + offset for t, offset in zip(tiles, offsets, strict=True)]
    map, _ = blend(tiles, maps)
    slope = max(np.abs(np.diff(smooth, axis=axis)).max() for axis in (0, 1))
    steps = max(np.abs(np.diff(map, axis=axis)).max() for axis in (0, 1))
    assert steps < slope + 2.0 / (tiles[0].overlap + 1) and np.ptp(map - smooth) > 0.9
    pasted = np.zeros_like(smooth)
    for tile, values in zip(tiles, maps, strict=True):
        pasted[tile.window] = values
    assert np.abs(np.diff(pasted, axis=1)).max() > 0.9  # without blending there is a step


def test_image_score_is_the_maximum_over_tiles() -> None:
    tiles = grid((64, 57))
    maps = [np.zeros((32, 32))] * len(tiles)
    assert blend(tiles, maps, [-3.0, *[-7.0] * (len(tiles) - 1)])[1] == -3.0


def test_consecutive_images_and_pixels_without_a_tile() -> None:
    inspected = np.zeros((100, 75), bool)
    inspected[5:20, 5:20] = True
    tree = {"image_size": 32, "tiles": {"size": 32}}
    tiles = tile_grid(inspected.shape, DataSettings.model_validate(tree), inspected)
    blender, mosaic = Blend(), Mosaic()
    for value in (5.0, 2.0):
        result = mask = None
        for tile in tiles:
            result = blender.add(np.full((32, 32), value), value, tile)
            mask = mosaic.add(inspected[tile.window], tile)
        assert result is not None and mask is not None
        np.testing.assert_array_equal(result[0], value)
        np.testing.assert_array_equal(mask, inspected)
