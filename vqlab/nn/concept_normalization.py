"""Normalisation of anomaly-map terms by statistics of normal images of the same concept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from vqlab.nn.resizing import resized

Standardise = Literal["none", "global", "concept", "place"]


class ConceptNormalization(nn.Module):
    """Standardise T terms on maps (h, w) by normal images of K concepts.

    Subtract the mean over all normal images (`global`), over those of the concept (`concept`), or
    over those of the concept at that position (`place`), then divide by the standard deviation of
    the residual over all normal images, so that terms can be added. `none`: identity. A mean at a
    position is shrunk towards the concept's mean with the weight of `shrink` images; for maps of
    another size it is interpolated.
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
    def fit(self, train: Iterable[tuple[Tensor, Tensor]], held_out: Iterable[tuple[Tensor, Tensor]]
            ) -> None:  # fmt: skip
        """Fit to batches of terms (T, B, h, w) and concepts (B,) of normal images.

        Means are estimated on `train`, standard deviations on `held_out`.
        """
        total = torch.zeros_like(self.places, dtype=torch.float64)
        count = torch.zeros(len(total), dtype=torch.float64, device=total.device)
        for terms, concept in train:
            total.index_add_(0, concept, resized(terms, self.places).double().movedim(1, 0))
            count.index_add_(0, concept, torch.ones_like(concept, dtype=torch.float64))
        divisor = count.clamp_min(1)[:, None]
        mean = total.sum(0).mean((1, 2)) / count.sum().clamp_min(1)
        means = total.mean((2, 3)) / divisor
        self.mean.copy_(mean)
        self.means.copy_(torch.where(count[:, None] > 0, means, mean))
        residual = total - count[:, None, None, None] * means[:, :, None, None]
        self.places.copy_(residual / (count + self.shrink).clamp_min(1)[:, None, None, None])
        squares = torch.zeros_like(self.deviations, dtype=torch.float64)
        pixels = 0
        for terms, concept in held_out:
            for number, kind in enumerate(_KINDS):
                residual = (terms - self._mean(concept, kind, terms)).double()
                squares[number] += residual.square().sum((1, 2, 3))
            pixels += terms[0].numel()
        deviation = (squares / max(pixels, 1)).sqrt().float()
        self.deviations.copy_(torch.where(deviation > 1e-8, deviation, 1.0))

    def normalize(self, terms: Tensor, concept: Tensor, standardise: Standardise) -> Tensor:
        """Return terms (T, B, h, w) of images of these concepts (B,), standardised."""
        if standardise == "none":
            return terms
        deviation = self.deviations[_KINDS.index(standardise)][:, None, None, None]
        return (terms - self._mean(concept, standardise, terms)) / deviation

    def _mean(self, concept: Tensor, kind: str, terms: Tensor) -> Tensor:
        """Return the means, broadcastable to the terms (T, B, h, w)."""
        if kind == "global":
            return self.mean[:, None, None, None]
        means = self.means[concept].mT[..., None, None]
        if kind != "place":
            return means
        return means + resized(self.places[concept].movedim(1, 0), terms)


_KINDS = ("global", "concept", "place")
