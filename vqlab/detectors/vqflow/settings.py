"""The settings of `vqflow`: the section `detector` of its recipes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vqlab.config import Settings
from vqlab.nn.base_density import BaseName
from vqlab.nn.concept_normalization import Standardise
from vqlab.nn.flow import MixingName
from vqlab.nn.hierarchy import PatternKind
from vqlab.nn.whitening import WhiteningName


class ConceptSettings(Settings):
    """Section `detector.concept`: prototypes, one code per image (CPC)."""

    enabled: bool = True
    codebook_size: int = Field(32, ge=1, le=4096)
    dim: int = Field(64, ge=1, le=4096)
    encoder: Literal["pca", "mlp"] = "pca"
    """`pca`: fixed principal axes of the deepest level's mean; `mlp`: the paper's, learned."""
    init: Literal["kmeans", "random"] = "kmeans"
    decay: float = Field(0.99, gt=0, lt=1)
    restart: float = Field(0.02, ge=0, lt=1)
    """A code chosen less often than this share of uniform usage moves; 0: never."""


class PatternSettings(Settings):
    """Section `detector.pattern`: codes of places (CSPC)."""

    kind: PatternKind = "residual"
    """What is quantised: `residual`, what is left beyond [position; prototype] (the paper's);
    `naive`, all of it; `per_concept`, as residual, with a codebook for each prototype; `none`."""
    codebook_size: int = Field(512, ge=1, le=65_536)
    dim: int = Field(128, ge=4, le=4096)
    encoder: Literal["linear", "mlp"] = "linear"
    """`mlp`: the paper's two layers with batch norm and ReLU, plus the deepest level's."""
    init: Literal["kmeans", "random"] = "kmeans"
    decay: float = Field(0.97, gt=0, lt=1)
    restart: float = Field(0.05, ge=0, lt=1)
    coverage: int = Field(10_000, ge=0, le=1_000_000)
    """Codes of the fixed codebook that covers all patches; their distance is a term of the score.
    0: none."""
    patches: int = Field(350_000, ge=1)
    """Most patches that the covering codes are chosen from, drawn at random."""


class FlowSettings(Settings):
    """Section `detector.flow`."""

    blocks: tuple[int, ...] = (8,)
    """Coupling blocks of each level's flow; one number: the same for all."""
    hidden: int = Field(128, ge=0)
    """Width of the subnets; 0: as wide as what enters them (the paper's)."""
    kernel: Literal[1, 3] = 1
    """Convolutions of the subnets; with 1 it trains on random places."""
    clamp: float = Field(1.9, gt=0)
    mixing: MixingName = "orthogonal"
    norm: bool = False
    """Layer norm in the subnets, as in the paper."""
    condition: int = Field(64, ge=0)
    """Width to which the condition is projected once per level; 0: as it is (the paper's)."""
    fusion: bool = False
    """A last coupling in which the latents of all levels see each other."""
    noise: float = Field(0.15, ge=0)
    """Gaussian noise on the features while training, in their (whitened) units."""
    places: int = Field(96, ge=1)
    """Random places of each image and level in a step, where kernel is 1 and there is no fusion."""


class Scoring(Settings):
    """Section `detector.scoring`: what may change without training again."""

    combine: Literal["sum", "add", "mul"] = "sum"
    """`sum`: the levels' −log p, each standardised by normal images; `add` and `mul`: the paper's
    two, which compare the places of one image with each other."""
    standardise: Standardise = "global"
    """By what is normal everywhere (`global`), for the image's concept (`concept`), or for it at
    the place (`place`); `none`: not. See `ConceptNormalization`."""
    weights: tuple[float, ...] = ()
    """Of the levels in the sum, finest first; none: alike."""
    scale: Literal["log", "linear"] = "log"
    """Of a level's −log p in the sum: its logarithm, so that a few wild places do not drown the
    rest, or as it is."""
    jacobian: float = Field(0.0, ge=0, le=1)
    """Share of −log |det| in a level's score: 0, the latent's density alone; 1, the features'."""
    coverage: float = Field(0.5, ge=0, le=1)
    """Share of the distance to the covering codes in the map."""
    smoothing: float = Field(1 / 64, ge=0, le=0.25)
    """Standard deviation of the Gaussian over the map, as a share of the image's side."""
    image_score: Literal["max", "top"] = "top"
    """Of the map: its maximum, or the mean of its highest share `top`."""
    image_standardise: Literal["none", "concept"] = "concept"
    """`concept`: the image's score minus where those of normal images of its concept lie, over
    their scatter, so that one threshold serves all categories of a joint model; `none`: as it is.
    See `ImageNormalization`; calibrating again fits it."""
    top: float = Field(0.01, gt=0, le=1)


class VQFlowSettings(Settings):
    """Settings of `vqflow`."""

    levels: Literal["joined", "each"] = "each"
    """`joined`: one flow of all levels together, on the finest's grid; `each`: one per level."""
    deepest: Literal["modelled", "condition"] = "modelled"
    """`condition`: the backbone's deepest level only tells concepts and patterns (the paper's)."""
    neighbourhood: int = Field(3, ge=1, le=15)
    """Side of the square over which features are averaged, odd; 1: not averaged."""
    whitening: WhiteningName = "whiten"
    floor: float = Field(0.01, gt=0, le=1)
    """Least variance that whitening gives an axis, as a share of the mean one."""
    dims: int | None = Field(None, ge=2)
    """Axes that whitening keeps of each level, those of most variance; none: all."""
    positions: int = Field(64, ge=0, multiple_of=4)
    """Width of the positional part of the condition; 0: none."""
    concept: ConceptSettings = ConceptSettings()
    pattern: PatternSettings = PatternSettings()
    quantise: bool = True
    """False: concepts and patterns enter as they are (an ablation: no codebook at all)."""
    commitment: float = Field(1.0, ge=0)
    """β, of both kinds of codebook."""
    flow: FlowSettings = FlowSettings()
    base: BaseName = "selected"
    """Density of the latents: `standard`; `selected`, a Gaussian of the image's prototype;
    `mixture`, of all prototypes."""
    scoring: Scoring = Scoring()

    @model_validator(mode="after")
    def _fit_together(self) -> VQFlowSettings:
        if self.levels == "joined" and (self.flow.fusion or len(self.flow.blocks) > 1):
            raise ValueError(
                "flow.fusion and several flow.blocks are for a flow of each level; got levels "
                "joined; set detector.levels=each"
            )
        if self.scoring.jacobian and self.scoring.scale == "log" and self.scoring.combine == "sum":
            raise ValueError(
                "scoring.jacobian may make a term negative, which has no logarithm; got scale log; "
                "set detector.scoring.scale=linear"
            )
        if self.scoring.jacobian and (self.flow.fusion or self.flow.kernel > 1):
            raise ValueError(
                "scoring.jacobian needs a log-determinant of each place, which only flow.kernel 1 "
                "without fusion has; set detector.scoring.jacobian=0"
            )
        if self.base != "standard" and not self.concept.enabled:
            raise ValueError(
                f"base {self.base} needs prototypes; got concept.enabled false; set "
                "detector.base=standard"
            )
        if self.pattern.kind == "per_concept" and not self.concept.enabled:
            raise ValueError(
                "pattern.kind per_concept needs prototypes; got concept.enabled false; set "
                "detector.pattern.kind=naive"
            )
        return self
