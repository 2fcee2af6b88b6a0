"""Patch features from all levels of a pyramid (PatchCore, Roth et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.nn.resizing import resized
from vqlab.types import Pyramid


def patch_features(pyramid: Pyramid, kernel: int = 3) -> Tensor:
    """Return patch features (B, Σ C_l, h, w), float32, on the grid of the finest level.

    Average each level over kernel × kernel neighbourhoods (odd, zero padding included), resize it
    bilinearly and concatenate along the channels (PatchCore, eq. 2 and 3).
    """
    return join_levels(neighbourhood_means(pyramid, kernel))


def neighbourhood_means(pyramid: Pyramid, kernel: int) -> Pyramid:
    """Return the `neighbourhood_mean` of each level, float32, channels last in memory."""
    levels = (level.float().contiguous(memory_format=torch.channels_last) for level in pyramid)
    return tuple(neighbourhood_mean(level, kernel) for level in levels)


def join_levels(pyramid: Pyramid) -> Tensor:
    """Resize the levels bilinearly to the finest one and concatenate the channels."""
    finest, *others = pyramid
    return torch.cat([finest, *(resized(level, finest) for level in others)], 1)


def neighbourhood_mean(maps: Tensor, kernel: int) -> Tensor:
    """Average maps (B, C, h, w) over kernel × kernel neighbourhoods, zero padding included.

    On a CPU rows are summed, then columns, several times as fast as `avg_pool2d`.
    """
    if not maps.is_cpu:
        return F.avg_pool2d(maps, kernel, stride=1, padding=kernel // 2)
    for dim in (2, 3):
        size = maps.shape[dim]
        total = maps.clone()
        for shift in range(1, min(kernel // 2 + 1, size)):
            total.narrow(dim, shift, size - shift).add_(maps.narrow(dim, 0, size - shift))
            total.narrow(dim, 0, size - shift).add_(maps.narrow(dim, shift, size - shift))
        maps = total
    return maps.mul_(1 / kernel**2)


def to_rows(maps: Tensor) -> Tensor:
    """Reshape maps (B, C, h, w) to rows (B·h·w, C)."""
    return maps.movedim(1, -1).reshape(-1, maps.shape[1])


def sample_each(maps: Tensor, size: int) -> list[Tensor]:
    """Return random positions of each of B maps (B, C, h, w), B tensors (min(size, h·w), C), by
    torch's seed."""
    rows = maps.flatten(2).mT
    chosen = [torch.randperm(rows.shape[1])[:size].to(maps.device) for _ in rows]
    return [image[positions] for image, positions in zip(rows, chosen, strict=True)]


@torch.no_grad()
def sample_rows(parts: Iterable[Tensor], size: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """Return a uniform random sample of at most `size` rows of `parts` (n_i, D), as `dtype`.

    One pass, input order preserved, by torch's seed; memory for about 2 · size rows. Each row gets
    a random key and the rows with the lowest keys are selected.
    """
    samples: list[Tensor] = []
    keys: list[Tensor] = []
    limit, count = 1.0, 0
    for rows in parts:
        key = torch.rand(len(rows)).to(rows.device)
        low = key < limit
        samples.append(rows[low].to(dtype))
        keys.append(key[low])
        count += len(samples[-1])
        if count > size + size // 4:
            samples, keys = _lowest(samples, keys, size)
            limit, count = float(keys[0].max()), size
    if not samples:
        raise ValueError("sample_rows needs at least one row.")
    return _lowest(samples, keys, size)[0][0] if count > size else torch.cat(samples)


def _lowest(
    samples: list[Tensor], keys: list[Tensor], size: int
) -> tuple[list[Tensor], list[Tensor]]:
    key = torch.cat(keys)
    indices = key.topk(size, largest=False, sorted=False).indices.sort().values
    return [torch.cat(samples)[indices]], [key[indices]]
