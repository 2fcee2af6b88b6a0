"""Code surprisal: how unexpected a code is at its place, counted on images of normal products."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vqlab.nn.smoothing import smooth


class CodeSurprisal(nn.Module):
    """−log p of a code (h, w) given its position, and given the codes left, right, above, below.

    Both are counted by `fit` and mixed with the codes' overall frequency, so that an unseen code
    has a finite surprisal, the larger the rarer it is. Before `fit` every surprisal is 0.
    """

    position: Tensor
    """−log p(code | position), (K, h, w)."""
    neighbour: Tensor
    """−log p(code | neighbour) as [side, neighbour, code], (4, K, K); sides as in `_PAIRS`."""

    def __init__(self, codebook_size: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.register_buffer("position", torch.zeros(codebook_size, *size))
        self.register_buffer("neighbour", torch.zeros(4, codebook_size, codebook_size))

    @torch.no_grad()
    def fit(self, indices: Iterable[Tensor], *, spread: float = 1.0, prior: float = 1.0) -> None:
        """Count batches of indices (B, h, w).

        Counts by position are spread over near positions by a Gaussian (`spread`, in codes);
        `prior` is the weight of the overall frequency, in counts.
        """
        at = torch.zeros_like(self.position)
        beside, above = torch.zeros_like(self.neighbour[0]), torch.zeros_like(self.neighbour[0])
        for batch in indices:
            at += self._places(batch)
            beside += self._pairs(batch[..., :-1], batch[..., 1:])
            above += self._pairs(batch[:, :-1], batch[:, 1:])
        overall = at.sum((1, 2)) + 1 / self.codebook_size
        overall = prior * overall / overall.sum()
        at = smooth(at, spread) + overall[:, None, None]
        self.position.copy_(at.sum(0).log() - at.log())
        for side, pairs in enumerate((beside, beside.T, above, above.T)):
            pairs = pairs + overall
            self.neighbour[side] = pairs.sum(1, keepdim=True).log() - pairs.log()

    def _places(self, batch: Tensor) -> Tensor:
        """How often each code stands at each position, (K, h, w)."""
        places = self.position[0].numel()
        flat = batch.flatten(1) * places + torch.arange(places, device=batch.device)
        counts = torch.bincount(flat.flatten(), minlength=self.position.numel())
        return counts.view_as(self.position)

    def _pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """How often each code (row) is followed by each code (column), (K, K)."""
        pairs = torch.bincount(
            (first * self.codebook_size + second).flatten(), minlength=self.codebook_size**2
        )
        return pairs.view(self.codebook_size, self.codebook_size)

    @torch.no_grad()
    def by_position(self, indices: Tensor) -> Tensor:
        """−log p(code | position) of indices (B, h, w), (B, h, w)."""
        return self.position.gather(0, indices)

    @torch.no_grad()
    def by_neighbours(self, indices: Tensor) -> Tensor:
        """−log p(code | neighbour), mean over the neighbours there are, (B, h, w)."""
        total = torch.zeros(indices.shape, device=indices.device)
        there = torch.zeros_like(total)
        for side, (here, beside) in enumerate(_PAIRS):
            pairs = indices[beside] * self.codebook_size + indices[here]
            total[here] += self.neighbour[side].flatten()[pairs]
            there[here] += 1
        return total / there.clamp_min(1)


_ALL, _HEAD, _TAIL = slice(None), slice(None, -1), slice(1, None)
_PAIRS = (
    ((_ALL, _ALL, _TAIL), (_ALL, _ALL, _HEAD)),
    ((_ALL, _ALL, _HEAD), (_ALL, _ALL, _TAIL)),
    ((_ALL, _TAIL), (_ALL, _HEAD)),
    ((_ALL, _HEAD), (_ALL, _TAIL)),
)
"""Where a code lies and where its neighbour: the left, right, upper, lower one."""
