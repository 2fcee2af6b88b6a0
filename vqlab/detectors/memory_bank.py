"""Memory bank: how far is each patch from the nearest of the normal patches that were kept?

PatchCore (Roth et al. 2022): nothing is learned by gradient, a greedy coreset of the training
images' patch features is the detector.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from vqlab.config import Settings
from vqlab.detectors.base import Detector, register
from vqlab.detectors.capabilities import Extracted
from vqlab.nn.coreset import k_centre
from vqlab.nn.image_score import image_score
from vqlab.nn.patches import patch_features, sample_rows, to_rows
from vqlab.nn.quantizer import nearest
from vqlab.nn.smoothing import smooth
from vqlab.types import InputSpec, Pyramid, Sample, Scores


class Scoring(Settings):
    """What may change without filling the bank again."""

    smoothing: float = Field(1 / 64, ge=0, le=0.25)
    """Standard deviation of the Gaussian over the map, as a share of the image's side."""
    image_score: Literal["max", "top", "reweighted"] = "max"
    """Of the map: its maximum, or the mean of its highest share `top`; `reweighted`: PatchCore's
    (its eq. 7), the largest distance of a patch, less where the bank is dense."""
    top: float = Field(0.001, gt=0, le=1)
    neighbours: int = Field(9, ge=2, le=1000)
    """Vectors of the bank that tell `reweighted` how dense it is."""


class MemoryBankSettings(Settings):
    """Settings of `memory_bank`; its recipe sets `training.epochs: 0`."""

    bank_size: int = Field(5000, ge=1, le=1_000_000)
    """Vectors kept; where the training images have fewer patches, some are kept twice."""
    neighbourhood: int = Field(3, ge=1, le=15)
    """Side of the square over which each level's features are averaged, odd; 1: not averaged."""
    patches: int = Field(250_000, ge=1)
    """Most patches that the bank is chosen from, drawn at random where there are more: bounds
    memory (two bytes a number) and time."""
    projection: int | None = Field(None, ge=1)
    """Dimensions in which the bank is chosen, by random projection (a half of the time at 128 of
    384, and half a point of AUROC); none: in all. Scores always use all."""
    scoring: Scoring = Scoring()

    @field_validator("neighbourhood")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value


@register("memory_bank")
class MemoryBank(Detector):
    """L2 distance of every patch to the nearest vector of the bank, made a smooth map."""

    Config = MemoryBankSettings
    config: MemoryBankSettings
    image_scoring = frozenset({"image_score", "top", "neighbours"})
    bank: Tensor
    """The kept patch features, (bank_size, Σ C_l)."""

    def __init__(self, config: MemoryBankSettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        self.register_buffer("bank", torch.zeros(config.bank_size, sum(spec.channels)))

    @torch.no_grad()
    def prepare(self, samples: Iterable[Sample]) -> None:
        config = self.config
        patches = sample_rows((self._patches(sample.pyramid) for sample in samples), config.patches)
        chosen = k_centre(patches, config.bank_size, dim=config.projection)
        self.bank.copy_(patches[chosen])

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        """The mean distance; there is nothing to minimise."""
        return {"loss": self._distances(self._patches(sample.pyramid), sample.pyramid)[0].mean()}

    @torch.no_grad()
    def score(self, sample: Sample) -> Scores:
        return self.scores(self.extract(sample))

    @torch.no_grad()
    def extract(self, sample: Sample) -> Extracted:
        """Distance of every patch to its nearest vector of the bank (B, h, w), the index of that
        vector (B, h, w), and the features of each image's farthest patch (B, D)."""
        rows = self._patches(sample.pyramid)
        distance, index = self._distances(rows, sample.pyramid)
        farthest = distance.flatten(1).argmax(1)
        patches = rows.view(len(farthest), -1, self.bank.shape[1])
        return distance, index, patches[torch.arange(len(farthest)), farthest]

    @classmethod
    def can_rescore(cls, calibrated: Settings, wanted: Settings) -> bool:
        return True

    @torch.no_grad()
    def scores(self, extracted: Extracted) -> Scores:
        scoring = self.config.scoring
        distance, index, patch = extracted
        full = F.interpolate(distance[:, None], self.spec.image_size, mode="bilinear")[:, 0]
        maps = smooth(full, scoring.smoothing * max(self.spec.image_size))
        if scoring.image_score == "reweighted":
            at = distance.flatten(1).argmax(1, keepdim=True)
            flat = (values.flatten(1).gather(1, at)[:, 0] for values in (distance, index))
            farthest, nearest_to_it = flat
            return Scores(maps, self._reweighted(farthest, patch, nearest_to_it))
        return Scores(maps, image_score(maps, scoring.image_score, scoring.top))

    def _patches(self, pyramid: Pyramid) -> Tensor:
        """Rows (B·h·w, D) of a pyramid, image by image."""
        return to_rows(patch_features(pyramid, self.config.neighbourhood))

    def _distances(self, rows: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """L2 distance of every patch to its nearest vector of the bank, and the index of that
        vector; both (B, h, w).

        A matrix product finds the vector; the distance is computed from the difference, which
        keeps the digits that the product loses where they are close.
        """
        index = nearest(rows, self.bank)
        distance = torch.cat(
            [
                (part - self.bank[at]).norm(dim=1)
                for part, at in zip(torch.split(rows, 4096), torch.split(index, 4096), strict=True)
            ]
        )
        shape = (len(pyramid[0]), *pyramid[0].shape[-2:])
        return distance.view(shape), index.view(shape)

    def _reweighted(self, farthest: Tensor, patch: Tensor, index: Tensor) -> Tensor:
        """PatchCore's eq. 7, (B,): for the patch (B, D) farthest from the bank, its distance d to
        the vector found, times 1 − exp d / Σ exp(its distances to that vector's neighbours)."""
        found = self.bank[index]
        count = min(self.config.scoring.neighbours, len(self.bank))
        near = torch.cdist(found, self.bank).topk(count, largest=False).indices
        to_near = (patch[:, None] - self.bank[near]).norm(dim=2)
        share = torch.exp(farthest - to_near.logsumexp(1))
        return (1 - share).clamp_min(0) * farthest

    @torch.no_grad()
    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        """`nearest in bank`: the found vectors in colours, near colours for near vectors: the three
        main axes of the bank."""
        centred = self.bank.double() - self.bank.double().mean(0)
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:].flip(1)
        colours = centred @ axes
        low, high = colours.quantile(0.01, 0), colours.quantile(0.99, 0)
        colours = ((colours - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()
        colours = F.pad(colours, (0, 3 - colours.shape[1]))
        picture = colours[extracted[1]].movedim(-1, 1)
        return {"nearest in bank": F.interpolate(picture, self.spec.image_size, mode="nearest")}
