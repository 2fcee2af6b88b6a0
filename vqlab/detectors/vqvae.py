"""VQ-VAE: an autoencoder through a codebook; what it rebuilds badly, or in unexpected codes, is
a defect (van den Oord et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.detectors.base import Detector, register
from vqlab.nn.quantizer import VectorQuantizer
from vqlab.nn.smoothing import smooth
from vqlab.nn.surprisal import CodeSurprisal
from vqlab.types import InputSpec, Pyramid, Scores, UserError

Term = Literal["error", "position", "neighbours"]
TERMS: tuple[Term, ...] = ("error", "position", "neighbours")
"""Squared error of a pixel, mean over channels; surprisal of its code given the position; given
the neighbours' codes."""


class CodebookSettings(Settings):
    """Part of the settings of `vqvae`; what they do: `vqlab.nn.quantizer.VectorQuantizer`."""

    codebook_size: int = Field(512, ge=2, le=65536)
    dim: int = Field(64, ge=1, le=4096)
    commitment: float = Field(0.25, ge=0)
    learning: Literal["gradient", "ema"] = "ema"
    distance: Literal["l2", "cosine"] = "l2"
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    init: Literal["random", "kmeans"] = "kmeans"
    restart: float = Field(0.03, ge=0, lt=1)
    """A code used less than this share of uniform usage starts anew; 0: never."""
    decay: float = Field(0.99, gt=0, lt=1)
    levels: int = Field(1, ge=1, le=16)

    @model_validator(mode="after")
    def _levels_have_length(self) -> CodebookSettings:
        if self.levels > 1 and self.distance == "cosine":
            raise ValueError("distance must be l2 where levels is above 1")
        return self


class Scoring(Settings):
    """How maps and image scores are made of the terms; may change without training again.

    Normalising sets a term's mean over held-out normal images to 0 and its deviation to 1: over
    all pixels (`global`), or at each pixel (`pixel`), which needs products that lie alike.
    """

    map_terms: tuple[Term, ...] = Field(("error", "neighbours"), min_length=1)
    map_normalise: Literal["none", "global", "pixel"] = "global"
    image_terms: tuple[Term, ...] = Field(("error", "position", "neighbours"), min_length=1)
    image_normalise: Literal["none", "global", "pixel"] = "pixel"
    image_score: Literal["max", "mean", "top"] = "top"
    """Of the image's map: its maximum, its mean, or the mean of its highest share `top`."""
    top: float = Field(0.01, gt=0, le=1)
    smoothing: float = Field(1 / 32, ge=0, le=0.25)
    """Standard deviation of the Gaussian over each term, as a share of the image's side."""
    spread: float = Field(1.0, ge=0)
    """Standard deviation, in codes, over which counts by position are shared."""
    prior: float = Field(1.0, gt=0)
    """Weight, in counts, of a code's overall frequency in its surprisal."""


class VQVAESettings(CodebookSettings):
    """Settings of `vqvae`; the defaults keep the codebook alive (experiments/vqvae.yaml)."""

    hidden: int = Field(64, ge=1, le=4096)
    """Channels of the convolutions."""
    latent_norm: Literal["none", "layer"] = "layer"
    """`layer`: each latent vector is set to mean 0 and variance 1 before it is quantised."""
    warmup: int = Field(100, ge=0)
    """Training steps without quantising, before the codebook is placed (`init`)."""
    scoring: Scoring = Scoring()


def encoder(channels: int, hidden: int, dim: int) -> nn.Sequential:
    """Images (B, C, H, W) to latents (B, D, H/4, W/4)."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 4, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, hidden, 4, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, dim, 3, 1, 1),
    )


def decoder(channels: int, hidden: int, dim: int) -> nn.Sequential:
    """Latents (B, D, H/4, W/4) to images (B, C, H, W) in [0, 1]."""
    return nn.Sequential(
        nn.ConvTranspose2d(dim, hidden, 3, 1, 1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(hidden, hidden, 4, 2, 1),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(hidden, channels, 4, 2, 1),
        nn.Sigmoid(),
    )


@register("vqvae")
class VQVAE(Detector):
    """Needs images (backbone `pixels`), sides multiples of 4.

    loss = mean squared reconstruction error + mean (sg[z] − e)², where the codebook is learned by
    gradient, + β · mean (z − sg[e])².
    """

    Config = VQVAESettings
    step: Tensor
    """Training steps taken, ()."""
    pixel_mean: Tensor
    """Of each smoothed term over held-out normal images, (T, H, W); likewise `pixel_sd`."""
    pixel_sd: Tensor
    global_mean: Tensor
    """Of each smoothed term over all their pixels, (T, 1, 1); likewise `global_sd`."""
    global_sd: Tensor

    def __init__(self, config: VQVAESettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        if spec.sizes != (spec.image_size,):
            raise UserError(
                f"detector vqvae must see images; got a pyramid of levels {spec.sizes}; "
                "set features.backbone=pixels."
            )
        height, width = spec.image_size
        if height % 4 or width % 4:
            raise UserError(
                f"setting data.image_size must be a multiple of 4 for vqvae; got {height} x "
                f"{width}."
            )
        self.config = config
        self.encoder = encoder(spec.channels[0], config.hidden, config.dim)
        self.decoder = decoder(spec.channels[0], config.hidden, config.dim)
        self.to(memory_format=torch.channels_last)
        self.quantizer = VectorQuantizer(
            **config.model_dump(include=set(CodebookSettings.model_fields))
        )
        self.surprisal = CodeSurprisal(config.codebook_size, (height // 4, width // 4))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        terms = len(TERMS)
        self.register_buffer("pixel_mean", torch.zeros(terms, height, width))
        self.register_buffer("pixel_sd", torch.ones(terms, height, width))
        self.register_buffer("global_mean", torch.zeros(terms, 1, 1))
        self.register_buffer("global_sd", torch.ones(terms, 1, 1))

    # Training

    def loss(self, pyramid: Pyramid) -> dict[str, Tensor]:
        """Terms: `reconstruction`, `codebook` and `commitment` (not weighted)."""
        (images,) = pyramid
        z = self.latents(images)
        zero = torch.zeros((), device=images.device)
        codes, codebook, commitment, added = z, zero, zero, zero
        warm = int(self.step) >= self.config.warmup
        if warm and (self.training or bool(self.quantizer.initialised)):
            codes, _, codebook, commitment, added = self.quantizer(z)
        if self.training:
            self.step += 1
        reconstruction = F.mse_loss(self.decoder(codes).float(), images.float())
        return {
            "loss": reconstruction + added,
            "reconstruction": reconstruction,
            "codebook": codebook,
            "commitment": commitment,
        }

    def latents(self, images: Tensor) -> Tensor:
        """z (B, D, h, w), as the quantiser sees it."""
        z: Tensor = self.encoder(images.contiguous(memory_format=torch.channels_last))
        if self.config.latent_norm == "layer":
            z = F.layer_norm(z.movedim(1, -1).float(), (z.shape[1],)).movedim(-1, 1)
        return z

    def health(self) -> dict[str, float]:
        usage = self.quantizer.read_usage()
        if usage is None:
            return {}
        return {
            "codebook/perplexity": usage.perplexity,
            "codebook/dead_codes": float(usage.dead),
            "codebook/usage": 1 - usage.dead / usage.histogram.numel(),
        }

    # Scoring

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions (B, C, H, W) in [0, 1] and the code map, indices (B, h, w).

        Unquantised where training ended before the codebook was placed and nothing was calibrated.
        With residual levels the code map is the first level's.
        """
        z = self.latents(images)
        indices = self.quantizer.encode(z)
        codes = self.quantizer.lookup(indices) if bool(self.quantizer.initialised) else z
        rebuilt: Tensor = self.decoder(codes).float()
        return rebuilt, indices if self.quantizer.levels == 1 else indices[:, 0]

    @torch.no_grad()
    def terms(self, pyramid: Pyramid) -> Tensor:
        """The terms in the order of `TERMS`, neither smoothed nor normalised, (T, B, H, W)."""
        (images,) = pyramid
        rebuilt, indices = self.reconstruct(images)
        error = (rebuilt - images.float()).square().mean(1)
        surprisal = [self.surprisal.by_position(indices), self.surprisal.by_neighbours(indices)]
        coarse = torch.stack(surprisal)
        return torch.cat(
            [error[None], F.interpolate(coarse, self.spec.image_size, mode="bilinear")]
        )

    def published(self, pyramid: Pyramid) -> Scores:
        """Scores of the published VQ-VAE: squared error, mean over channels; its maximum."""
        error = self.terms(pyramid)[0]
        return Scores(error, error.amax((1, 2)))

    @torch.no_grad()
    def score(self, pyramid: Pyramid) -> Scores:
        scoring = self.config.scoring
        terms = self._smoothed(pyramid)
        maps = self._combine(terms, scoring.map_terms, scoring.map_normalise)
        judged = self._combine(terms, scoring.image_terms, scoring.image_normalise).flatten(1)
        if scoring.image_score == "max":
            return Scores(maps, judged.amax(1))
        if scoring.image_score == "top":
            judged = judged.topk(max(1, round(scoring.top * judged.shape[1])), sorted=False).values
        return Scores(maps, judged.mean(1))

    def _smoothed(self, pyramid: Pyramid) -> Tensor:
        side = max(self.spec.image_size)
        return smooth(self.terms(pyramid), self.config.scoring.smoothing * side)

    def _combine(
        self, terms: Tensor, chosen: tuple[Term, ...], normalise: Literal["none", "global", "pixel"]
    ) -> Tensor:
        """Sum of the chosen of terms (T, B, H, W), normalised, (B, H, W)."""
        which = [TERMS.index(term) for term in chosen]
        picked = terms[which]
        if normalise != "none":
            mean = self.pixel_mean if normalise == "pixel" else self.global_mean
            sd = self.pixel_sd if normalise == "pixel" else self.global_sd
            picked = (picked - mean[which, None]) / sd[which, None]
        return picked.sum(0)

    @torch.no_grad()
    def calibrate(self, train: Iterable[Pyramid], held_out: Iterable[Pyramid]) -> None:
        scoring = self.config.scoring
        if not self.quantizer.initialised:  # training was shorter than the warm-up
            self.quantizer.initialise(torch.cat([self.latents(images) for (images,) in train]))
        indices = (self.reconstruct(images)[1] for (images,) in train)
        self.surprisal.fit(indices, spread=scoring.spread, prior=scoring.prior)
        self._fit_moments(self._smoothed(pyramid).double() for pyramid in held_out)

    def _fit_moments(self, batches: Iterable[Tensor]) -> None:
        total = torch.zeros_like(self.pixel_mean, dtype=torch.float64)
        squares, count = torch.zeros_like(total), 0
        for terms in batches:
            total += terms.sum(1)
            squares += terms.square().sum(1)
            count += terms.shape[1]
        mean, square = total / count, squares / count
        self.pixel_mean.copy_(mean)
        self.global_mean.copy_(mean.mean((1, 2), keepdim=True))
        spread = square.mean((1, 2), keepdim=True) - self.global_mean.double().square()
        self.global_sd.copy_(spread.clamp_min(0).sqrt().clamp_min(1e-8))
        own = smooth((square - mean.square()).clamp_min(0), 2.0).sqrt()
        self.pixel_sd.copy_(own + 0.1 * self.global_sd)

    def panels(self, pyramid: Pyramid) -> dict[str, Tensor]:
        (images,) = pyramid
        rebuilt, indices = self.reconstruct(images)
        return {"reconstruction": rebuilt, "code map": indices}
