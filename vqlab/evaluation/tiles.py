"""Assemble the results of tiles into results of whole images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from torch import Tensor

from vqlab.evaluation.spool import Array
from vqlab.types import Scores, Tile

TILES_AT_ONCE = 16


class Blend:
    """Anomaly maps of tiles, image by image, blended where they overlap.

    The weight of a tile falls linearly towards its edges over the overlap, and weights are
    normalised at every pixel: the blended map of equal maps is equal to them, and a difference
    between neighbouring tiles becomes a ramp, not a step. The image score is the highest of the
    tiles.
    """

    def __init__(self) -> None:
        self._sum = self._weight = np.zeros((0, 0))
        self._score = -np.inf

    def add(self, map: Array, image_score: float, tile: Tile) -> tuple[Array, float] | None:
        """Add the map (S, S) and the image score of a tile; after the last tile of an image return
        the map of the image, (h, w) float32, and its score.

        Pixels without a tile, which are not inspected, have the lowest score.
        """
        if tile.first:
            self._sum, self._weight = np.zeros((2, *tile.image_size))
            self._score = -np.inf
        weight = _weights(tile.side, tile.overlap)
        self._sum[tile.window] += weight * map
        self._weight[tile.window] += weight
        self._score = max(self._score, image_score)
        if not tile.last:
            return None
        covered = self._weight > 0
        blended = self._sum / np.where(covered, self._weight, 1)
        if not covered.all():
            blended[~covered] = blended[covered].min()
        return blended.astype(np.float32), self._score


def score_tiles(
    score: Callable[[Sequence[Tensor]], Scores],
    tensors: Sequence[Tensor],
    tiles: Sequence[Tile],
    batched: bool,
) -> tuple[Array, float]:
    """Return the anomaly map (h, w) and the score of an image from its tiles (3, S, S), which
    `score` scores one at a time or in batches of at most `TILES_AT_ONCE`."""
    blend, blended = Blend(), None
    at_once = TILES_AT_ONCE if batched else 1
    for start in range(0, len(tiles), at_once):
        result = score(tensors[start : start + at_once])
        maps = result.anomaly_map.float().cpu().numpy()
        for place, value in enumerate(result.image_score.tolist()):
            blended = blend.add(maps[place], value, tiles[start + place])
    assert blended is not None  # after the last tile
    return blended


class Mosaic:
    """Masks of tiles, image by image; equal where tiles overlap."""

    def __init__(self) -> None:
        self._whole = np.zeros((0, 0), np.bool_)

    def add(self, mask: Array, tile: Tile) -> Array | None:
        """Add the mask (S, S) of a tile; after the last tile of an image return the mask of the
        image, (h, w) bool, False without a tile."""
        if tile.first:
            self._whole = np.zeros(tile.image_size, np.bool_)
        self._whole[tile.window] = mask
        return self._whole if tile.last else None


@lru_cache(maxsize=16)
def _weights(side: int, overlap: int) -> Array:
    """Return the weights (S, S) of a tile: products of ramps, 1 beyond the overlap."""
    from_edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 1.0
    ramp = np.minimum(from_edge / (overlap + 1), 1)
    return np.outer(ramp, ramp)
