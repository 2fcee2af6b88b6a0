"""Code surprisal from code frequencies in normal images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vqlab.nn.smoothing import smooth


class CodeSurprisal(nn.Module):
    """−log p of a code given its position, and given its four neighbours.

    `fit` counts both and smooths them with the overall code frequencies, so that the surprisal of
    an unseen code is finite. Before `fit` every surprisal is 0.
    """

    position: Tensor
    """−log p(code | position), (K, h, w)."""
    neighbour: Tensor
    """−log p(code | neighbour), (4, K, K): direction as in `_PAIRS`, neighbour, code."""

    def __init__(self, codebook_size: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.register_buffer("position", torch.zeros(codebook_size, *size))
        self.register_buffer("neighbour", torch.zeros(4, codebook_size, codebook_size))

    @torch.no_grad()
    def fit(self, indices: Iterable[Tensor], *, spread: float = 1.0, prior: float = 1.0) -> None:
        """Count codes in batches of indices (B, h, w), of any integer type.

        Counts by position are smoothed with a Gaussian (`spread`, in codes); `prior` is the weight
        of the overall frequency, in counts.
        """
        at = torch.zeros_like(self.position)
        left, above = torch.zeros_like(self.neighbour[0]), torch.zeros_like(self.neighbour[0])
        for batch in map(Tensor.long, indices):
            at += self._places(batch)
            left += self._pairs(batch[..., :-1], batch[..., 1:])
            above += self._pairs(batch[:, :-1], batch[:, 1:])
        overall = at.sum((1, 2)) + 1 / self.codebook_size
        overall = prior * overall / overall.sum()
        at = smooth(at, spread) + overall[:, None, None]
        self.position.copy_(at.sum(0).log() - at.log())
        for side, pairs in enumerate((left, left.T, above, above.T)):
            pairs = pairs + overall
            self.neighbour[side] = pairs.sum(1, keepdim=True).log() - pairs.log()

    def _places(self, batch: Tensor) -> Tensor:
        """Return counts (K, h, w) of each code at each position."""
        places = self.position[0].numel()
        flat = batch.flatten(1) * places + torch.arange(places, device=batch.device)
        counts = torch.bincount(flat.flatten(), minlength=self.position.numel())
        return counts.view_as(self.position)

    def _pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Return counts (K, K) of pairs (first code, second code)."""
        pairs = torch.bincount(
            (first * self.codebook_size + second).flatten(), minlength=self.codebook_size**2
        )
        return pairs.view(self.codebook_size, self.codebook_size)

    @torch.no_grad()
    def by_position(self, indices: Tensor) -> Tensor:
        """Return −log p(code | position) of indices (B, h, w), same shape."""
        return self.position.gather(0, indices)

    @torch.no_grad()
    def by_neighbours(self, indices: Tensor) -> Tensor:
        """Return −log p(code | neighbour), mean over existing neighbours, (B, h, w)."""
        total = torch.zeros(indices.shape, device=indices.device)
        neighbours = torch.zeros_like(total)
        for side, (code, neighbour) in enumerate(_PAIRS):
            pairs = indices[neighbour] * self.codebook_size + indices[code]
            total[code] += self.neighbour[side].flatten()[pairs]
            neighbours[code] += 1
        return total / neighbours.clamp_min(1)


_ALL, _HEAD, _TAIL = slice(None), slice(None, -1), slice(1, None)
_PAIRS = (
    ((_ALL, _ALL, _TAIL), (_ALL, _ALL, _HEAD)),
    ((_ALL, _ALL, _HEAD), (_ALL, _ALL, _TAIL)),
    ((_ALL, _TAIL), (_ALL, _HEAD)),
    ((_ALL, _HEAD), (_ALL, _TAIL)),
)
"""Slices of a code and of its left, right, upper and lower neighbour."""
