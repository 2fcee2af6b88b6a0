"""The parts of VQ-Flow that are learned: codebooks of concepts and patterns, flows, coreset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.detectors.base import Detector
from vqlab.detectors.vqflow.level import (
    Condition,
    Latents,
    Level,
    apply_flow,
    apply_fusion,
    rows_at,
)
from vqlab.detectors.vqflow.settings import VQFlowSettings
from vqlab.nn import distributed
from vqlab.nn.base_density import Prototypes
from vqlab.nn.concept_coreset import ConceptCoreset
from vqlab.nn.flow import FusionFlow
from vqlab.nn.hierarchy import ConceptCodebook, ConceptCodes, Coreset, PatternCodebook
from vqlab.nn.patches import (
    join_levels,
    neighbourhood_means,
    patch_features,
    sample_each,
    sample_rows,
    to_rows,
)
from vqlab.nn.quantizer import VectorQuantizer
from vqlab.types import InputSpec, Pyramid, Sample, UserError

WHITENING_PATCHES = 60_000
"""Maximum number of patches that the whitening is fitted to."""
FUSION_HIDDEN = 384
"""Width of the subnets of the fusion flow."""


class FlowNetwork(Detector):
    """Conditional flows of features, whose likelihood is the loss; subclasses compute scores."""

    config: VQFlowSettings

    def __init__(self, config: VQFlowSettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        flow, concept = config.flow, config.concept
        levels = list(zip(spec.channels, spec.sizes, strict=True))
        self.condition_on_deepest = len(levels) > 1 and config.deepest == "condition"
        modelled = levels[:-1] if self.condition_on_deepest else levels
        joined = (sum(channels for channels, _ in modelled), modelled[0][1])
        self.grid = joined[1]
        """Size (h, w) of the finest level."""
        self.n_concepts = concept.codebook_size if concept.enabled else 1
        self.independent = flow.kernel == 1 and not flow.fusion
        """Whether the latents of a position depend on this position only."""
        if config.levels == "joined":
            modelled = [joined]
        self.concepts: ConceptCodebook | None = None
        if concept.enabled:
            self.concepts = ConceptCodebook(
                spec.channels[-1], concept.codebook_size, concept.dim,
                config.codebook_options(concept), encoder=concept.encoder,
                quantise=config.quantise,
            )  # fmt: skip
        prototype_dim = self.concepts.dim if self.concepts is not None else 0
        self.levels = nn.ModuleList(
            Level(config, level, spec.channels[-1], prototype_dim, number)
            for number, level in enumerate(modelled)
        )
        self.fusion: FusionFlow | None = None
        if flow.fusion:
            self.above = Condition(config, levels[-1], 0, prototype_dim)
            dims = [(level.channels, *level.size) for level in self._levels()]
            width = self.above.width
            self.fusion = FusionFlow(
                dims,
                ((width, *modelled[-1][1]),) if width else None,
                options=flow.coupling_options(FUSION_HIDDEN),
            )
        self.coverage: Coreset | ConceptCoreset | None = None
        size = config.pattern.coverage
        if size and config.pattern.coverage_kind == "per_concept":
            self.coverage = ConceptCoreset(self.n_concepts, size, joined[0], prototype_dim)
        elif size:
            self.coverage = Coreset(size, joined[0])

    @torch.no_grad()
    def prepare(self, samples: Iterable[Sample]) -> None:
        if self.concepts is not None:
            means = torch.cat([self.concepts.pool(sample.pyramid[-1]) for sample in samples])
            self._check_images(len(means))
            self.concepts.fit(means)
        if isinstance(self.coverage, ConceptCoreset):
            self._fit_by_concept(self.coverage, samples)
        elif self.coverage is not None:
            patches = (to_rows(join_levels(self._means(sample.pyramid))) for sample in samples)
            self.coverage.fit(sample_rows(patches, self.config.pattern.patches))
        for number, level in enumerate(self._levels()):
            rows = (to_rows(self._features(sample.pyramid, number)) for sample in samples)
            level.whitening.fit(sample_rows(rows, WHITENING_PATCHES))

    def _fit_by_concept(self, coverage: ConceptCoreset, samples: Iterable[Sample]) -> None:
        assert self.concepts is not None
        vectors = torch.cat([self.concepts.encode(sample.pyramid[-1]) for sample in samples])
        each = max(1, self.config.pattern.patches // len(vectors))
        maps = (join_levels(self._means(sample.pyramid)).half() for sample in samples)
        parts = [sample_each(batch, each) for batch in maps]
        counts = torch.cat([torch.tensor([len(part) for part in batch]) for batch in parts])
        images = torch.arange(len(vectors)).repeat_interleave(counts).to(vectors.device)
        patches = torch.cat([part for batch in parts for part in batch])
        coverage.fit(patches, images, vectors, self.concepts.quantizer.codebook)

    @classmethod
    def limit(cls, config: Settings, images: int) -> Settings:
        """Return settings with a quarter as many prototypes as images if there are fewer images
        than prototypes."""
        assert isinstance(config, VQFlowSettings)
        concept = config.concept
        if not concept.enabled or images >= concept.codebook_size:
            return config
        fewer = concept.model_copy(update={"codebook_size": max(1, images // 4)})
        return config.model_copy(update={"concept": fewer})

    def _check_images(self, images: int) -> None:
        size = self.config.concept.codebook_size
        if images < size:
            raise UserError(
                f"setting detector.concept.codebook_size: {size} prototypes need as many "
                f"training images; got {images}; set it to {max(1, images // 4)}, or train several "
                "categories together (data.joint=true)."
            )

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        """Terms: `nll` in nats per dimension, `pattern` and `concept` (codebook losses)."""
        concept = self._concept(sample.pyramid)
        means = self._means(sample.pyramid)
        latents = self._latents(sample.pyramid, means, concept, noise=self.config.flow.noise)
        nll = self._nll(latents, concept)
        zero = nll.new_zeros(())
        terms = {"nll": nll, "pattern": sum((level.codebook_loss for level in latents), zero)}
        if concept is not None:
            terms["concept"] = concept.loss
        return {"loss": sum(terms.values(), zero), **terms}

    def _nll(self, latents: list[Latents], concept: ConceptCodes | None) -> Tensor:
        """Return the negative log-likelihood per dimension of the features, mean over images."""
        total, dims = latents[0].z.new_zeros(()), 0
        for level, (z, log_det, _, _, size) in zip(self._levels(), latents, strict=True):
            log_prob = level.base.log_prob(z.flatten(0, 1), self._prototypes(z, concept))
            log_prob = log_prob.view(z.shape[:2])
            positions = size[0] * size[1]
            whitening = positions * level.whitening.log_det
            if log_det.ndim == 2:
                total = total + positions * (log_prob + log_det).mean(1).mean() + whitening
            else:
                total = total + (log_prob.sum(1) + log_det).mean() + whitening
            dims += positions * level.channels
        return -total / dims

    def health(self) -> dict[str, float]:
        """Return the usage, since the last call, of the concepts, of each level's patterns, and of
        the patterns that the fusion flow is conditioned on (`pattern_top`)."""
        codebooks: dict[str, VectorQuantizer | PatternCodebook | None] = {}
        if self.concepts is not None:
            codebooks["concept"] = self.concepts.quantizer
        for number, level in enumerate(self._levels()):
            codebooks[f"pattern{number}"] = level.condition.patterns
        if self.fusion is not None:
            codebooks["pattern_top"] = self.above.patterns
        metrics: dict[str, float] = {}
        for name, codebook in codebooks.items():
            usage = codebook.pop_usage() if codebook is not None else None
            metrics |= usage.metrics(f"codebook/{name}_") if usage is not None else {}
        return metrics

    @contextmanager
    def _eval_mode(self) -> Iterator[None]:
        if not self.training:  # setting the mode of all modules takes milliseconds
            yield
            return
        self.eval()
        try:
            yield
        finally:
            self.train()

    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]

    def _means(self, pyramid: Pyramid) -> Pyramid:
        """Return the `neighbourhood_means` of the modelled levels."""
        levels = pyramid[:-1] if self.condition_on_deepest else pyramid
        return neighbourhood_means(levels, self.config.neighbourhood)

    def _features(self, pyramid: Pyramid, number: int) -> Tensor:
        """Return the input (B, C_l, h_l, w_l) of the flow of that number."""
        if self.config.levels == "joined":
            return join_levels(self._means(pyramid))
        return patch_features((pyramid[number],), self.config.neighbourhood)

    def _concept(self, pyramid: Pyramid) -> ConceptCodes | None:
        return None if self.concepts is None else self.concepts(pyramid[-1])

    def _concept_indices(self, pyramid: Pyramid) -> Tensor:
        """Return the concepts (B,); zeros without concepts."""
        concept = self._concept(pyramid)
        if concept is None:
            return torch.zeros(len(pyramid[0]), dtype=torch.int64, device=pyramid[0].device)
        return concept.indices

    def _latents(
        self,
        pyramid: Pyramid,
        means: Pyramid,
        concept: ConceptCodes | None,
        noise: float = 0.0,
        with_log_det: bool = True,
        step: int = 1,
    ) -> list[Latents]:
        """Return the latents of each level, in training at random positions if these are
        independent. means: see `_means`; with_log_det: as of `apply_flow`; step: compute the finest
        level in every `step`-th row and column only, if positions are independent."""
        latents = []
        for number, level in enumerate(self._levels()):
            maps = join_levels(means) if self.config.levels == "joined" else means[number]
            positions = self._positions(maps, step if map_size(maps) == map_size(means[0]) else 1)
            rows = rows_at(maps, positions)
            rows = level.whitening(rows.flatten(0, 1)).view(*rows.shape[:2], -1)
            if self.training and noise:
                rows = rows + noise * _normal_like(rows)
            size = map_size(maps)
            condition = level.condition(rows, positions, concept, pyramid[-1], size)
            z, log_det = apply_flow(level, rows, condition, size, with_log_det)
            latents.append(Latents(z, log_det, condition.pattern, condition.loss, size))
        if self.fusion is None:
            return latents
        return apply_fusion(self.fusion, self.above, latents, pyramid[-1], concept)

    def _positions(self, maps: Tensor, step: int) -> Tensor:
        """Return indices of positions (B, P) of maps (B, C, h, w), see `_latents`."""
        flow, images, (height, width) = self.config.flow, len(maps), map_size(maps)
        if self.training and self.independent and flow.places < height * width:
            return distributed.sample_shard(
                lambda total: torch.randint(height * width, (total, flow.places)), images
            ).to(maps.device)
        step = step if self.independent else 1
        indices = torch.arange(height * width, device=maps.device).view(height, width)
        return indices[::step, ::step].flatten().expand(images, -1)

    def _prototypes(self, z: Tensor, concept: ConceptCodes | None) -> Prototypes:
        """Return the prototypes of all rows of z (B, P, C): of their images, or the codebook."""
        images, positions = z.shape[:2]
        rows = torch.arange(images, device=z.device).repeat_interleave(positions)
        if concept is None or self.concepts is None:
            return Prototypes(z.new_zeros(1, 1), torch.zeros_like(rows))
        if self.config.base == "mixture":
            return Prototypes(self.concepts.quantizer.codebook, concept.indices[rows])
        return Prototypes(concept.vectors, rows)


def map_size(maps: Tensor) -> tuple[int, int]:
    """Return (h, w) of maps (..., h, w)."""
    return maps.shape[-2], maps.shape[-1]


def _normal_like(rows: Tensor) -> Tensor:
    """Return standard normal noise, shaped as rows (B, P, C)."""
    return distributed.sample_shard(
        lambda count: torch.randn(count, *rows.shape[1:], device=rows.device), len(rows)
    )
