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
from vqlab.detectors.capabilities import Extracted
from vqlab.nn import distributed
from vqlab.nn.brightness import scale_brightness
from vqlab.nn.image_score import ImageScore, image_score
from vqlab.nn.pixel_normalization import Normalise, PixelNormalization
from vqlab.nn.prior import CodePrior
from vqlab.nn.quantizer import VectorQuantizer
from vqlab.nn.smoothing import smooth
from vqlab.nn.surprisal import CodeSurprisal
from vqlab.types import InputSpec, Sample, Scores, UserError

Term = Literal["error", "context", "position", "neighbours"]
TERMS: tuple[Term, ...] = ("error", "context", "position", "neighbours")
"""Squared error of a pixel, mean over channels; and the surprisal −log p of its code, given the
codes some way around it (learned, `CodePrior`), its position, its neighbours (counted)."""
RELIT = 2
"""Copies of each training image in other light, see `Scoring.light`."""


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
    """How the terms make one anomaly map, and the map an image score.

    May change without training again (calibrating again fits it).
    """

    terms: tuple[Term, ...] = Field(TERMS, min_length=1)
    error: Literal["plain", "relative"] = "relative"
    """`relative`: of a pixel's squared error, how much it exceeds that pixel's mean on training
    images, as a multiple of that mean (plus a share of the mean over all pixels)."""
    normalise: Normalise = "excess"
    """Normalisation that makes terms comparable: `vqlab.nn.pixel_normalization`."""
    balance: Literal["explained", "equal"] = "explained"
    """`explained`: surprisals weigh twice the share of the codes' entropy that the learned prior
    explains on the median image it was not fitted to, at most 1 (none, where codes are noise to
    it); the error weighs the rest. Without `context` among the terms nothing says so, and all are
    equal."""
    error_smoothing: float = Field(1 / 128, ge=0, le=0.25)
    """Standard deviation of the Gaussian over the error, as a share of the image's side."""
    code_smoothing: float = Field(1 / 32, ge=0, le=0.25)
    """Likewise over the surprisals."""
    image_score: ImageScore = "top"
    """Of the map: its maximum, its mean, or the mean of its highest share `top`."""
    top: float = Field(0.001, gt=0, le=1)
    context: tuple[float, ...] = Field((0.094, 0.156), min_length=1)
    """What the learned prior looks at: how far apart its 5 × 5 codes are, a predictor for each, as
    a share of the code map's side."""
    context_steps: int = Field(400, ge=1)
    """Steps for which the learned prior is fitted."""
    spread: float = Field(1.0, ge=0)
    """Standard deviation, in codes, over which counts by position are shared."""
    prior: float = Field(1.0, gt=0)
    """Weight, in counts, of a code's overall frequency in its counted surprisals."""
    light: float = Field(0.1, ge=0, le=1)
    """Standard deviation of log brightness: the learned prior and the counts are also fitted to
    two copies of each training image that are brighter or darker by it, because a code that only
    another light brings out is not a defect. 0: no copies."""


class VQVAESettings(CodebookSettings):
    """Settings of `vqvae`; the defaults keep the codebook alive (experiments/vqvae.yaml)."""

    hidden: int = Field(64, ge=1, le=4096)
    """Channels of the convolutions."""
    latent_norm: Literal["none", "layer"] = "layer"
    """`layer`: each latent vector is set to mean 0 and variance 1 before it is quantised."""
    crop: int = Field(256, ge=16, multiple_of=4)
    """Side of the random crops trained on, pixels; images no larger are taken whole."""
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
    config: VQVAESettings
    step: Tensor
    """Training steps taken, ()."""
    error_mean: Tensor
    """Squared error of each pixel, mean over training images, (H, W)."""
    explained: Tensor
    """Share of the codes' entropy that the prior explains on the median image it was not fitted
    to, ()."""

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
        self.encoder = encoder(spec.channels[0], config.hidden, config.dim)
        self.decoder = decoder(spec.channels[0], config.hidden, config.dim)
        self.to(memory_format=torch.channels_last)
        self.quantizer = VectorQuantizer(
            **config.model_dump(include=set(CodebookSettings.model_fields))
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        grid = (height // 4, width // 4)
        self.surprisal = CodeSurprisal(config.codebook_size, grid)
        spacings = [max(1, round(share * max(grid))) for share in config.scoring.context]
        self.prior = CodePrior(config.codebook_size, config.dim, spacings)
        self.normality = PixelNormalization(len(TERMS), spec.image_size)
        self.register_buffer("error_mean", torch.zeros(height, width))
        self.register_buffer("explained", torch.ones(()))

    # Training

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        """Terms: `reconstruction`, `codebook` and `commitment` (not weighted)."""
        (images,) = sample.pyramid
        if self.training:
            images = random_crops(images, self.config.crop)
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
        usage = self.quantizer.pop_usage()
        if usage is None:
            return {}
        return {
            "codebook/perplexity": usage.perplexity,
            "codebook/dead_codes": float(usage.dead),
            "codebook/usage": usage.used,
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
        return rebuilt, self._code_map(indices)

    def _code_map(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w) of the first level."""
        return indices if self.quantizer.levels == 1 else indices[:, 0]

    @torch.no_grad()
    def extract(self, sample: Sample) -> Extracted:
        """Squared error (B, H, W), surprisals in the order of `TERMS` (B, 3, h, w), reconstruction
        (B, C, H, W) uint8 and code map (B, h, w).

        `context` is 0 where the scoring does not use it, as it takes the longest.
        """
        (images,) = sample.pyramid
        rebuilt, indices = self.reconstruct(images)
        surprisals = [self._surprisal(term, indices) for term in TERMS[1:]]
        picture = (rebuilt.clamp(0, 1) * 255).round().to(torch.uint8)
        return squared_error(rebuilt, images), torch.stack(surprisals, 1), picture, indices

    def terms(self, extracted: Extracted) -> Tensor:
        """The terms in the order of `TERMS`, smoothed, not normalised, (T, B, H, W).

        Terms that the scoring does not use are 0.
        """
        error, surprisals, *_ = extracted
        scoring = self.config.scoring
        if scoring.error == "relative":
            floor = 0.3 * self.error_mean.mean()
            error = (error - self.error_mean) / (self.error_mean + floor).clamp_min(1e-12)
        side = max(self.spec.image_size)
        terms = torch.zeros(len(TERMS), *error.shape, device=error.device)
        terms[0] = smooth(error, scoring.error_smoothing * side)
        for row, term in enumerate(TERMS[1:], 1):
            if term in scoring.terms:
                coarse = smooth(surprisals[:, row - 1], scoring.code_smoothing * side / 4)
                terms[row] = F.interpolate(coarse[None], self.spec.image_size, mode="bilinear")[0]
        return terms

    def _surprisal(self, term: Term, indices: Tensor) -> Tensor:
        """−log p of codes (B, h, w), (B, h, w)."""
        if term == "context" and term not in self.config.scoring.terms:
            return torch.zeros(indices.shape, device=indices.device)
        if term == "context":
            return self.prior.surprisal(indices, self.quantizer.codebook)
        if term == "position":
            return self.surprisal.by_position(indices)
        return self.surprisal.by_neighbours(indices)

    @torch.no_grad()
    def score(self, sample: Sample) -> Scores:
        return self.scores(self.extract(sample))

    @torch.no_grad()
    def scores(self, extracted: Extracted) -> Scores:
        scoring = self.config.scoring
        chosen = [TERMS.index(term) for term in scoring.terms]
        measured = self.normality.normalize(self.terms(extracted), scoring.normalise)[chosen]
        maps = (self.weights()[chosen][:, None, None, None] * measured).sum(0)
        return Scores(maps, image_score(maps, scoring.image_score, scoring.top))

    def weights(self) -> Tensor:
        """What each of the terms weighs in the map, (T,)."""
        weights = torch.ones(len(TERMS), device=self.explained.device)
        scoring = self.config.scoring
        if scoring.balance == "explained" and {"error", "context"} <= set(scoring.terms):
            share = (2 * self.explained).clamp_max(1)
            weights[0] = 1 - share
            weights[1:] = share / (len(scoring.terms) - 1)
        return weights

    def alternatives(self, extracted: Extracted) -> dict[str, Scores]:
        """`squared_error`: the published score, squared error and its maximum, always reported."""
        error = extracted[0]
        return {"squared_error": Scores(error, error.amax((1, 2)))}

    @torch.no_grad()
    def calibrate(
        self, train: Iterable[Sample], held_out: Iterable[Sample], effort: float = 1.0
    ) -> None:
        scoring = self.config.scoring
        if not self.quantizer.initialised:  # training was shorter than the warm-up
            self.quantizer.initialise(
                torch.cat([self.latents(sample.pyramid[0]) for sample in train])
            )
        seen, total, count = [], torch.zeros_like(self.error_mean, dtype=torch.float64), 0
        for sample in train:
            (images,) = sample.pyramid
            rebuilt, indices = self.reconstruct(images)
            seen.append(indices)
            total += squared_error(rebuilt, images).double().sum(0)
            count += len(images)
        self.error_mean.copy_(smooth(total / count, 1.0))
        indices = torch.cat(seen)
        in_all_light = torch.cat([indices, *self._relit_codes(train)])
        self.surprisal.fit([in_all_light], spread=scoring.spread, prior=scoring.prior)
        if "context" in scoring.terms:
            steps = max(1, round(effort * scoring.context_steps))
            self.prior.fit(in_all_light, self.quantizer.codebook, steps=steps)
            unseen = [self.reconstruct(sample.pyramid[0])[1] for sample in held_out]
            self.explained.fill_(self._explains(indices, torch.cat(unseen)))
        self.fit_normalization(self.extract(sample) for sample in held_out)

    @torch.no_grad()
    def fit_normalization(self, extracted: Iterable[Extracted]) -> None:
        self.normality.fit(self.terms(each) for each in extracted)

    @classmethod
    def can_rescore(cls, calibrated: Settings, wanted: Settings) -> bool:
        assert isinstance(calibrated, Scoring) and isinstance(wanted, Scoring)
        fitted = ("context", "context_steps", "spread", "prior", "light")
        alike = all(getattr(calibrated, name) == getattr(wanted, name) for name in fitted)
        return alike and ("context" in calibrated.terms or "context" not in wanted.terms)

    def _relit_codes(self, train: Iterable[Sample]) -> list[Tensor]:
        """Code maps (B, h, w) of `RELIT` copies of the images in other light, the same each time
        it is called."""
        spread, draw = self.config.scoring.light, torch.Generator().manual_seed(0)
        if not spread:
            return []
        return [
            self._code_map(
                self.quantizer.encode(
                    self.latents(scale_brightness(sample.pyramid[0], spread, draw))
                )
            )
            for _ in range(RELIT)
            for sample in train
        ]

    def _explains(self, train: Tensor, rest: Tensor) -> float:
        """1 − mean surprisal of the codes of an image / entropy of the usage of codes, in [0, 1],
        of the median image of `rest`: one image in unusual light must not decide for all.

        Less where the entropy is under a nat: a collapsed codebook explains nothing.
        """
        usage = torch.bincount(train.flatten(), minlength=self.config.codebook_size).double()
        entropy = float(torch.special.entr(usage / usage.sum()).sum())
        each = self.prior.surprisal(rest, self.quantizer.codebook).mean((1, 2))
        return max(0.0, entropy - float(each.quantile(0.5))) / max(entropy, 1.0)

    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        _, _, picture, indices = extracted
        return {"reconstruction": picture.float() / 255, "code map": indices}

    def codebook_sizes(self) -> dict[str, int]:
        return {"code map": self.config.codebook_size}


def squared_error(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Of images (B, C, H, W), mean over channels, (B, H, W)."""
    return (rebuilt - images.float()).square().mean(1)


def random_crops(images: Tensor, side: int) -> Tensor:
    """A square (B, C, side, side) of each image, corners at multiples of 4 (a code's pixels)."""
    height, width = images.shape[-2:]
    tall, wide = min(side, height), min(side, width)
    if (tall, wide) == (height, width):
        return images
    down, across = (height - tall) // 4 + 1, (width - wide) // 4 + 1
    top = 4 * distributed.sample_shard(lambda count: torch.randint(down, (count,)), len(images))
    left = 4 * distributed.sample_shard(lambda count: torch.randint(across, (count,)), len(images))
    corners = zip(images, top.tolist(), left.tolist(), strict=True)
    return torch.stack([image[:, y : y + tall, x : x + wide] for image, y, x in corners])
