"""Settings of `vqvae`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vqlab.config import Settings
from vqlab.nn.codebook import CodebookOptions
from vqlab.nn.image_score import ImageScore
from vqlab.nn.pixel_normalization import Normalise

Term = Literal["error", "context", "position", "neighbours"]


TERMS: tuple[Term, ...] = ("error", "context", "position", "neighbours")
"""Squared error of a pixel, mean over channels; surprisal −log p of its code given surrounding
codes (learned, `CodePrior`), its position and its neighbours (counted, `CodeSurprisal`)."""


class CodebookSettings(Settings):
    """Arguments of `vqlab.nn.quantizer.VectorQuantizer`."""

    codebook_size: int = Field(512, ge=2, le=65536)
    dim: int = Field(64, ge=1, le=4096)
    commitment: float = Field(0.25, ge=0)
    learning: Literal["gradient", "ema"] = "ema"
    distance: Literal["l2", "cosine"] = "l2"
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    init: Literal["random", "kmeans"] = "kmeans"
    restart: float = Field(0.03, ge=0, lt=1)
    """Codes used less than this fraction of uniform usage are restarted; 0: never."""
    decay: float = Field(0.99, gt=0, lt=1)
    levels: int = Field(1, ge=1, le=16)

    @property
    def options(self) -> CodebookOptions:
        """How the codes are learned."""
        return CodebookOptions(self.commitment, self.decay, self.restart, self.init)

    @model_validator(mode="after")
    def _check_distance(self) -> CodebookSettings:
        if self.levels > 1 and self.distance == "cosine":
            raise ValueError("distance must be l2 if levels is above 1")
        return self


class Scoring(Settings):
    """Anomaly map and image score from the terms; may change without retraining, after another
    calibration."""

    terms: tuple[Term, ...] = Field(TERMS, min_length=1)
    error: Literal["plain", "relative"] = "relative"
    """`relative`: excess of the squared error over the pixel's mean on training images, divided by
    that mean (plus a fraction of the mean over all pixels)."""
    normalise: Normalise = "excess"
    """Normalisation of the terms, see `vqlab.nn.pixel_normalization`."""
    balance: Literal["explained", "equal"] = "explained"
    """Weights of the terms. `explained`: surprisals together have twice the fraction of the code
    entropy that the learned prior explains on the median held-out image, at most 1; the error has
    the rest. `equal`, also without the terms `error` and `context`: weight 1 each."""
    error_smoothing: float = Field(1 / 128, ge=0, le=0.25)
    """Standard deviation of the Gaussian smoothing of the error, as a fraction of the side."""
    code_smoothing: float = Field(1 / 32, ge=0, le=0.25)
    """The same for the surprisals."""
    image_score: ImageScore = "top"
    """Maximum of the map, its mean, or the mean of its highest fraction `top`."""
    top: float = Field(0.001, gt=0, le=1)
    context: tuple[float, ...] = Field((0.094, 0.156), min_length=1)
    """Spacings of the 5 × 5 codes that the learned prior sees, as fractions of the side of the code
    map; one predictor each."""
    context_steps: int = Field(400, ge=1)
    """Training steps of the learned prior."""
    spread: float = Field(1.0, ge=0)
    """Standard deviation of the Gaussian smoothing of counts by position, in codes."""
    prior: float = Field(1.0, gt=0)
    """Weight of the overall code frequency in counted surprisals, in counts."""
    light: float = Field(0.1, ge=0, le=1)
    """Standard deviation of the log gain of two brightness-augmented copies of each training image,
    to which the learned prior and the counts are also fitted, so that codes caused by other
    lighting are not anomalous; 0: no copies."""


class VQVAESettings(CodebookSettings):
    """Settings of `vqvae`."""

    hidden: int = Field(64, ge=1, le=4096)
    """Channels of the convolutions."""
    latent_norm: Literal["none", "layer"] = "layer"
    """`layer`: normalise each latent vector to mean 0 and variance 1 before quantisation."""
    crop: int = Field(256, ge=16, multiple_of=4)
    """Side of the random training crops, in pixels; smaller images are not cropped."""
    warmup: int = Field(100, ge=0)
    """Training steps without quantisation, before the codebook is initialised (`init`)."""
    scoring: Scoring = Scoring()
