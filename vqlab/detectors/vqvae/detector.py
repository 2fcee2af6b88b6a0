"""VQ-VAE (van den Oord et al. 2017): anomalies have a high reconstruction error or improbable
codes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.detectors.base import Detector, register
from vqlab.detectors.capabilities import Extracted
from vqlab.detectors.vqvae.settings import TERMS, Scoring, Term, VQVAESettings
from vqlab.nn import distributed
from vqlab.nn.brightness import scale_brightness
from vqlab.nn.image_score import image_score
from vqlab.nn.latch import latched, reset_on_load
from vqlab.nn.patches import sample_rows, to_rows
from vqlab.nn.pixel_normalization import PixelNormalization
from vqlab.nn.prior import CodePrior
from vqlab.nn.quantizer import VectorQuantizer
from vqlab.nn.smoothing import smooth
from vqlab.nn.strided import (
    DoublingConvTranspose2d,
    HalvingConv2d,
    SameConv2d,
    SameConvTranspose2d,
)
from vqlab.nn.surprisal import CodeSurprisal
from vqlab.types import InputSpec, Sample, Scores, UserError

MAX_LATENTS = 131_072
"""Maximum number of latents that a codebook is initialised from in calibration."""
COPIES = 2
"""Copies of each training image in other brightness, see `Scoring.light`."""


def encoder(channels: int, hidden: int, dim: int) -> nn.Sequential:
    """Map images (B, C, H, W) to latents (B, D, H/4, W/4)."""
    return nn.Sequential(
        HalvingConv2d(channels, hidden),
        nn.ReLU(inplace=True),
        HalvingConv2d(hidden, hidden),
        nn.ReLU(inplace=True),
        SameConv2d(hidden, dim),
    )


def decoder(channels: int, hidden: int, dim: int) -> nn.Sequential:
    """Map latents (B, D, H/4, W/4) to images (B, C, H, W) in [0, 1]."""
    return nn.Sequential(
        SameConvTranspose2d(dim, hidden),
        nn.ReLU(inplace=True),
        DoublingConvTranspose2d(hidden, hidden),
        nn.ReLU(inplace=True),
        DoublingConvTranspose2d(hidden, channels),
        nn.Sigmoid(),
    )


@register("vqvae")
class VQVAE(Detector):
    """Vector-quantised autoencoder of images (backbone `pixels`), sides multiples of 4.

    loss = mean squared reconstruction error + β · mean (z − sg[e])², + mean (sg[z] − e)² if the
    codebook is learned by gradient.
    """

    Config = VQVAESettings
    config: VQVAESettings
    step: Tensor
    """Number of training steps, ()."""
    error_mean: Tensor
    """Mean squared error of each pixel on training images, (H, W)."""
    explained: Tensor
    """Fraction of the code entropy that the prior explains on the median held-out image, ()."""

    def __init__(self, config: VQVAESettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        if spec.sizes != (spec.image_size,):
            raise UserError(
                f"detector vqvae needs images; got a pyramid of levels {spec.sizes}; set "
                "features.backbone=pixels."
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
            config.codebook_size, config.dim, config.options, learning=config.learning,
            distance=config.distance, gradient=config.gradient, levels=config.levels,
        )  # fmt: skip
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        reset_on_load(self)
        grid = (height // 4, width // 4)
        self.surprisal = CodeSurprisal(config.codebook_size, grid)
        spacings = [max(1, round(share * max(grid))) for share in config.scoring.context]
        self.prior = CodePrior(config.codebook_size, config.dim, spacings)
        self.normality = PixelNormalization(len(TERMS), spec.image_size)
        self.register_buffer("error_mean", torch.zeros(height, width))
        self.register_buffer("explained", torch.ones(()))

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        """Terms: `reconstruction`, `codebook` and `commitment` (without β)."""
        (images,) = sample.pyramid
        if self.training:
            images = random_crops(images, self.config.crop)
        z = self.latents(images)
        zero = torch.zeros((), device=images.device)
        codes, codebook, commitment, codebook_loss = z, zero, zero, zero
        warmup = self.config.warmup
        quantise = latched(self, "warm", lambda: int(self.step) >= warmup)
        if quantise and (self.training or self.quantizer.is_initialised):
            codes, _, codebook, commitment, codebook_loss = self.quantizer(z)
        if self.training:
            self.step += 1
        reconstruction = F.mse_loss(self.decoder(codes).float(), images.float())
        return {
            "loss": reconstruction + codebook_loss,
            "reconstruction": reconstruction,
            "codebook": codebook,
            "commitment": commitment,
        }

    def latents(self, images: Tensor) -> Tensor:
        """Return the input of the quantiser, z (B, D, h, w)."""
        z: Tensor = self.encoder(images.contiguous(memory_format=torch.channels_last))
        if self.config.latent_norm == "layer":
            z = F.layer_norm(z.movedim(1, -1).float(), (z.shape[1],)).movedim(-1, 1)
        return z

    def health(self) -> dict[str, float]:
        usage = self.quantizer.pop_usage()
        return {} if usage is None else usage.metrics("codebook/")

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstructions (B, C, H, W) in [0, 1] and code indices (B, h, w).

        Not quantised if the codebook is not initialised. With residual levels, the indices are
        those of the first level.
        """
        z = self.latents(images)
        indices = self.quantizer.encode(z)
        codes = self.quantizer.lookup(indices) if self.quantizer.is_initialised else z
        reconstruction: Tensor = self.decoder(codes).float()
        return reconstruction, self._first_level(indices)

    def _first_level(self, indices: Tensor) -> Tensor:
        return indices if self.quantizer.levels == 1 else indices[:, 0]

    @torch.no_grad()
    def extract(self, sample: Sample) -> Extracted:
        """Return squared error (B, H, W), surprisals in the order of `TERMS` (B, 3, h, w),
        reconstruction (B, C, H, W) uint8 and code indices (B, h, w).

        `context`, which is slow, is 0 if the scoring does not use it.
        """
        (images,) = sample.pyramid
        reconstruction, indices = self.reconstruct(images)
        surprisals = [self._surprisal(term, indices) for term in TERMS[1:]]
        picture = (reconstruction.clamp(0, 1) * 255).round().to(torch.uint8)
        return squared_error(reconstruction, images), torch.stack(surprisals, 1), picture, indices

    def terms(self, extracted: Extracted) -> Tensor:
        """Return the smoothed terms in the order of `TERMS`, not normalised, (T, B, H, W); 0 for
        terms that the scoring does not use."""
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
        """Return −log p of codes (B, h, w), same shape."""
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
        rows = [TERMS.index(term) for term in scoring.terms]
        terms = self.normality.normalize(self.terms(extracted), scoring.normalise)[rows]
        maps = (self.weights()[rows][:, None, None, None] * terms).sum(0)
        return Scores(maps, image_score(maps, scoring.image_score, scoring.top))

    def weights(self) -> Tensor:
        """Return the weights of the terms in the map, (T,)."""
        weights = torch.ones(len(TERMS), device=self.explained.device)
        scoring = self.config.scoring
        if scoring.balance == "explained" and {"error", "context"} <= set(scoring.terms):
            share = (2 * self.explained).clamp_max(1)
            weights[0] = 1 - share
            weights[1:] = share / (len(scoring.terms) - 1)
        return weights

    def alternatives(self, extracted: Extracted) -> dict[str, Scores]:
        """Return `squared_error`, the published score: squared error and its maximum."""
        error = extracted[0]
        return {"squared_error": Scores(error, error.amax((1, 2)))}

    @torch.no_grad()
    def calibrate(
        self, train: Iterable[Sample], held_out: Iterable[Sample], effort: float = 1.0
    ) -> None:
        scoring = self.config.scoring
        if not self.quantizer.is_initialised:  # training was shorter than the warmup
            latents = (to_rows(self.latents(sample.pyramid[0])) for sample in train)
            with torch.random.fork_rng(devices=[]):  # leave other random draws unchanged
                rows = sample_rows(latents, MAX_LATENTS, torch.float32)
            self.quantizer.initialise(rows)
        parts, total, count = [], torch.zeros_like(self.error_mean, dtype=torch.float64), 0
        for sample in train:
            (images,) = sample.pyramid
            reconstruction, indices = self.reconstruct(images)
            parts.append(indices.int())
            total += squared_error(reconstruction, images).double().sum(0)
            count += len(images)
        self.error_mean.copy_(smooth(total / count, 1.0))
        indices = torch.cat(parts)
        augmented = torch.cat([indices, *self._augmented_indices(train)])
        batches = torch.split(augmented, 64)
        self.surprisal.fit(batches, spread=scoring.spread, prior=scoring.prior)
        if "context" in scoring.terms:
            steps = max(1, round(effort * scoring.context_steps))
            self.prior.fit(augmented, self.quantizer.codebook, steps=steps)
            unseen = [self.reconstruct(sample.pyramid[0])[1] for sample in held_out]
            self.explained.fill_(self._explained_fraction(indices, torch.cat(unseen)))
        self.fit_normalization(self.extract(sample) for sample in held_out)

    @torch.no_grad()
    def fit_normalization(self, extracted: Iterable[Extracted]) -> None:
        self.normality.fit(self.terms(each) for each in extracted)

    @classmethod
    def can_rescore(cls, calibrated: Settings, new: Settings) -> bool:
        assert isinstance(calibrated, Scoring) and isinstance(new, Scoring)
        fitted = ("context", "context_steps", "spread", "prior", "light")
        same = all(getattr(calibrated, name) == getattr(new, name) for name in fitted)
        return same and ("context" in calibrated.terms or "context" not in new.terms)

    def _augmented_indices(self, train: Iterable[Sample]) -> list[Tensor]:
        """Return code indices (B, h, w), int32, of `COPIES` brightness-augmented copies of the
        images; deterministic."""
        spread, generator = self.config.scoring.light, torch.Generator().manual_seed(0)
        if not spread:
            return []
        return [
            self._first_level(
                self.quantizer.encode(
                    self.latents(scale_brightness(sample.pyramid[0], spread, generator))
                )
            ).int()
            for _ in range(COPIES)
            for sample in train
        ]

    def _explained_fraction(self, train: Tensor, held_out: Tensor) -> float:
        """Return 1 − mean surprisal / entropy of code usage in [0, 1], of the median held-out
        image, which is robust to single images in unusual lighting.

        Reduced if the entropy is below 1 nat: a collapsed codebook explains nothing.
        """
        usage = torch.bincount(train.flatten(), minlength=self.config.codebook_size).double()
        entropy = float(torch.special.entr(usage / usage.sum()).sum())
        surprisal = self.prior.surprisal(held_out, self.quantizer.codebook).mean((1, 2))
        return max(0.0, entropy - float(surprisal.quantile(0.5))) / max(entropy, 1.0)

    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        _, _, picture, indices = extracted
        return {"reconstruction": picture.float() / 255, "code map": indices}

    def codebook_sizes(self) -> dict[str, int]:
        return {"code map": self.config.codebook_size}


def squared_error(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Return the squared error of images (B, C, H, W), mean over channels, (B, H, W)."""
    return (reconstruction - images.float()).square().mean(1)


def random_crops(images: Tensor, side: int) -> Tensor:
    """Return a random crop of each image (B, C, H, W), with corners at multiples of 4 pixels (the
    side of a code)."""
    height, width = images.shape[-2:]
    h, w = min(side, height), min(side, width)
    if (h, w) == (height, width):
        return images
    rows, columns = (height - h) // 4 + 1, (width - w) // 4 + 1
    top = 4 * distributed.sample_shard(lambda count: torch.randint(rows, (count,)), len(images))
    left = 4 * distributed.sample_shard(lambda count: torch.randint(columns, (count,)), len(images))
    corners = zip(images, top.tolist(), left.tolist(), strict=True)
    return torch.stack([image[:, y : y + h, x : x + w] for image, y, x in corners])
