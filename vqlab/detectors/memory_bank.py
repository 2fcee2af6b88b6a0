"""Memory bank: distance of each patch to the nearest patch of a coreset of normal patches.

PatchCore (Roth et al. 2022); nothing is learned by gradient.
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
from vqlab.nn.nearest import NearestSearch
from vqlab.nn.patches import patch_features, sample_rows, to_rows
from vqlab.nn.smoothing import upsample
from vqlab.types import InputSpec, Pyramid, Sample, Scores


class Scoring(Settings):
    """Settings that may change without refilling the bank."""

    smoothing: float = Field(1 / 64, ge=0, le=0.25)
    """Standard deviation of the Gaussian smoothing, as a fraction of the image side."""
    image_score: Literal["max", "top", "reweighted"] = "max"
    """Maximum of the map, mean of its highest fraction `top`, or `reweighted`: PatchCore's image
    score (eq. 7), the largest patch distance, reduced where the bank is dense."""
    top: float = Field(0.001, gt=0, le=1)
    neighbours: int = Field(9, ge=2, le=1000)
    """Number of nearest neighbours in the bank that `reweighted` uses."""


class MemoryBankSettings(Settings):
    """Settings of `memory_bank`; its recipe sets `training.epochs: 0`."""

    bank_size: int = Field(5000, ge=1, le=1_000_000)
    """Number of vectors; some repeat if the training images have fewer patches."""
    neighbourhood: int = Field(3, ge=1, le=15)
    """Side of the square over which features are averaged, odd; 1: no averaging."""
    patches: int = Field(250_000, ge=1)
    """Maximum number of random patches that the bank is selected from; bounds memory (two bytes per
    number) and time."""
    projection: int | None = Field(None, ge=1)
    """Dimension of the random projection in which the bank is selected (128 of 384: half the time,
    half a point of AUROC less); null: no projection. Scores always use all dimensions."""
    scoring: Scoring = Scoring()

    @field_validator("neighbourhood")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value


@register("memory_bank")
class MemoryBank(Detector):
    """L2 distance of every patch to the nearest vector of the bank, smoothed."""

    Config = MemoryBankSettings
    config: MemoryBankSettings
    image_scoring = frozenset({"image_score", "top", "neighbours"})
    any_shape = True
    bank: Tensor
    """Patch features, (bank_size, Σ C_l)."""

    def __init__(self, config: MemoryBankSettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        self.register_buffer("bank", torch.zeros(config.bank_size, sum(spec.channels)))
        self.search = NearestSearch()

    @torch.no_grad()
    def prepare(self, samples: Iterable[Sample]) -> None:
        config = self.config
        patches = sample_rows((self._patches(sample.pyramid) for sample in samples), config.patches)
        self.bank.copy_(patches[k_centre(patches, config.bank_size, dim=config.projection)])
        self.search.reset()

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        """Return the mean distance; nothing is trained."""
        return {"loss": self._distances(self._patches(sample.pyramid), sample.pyramid)[0].mean()}

    @torch.no_grad()
    def score(self, sample: Sample) -> Scores:
        return self.scores(self.extract(sample))

    @torch.no_grad()
    def extract(self, sample: Sample) -> Extracted:
        """Return the distance of every patch to the bank (B, h, w), the index of its nearest vector
        (B, h, w), and the features of the farthest patch of each image (B, D)."""
        rows = self._patches(sample.pyramid)
        distance, index = self._distances(rows, sample.pyramid)
        farthest = distance.flatten(1).argmax(1)
        patches = rows.view(len(farthest), -1, self.bank.shape[1])
        return distance, index, patches[torch.arange(len(farthest)), farthest]

    @classmethod
    def can_rescore(cls, calibrated: Settings, new: Settings) -> bool:
        return True

    @torch.no_grad()
    def scores(self, extracted: Extracted) -> Scores:
        scoring = self.config.scoring
        distance, index, patch = extracted
        sigma = scoring.smoothing * max(self.spec.image_size)
        maps = upsample(distance, self.spec.image_size_of(distance.shape[1:]), sigma)
        if scoring.image_score == "reweighted":
            position = distance.flatten(1).argmax(1, keepdim=True)
            farthest, vector = (v.flatten(1).gather(1, position)[:, 0] for v in (distance, index))
            return Scores(maps, self._reweighted(farthest, patch, vector))
        return Scores(maps, image_score(maps, scoring.image_score, scoring.top))

    def _patches(self, pyramid: Pyramid) -> Tensor:
        """Return the patch features (B·h·w, D) of a pyramid."""
        return to_rows(patch_features(pyramid, self.config.neighbourhood))

    def _distances(self, rows: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """Return the L2 distance of every patch to the bank and the index of its nearest vector,
        both (B, h, w)."""
        index, distance = self.search(rows, self.bank, width=pyramid[0].shape[-1])
        shape = (len(pyramid[0]), *pyramid[0].shape[-2:])
        return distance.view(shape), index.view(shape)

    def _reweighted(self, farthest: Tensor, patch: Tensor, index: Tensor) -> Tensor:
        """Return PatchCore's image score (eq. 7), (B,).

        It is d · (1 − exp d / Σ exp(distances of the patch to the neighbours of its vector)) with
        the patch (B, D) farthest from the bank, its distance d and the index of its vector.
        """
        count = min(self.config.scoring.neighbours, len(self.bank))
        near = torch.cdist(self.bank[index], self.bank).topk(count, largest=False).indices
        to_near = (patch[:, None] - self.bank[near]).norm(dim=2)
        share = torch.exp(farthest - to_near.logsumexp(1))
        return (1 - share).clamp_min(0) * farthest

    @torch.no_grad()
    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        """Return `nearest in bank`: the nearest vectors as colours, by the first three principal
        axes of the bank."""
        centred = self.bank.double() - self.bank.double().mean(0)
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:].flip(1)
        colours = centred @ axes
        low, high = colours.quantile(0.01, 0), colours.quantile(0.99, 0)
        colours = ((colours - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()
        colours = F.pad(colours, (0, 3 - colours.shape[1]))
        picture = colours[extracted[1]].movedim(-1, 1)
        size = self.spec.image_size_of(extracted[1].shape[1:])
        return {"nearest in bank": F.interpolate(picture, size, mode="nearest")}
