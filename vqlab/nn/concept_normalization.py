"""What the terms of an anomaly map are expected to be in a normal image of a concept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

Standardise = Literal["none", "global", "concept", "place"]


class Expectation(nn.Module):
    """T terms on maps (h, w), measured by normal images of the same concept (K of them).

    `place`: minus what is normal for the concept at the place; `concept`: minus what is normal for
    the concept; `global`: minus what is normal; each divided by the term's deviation from it over
    all normal images, so that terms add up. `none`: as they are. What is normal at a place is
    shrunk towards the concept's own mean as if `shrink` more images had shown just that.
    """

    mean: Tensor
    means: Tensor
    places: Tensor
    deviations: Tensor

    def __init__(self, terms: int, size: tuple[int, int], concepts: int, shrink: float) -> None:
        super().__init__()
        self.shrink = shrink
        self.register_buffer("mean", torch.zeros(terms))
        self.register_buffer("means", torch.zeros(concepts, terms))
        self.register_buffer("places", torch.zeros(concepts, terms, *size))
        self.register_buffer("deviations", torch.ones(len(_KINDS), terms))

    @torch.no_grad()
    def fit(self, train: Iterable[tuple[Tensor, Tensor]], rest: Iterable[tuple[Tensor, Tensor]]
            ) -> None:  # fmt: skip
        """Fit to terms (T, B, h, w) and concepts (B,) of normal images, batch by batch.

        `train` tells what is normal, `rest`, of other images, how far from it they lie.
        """
        total = torch.zeros_like(self.places, dtype=torch.float64)
        count = torch.zeros(len(total), dtype=torch.float64, device=total.device)
        for terms, concept in train:
            total.index_add_(0, concept, terms.double().movedim(1, 0))
            count.index_add_(0, concept, torch.ones_like(concept, dtype=torch.float64))
        known = count.clamp_min(1)[:, None]
        mean = total.sum(0).mean((1, 2)) / count.sum().clamp_min(1)
        means = total.mean((2, 3)) / known
        self.mean.copy_(mean)
        self.means.copy_(torch.where(count[:, None] > 0, means, mean))
        apart = total - count[:, None, None, None] * means[:, :, None, None]
        self.places.copy_(apart / (count + self.shrink).clamp_min(1)[:, None, None, None])
        squares = torch.zeros_like(self.deviations, dtype=torch.float64)
        seen = 0
        for terms, concept in rest:
            for number, kind in enumerate(_KINDS):
                far = (terms - self._expected(concept, kind)).double()
                squares[number] += far.square().sum((1, 2, 3))
            seen += terms[0].numel()
        deviation = (squares / max(seen, 1)).sqrt().float()
        self.deviations.copy_(torch.where(deviation > 1e-8, deviation, 1.0))

    def measure(self, terms: Tensor, concept: Tensor, standardise: Standardise) -> Tensor:
        """Terms (T, B, h, w) of images of these concepts (B,), measured by what is normal."""
        if standardise == "none":
            return terms
        deviation = self.deviations[_KINDS.index(standardise)][:, None, None, None]
        return (terms - self._expected(concept, standardise)) / deviation

    def _expected(self, concept: Tensor, kind: str) -> Tensor:
        """(T, B, h, w), or what broadcasts to it."""
        if kind == "global":
            return self.mean[:, None, None, None]
        means = self.means[concept].mT[..., None, None]
        return means + self.places[concept].movedim(1, 0) if kind == "place" else means


_KINDS = ("global", "concept", "place")
