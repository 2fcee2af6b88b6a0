"""Settings of `vqflow`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vqlab.config import Settings
from vqlab.nn.base_density import BaseName
from vqlab.nn.codebook import CodebookOptions
from vqlab.nn.concept_normalization import Standardise
from vqlab.nn.flow import CouplingName, CouplingOptions, MixingName
from vqlab.nn.hierarchy import PatternKind
from vqlab.nn.whitening import WhiteningName


class ConceptSettings(Settings):
    """Section `detector.concept`: prototypes, one code per image (CPC)."""

    enabled: bool = True
    codebook_size: int = Field(32, ge=1, le=4096)
    """With fewer training images than this, a run uses a quarter of their number."""
    dim: int = Field(64, ge=1, le=4096)
    encoder: Literal["pca", "mlp"] = "pca"
    """Encoder of the mean of the deepest level. `pca`: fixed principal axes; `mlp`: learned, as in
    the paper."""
    init: Literal["kmeans", "random"] = "kmeans"
    decay: float = Field(0.99, gt=0, lt=1)
    restart: float = Field(0.02, ge=0, lt=1)
    """Codes used less than this fraction of uniform usage are restarted; 0: never."""


class PatternSettings(Settings):
    """Section `detector.pattern`: one code per position (CSPC)."""

    kind: PatternKind = "residual"
    """Quantised vector. `residual`: difference of the encoded features to [position; prototype]
    (the paper's); `naive`: encoded features; `per_concept`: as residual, with one codebook per
    prototype; `none`: no patterns."""
    codebook_size: int = Field(512, ge=1, le=65_536)
    dim: int = Field(128, ge=4, le=4096)
    encoder: Literal["linear", "mlp"] = "linear"
    """`mlp`: two layers with batch norm and ReLU plus an encoder of the deepest level, as in the
    paper."""
    init: Literal["kmeans", "random"] = "kmeans"
    decay: float = Field(0.97, gt=0, lt=1)
    restart: float = Field(0.05, ge=0, lt=1)
    coverage: int = Field(10_000, ge=0, le=1_000_000)
    """Size of the coreset of training patches, whose distance is a term of the score; 0: none."""
    coverage_kind: Literal["shared", "per_concept"] = "shared"
    """`shared`: one coreset. `per_concept`: one of `coverage` patches (about 1,000) for each
    prototype; an image is compared with the coreset of its prototype, so that its cost does not
    depend on the number of categories. Cannot be exported."""
    patches: int = Field(350_000, ge=1)
    """Maximum number of random patches that the coreset is selected from."""


class FlowSettings(Settings):
    """Section `detector.flow`."""

    blocks: tuple[int, ...] = (4,)
    """Coupling blocks of the flow of each level; a single number applies to all levels."""
    hidden: int = Field(128, ge=0)
    """Width of the subnets; 0: that of their input (the paper's)."""
    kernel: Literal[1, 3] = 1
    """Kernel size of the subnets; with 1, training uses random positions."""
    coupling: CouplingName = "affine"
    """`affine`: scale and shift; `additive`: shift only, so that the determinant of the Jacobian is
    the same at every point (Abu Zaid et al. 2025)."""
    clamp: float = Field(1.9, gt=0)
    mixing: MixingName = "orthogonal"
    norm: bool = False
    """Layer norm in the subnets, as in the paper."""
    condition: int = Field(64, ge=0)
    """Width to which the condition is projected once per level; 0: no projection (the paper's)."""
    fusion: bool = False
    """Add a coupling across the latents of all levels."""
    noise: float = Field(0.15, ge=0)
    """Standard deviation of Gaussian noise on the whitened features in training."""
    places: int = Field(96, ge=1)
    """Random positions per image and level in a training step (kernel 1 without fusion)."""

    def coupling_options(self, hidden: int) -> CouplingOptions:
        """Return the options of couplings whose subnets have this width."""
        return CouplingOptions(hidden, self.kernel, self.clamp, self.norm, self.coupling)


class Scoring(Settings):
    """Section `detector.scoring`: settings that may change without retraining."""

    combine: Literal["sum", "add", "mul"] = "sum"
    """`sum`: sum of −log p of the levels, standardised by normal images; `add` and `mul`: the two
    published scores, which compare positions within one image."""
    standardise: Standardise = "global"
    """Standardise by statistics over all normal images (`global`), over those of the concept
    (`concept`), or over those of the concept at each position (`place`). See
    `ConceptNormalization`."""
    weights: tuple[float, ...] = ()
    """Weights of the levels in the sum, finest first; empty: equal weights."""
    scale: Literal["log", "linear"] = "log"
    """Scale of −log p of a level in the sum; `log` reduces the influence of outliers."""
    jacobian: float = Field(0.0, ge=0, le=1)
    """Weight of −log |det| in the score of a level: 0: density of the latents; 1: of the
    features."""
    coverage: float = Field(0.5, ge=0, le=1)
    """Weight of the distance to the coreset in the map."""
    smoothing: float = Field(1 / 64, ge=0, le=0.25)
    """Standard deviation of the Gaussian smoothing, as a fraction of the image side."""
    image_score: Literal["max", "top"] = "top"
    """Maximum of the map, or mean of its highest fraction `top`."""
    variation: float = Field(0.0, ge=0)
    """Weight of the map's total variation, which is added to the image score. See
    `total_variation`; of large maps, every second row and column are used."""
    image_standardise: Literal["none", "concept"] = "concept"
    """`concept`: standardise the image score by those of normal images of its concept, so that one
    threshold serves all categories of a joint model. See `ImageNormalization`; fitted by
    calibration."""
    top: float = Field(0.01, gt=0, le=1)


class VQFlowSettings(Settings):
    """Settings of `vqflow`."""

    levels: Literal["joined", "each"] = "each"
    """`joined`: one flow of all levels on the grid of the finest; `each`: one flow per level."""
    deepest: Literal["modelled", "condition"] = "modelled"
    """`condition`: use the deepest level for concepts and patterns only (the paper's)."""
    neighbourhood: int = Field(3, ge=1, le=15)
    """Side of the square over which features are averaged, odd; 1: no averaging."""
    whitening: WhiteningName = "whiten"
    floor: float = Field(0.01, gt=0, le=1)
    """Lower bound of the variance of an axis in whitening, as a fraction of the mean variance."""
    dims: int | None = Field(None, ge=2)
    """Number of principal axes that whitening keeps of each level; null: all."""
    positions: int = Field(64, ge=0, multiple_of=4)
    """Width of the positional encoding in the condition; 0: none."""
    concept: ConceptSettings = ConceptSettings()
    pattern: PatternSettings = PatternSettings()
    quantise: bool = True
    """False: use unquantised concepts and patterns (an ablation)."""
    commitment: float = Field(1.0, ge=0)
    """β of both kinds of codebook."""
    flow: FlowSettings = FlowSettings()
    base: BaseName = "selected"
    """Density of the latents: `standard` normal; `selected`: Gaussian of the image's prototype;
    `hierarchical`: mixture of `components` Gaussians of the image's prototype; `mixture`: of the
    Gaussians of all prototypes."""
    components: int = Field(4, ge=1, le=64)
    """Gaussians of each prototype (base `hierarchical`)."""
    scoring: Scoring = Scoring()

    def codebook_options(self, section: ConceptSettings | PatternSettings) -> CodebookOptions:
        """Return how the codes of concepts or patterns are learned."""
        return CodebookOptions(self.commitment, section.decay, section.restart, section.init)

    @model_validator(mode="after")
    def _check_combinations(self) -> VQFlowSettings:
        if self.levels == "joined" and (self.flow.fusion or len(self.flow.blocks) > 1):
            raise ValueError(
                "flow.fusion and several flow.blocks need one flow per level; got levels joined; "
                "set detector.levels=each"
            )
        if self.scoring.jacobian and self.scoring.scale == "log" and self.scoring.combine == "sum":
            raise ValueError(
                "scoring.jacobian may make a term negative, so that its logarithm is undefined; "
                "got scale log; set detector.scoring.scale=linear"
            )
        if self.scoring.jacobian and (self.flow.fusion or self.flow.kernel > 1):
            raise ValueError(
                "scoring.jacobian needs a log-determinant per position, which requires flow.kernel "
                "1 and no fusion; set detector.scoring.jacobian=0"
            )
        if self.base != "standard" and not self.concept.enabled:
            raise ValueError(
                f"base {self.base} needs prototypes; got concept.enabled false; set "
                "detector.base=standard"
            )
        if self.pattern.coverage_kind == "per_concept" and not (
            self.concept.enabled and self.concept.encoder == "pca"
        ):
            raise ValueError(
                "pattern.coverage_kind per_concept needs prototypes that are fitted before "
                "training; set detector.concept.enabled=true and detector.concept.encoder=pca"
            )
        if self.pattern.kind == "per_concept" and not self.concept.enabled:
            raise ValueError(
                "pattern.kind per_concept needs prototypes; got concept.enabled false; set "
                "detector.pattern.kind=naive"
            )
        return self
