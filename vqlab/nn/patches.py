"""Patch features: a vector per place from all levels of a pyramid (PatchCore, Roth et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.types import Pyramid


def joined(pyramid: Pyramid, kernel: int = 3) -> Tensor:
    """Patch features (B, Σ C_l, h, w), float32, on the finest level's grid.

    Each level is averaged over its kernel × kernel neighbourhood (odd; zeros beyond the border
    count), then brought to the finest level's size bilinearly; the levels lie one after another
    along the channels (PatchCore, eq. 2 and 3).
    """
    size = pyramid[0].shape[-2:]
    levels = []
    for level in pyramid:
        mean = F.avg_pool2d(level.float(), kernel, stride=1, padding=kernel // 2)
        same = mean.shape[-2:] == size
        levels.append(mean if same else F.interpolate(mean, size, mode="bilinear"))
    return torch.cat(levels, 1)


def rows_of(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) as rows (B·h·w, C), place by place."""
    return maps.movedim(1, -1).reshape(-1, maps.shape[1])


@torch.no_grad()
def drawn(parts: Iterable[Tensor], most: int) -> Tensor:
    """At most `most` of the rows (n_i, D) of `parts`, every row as likely as any other; float16.

    In the order they came in, in one pass, drawn by torch's seed; holds little more than twice
    `most` rows. Every row draws a number, and those with the lowest stay.
    """
    kept: list[Tensor] = []
    numbers: list[Tensor] = []
    limit, count = 1.0, 0
    for rows in parts:
        number = torch.rand(len(rows)).to(rows.device)
        low = number < limit
        kept.append(rows[low].half())
        numbers.append(number[low])
        count += len(kept[-1])
        if count > most + most // 4:
            kept, numbers = _lowest(kept, numbers, most)
            limit, count = float(numbers[0].max()), most
    if not kept:
        raise ValueError("there are no rows to draw from.")
    return _lowest(kept, numbers, most)[0][0] if count > most else torch.cat(kept)


def _lowest(
    kept: list[Tensor], numbers: list[Tensor], most: int
) -> tuple[list[Tensor], list[Tensor]]:
    number = torch.cat(numbers)
    places = number.topk(most, largest=False, sorted=False).indices.sort().values
    return [torch.cat(kept)[places]], [number[places]]
