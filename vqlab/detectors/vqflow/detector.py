"""VQ-Flow: likelihood of features under a flow conditioned on codes of the image and its patches.

The condition comes from two codebooks: concepts (one code per image, CPC) and patterns (one code
per position, CSPC), arXiv 2409.00942. The likelihood is exact; the published code omits a
log-determinant. The distance to a coreset of training patches is an addition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.detectors.base import Detector, register
from vqlab.detectors.capabilities import Extracted, ImagePrototypes
from vqlab.detectors.vqflow.level import (
    Condition,
    Latents,
    Level,
    apply_flow,
    apply_fusion,
    resize,
    rows_at,
)
from vqlab.detectors.vqflow.published import published_map, published_scores
from vqlab.detectors.vqflow.selection import evenly_by_concept
from vqlab.detectors.vqflow.settings import Scoring, VQFlowSettings
from vqlab.nn import distributed
from vqlab.nn.base_density import Prototypes
from vqlab.nn.concept_coreset import ConceptCoreset
from vqlab.nn.concept_normalization import ConceptNormalization
from vqlab.nn.flow import FusionFlow
from vqlab.nn.hierarchy import ConceptCodebook, ConceptCodes, Coreset, PatternCodebook
from vqlab.nn.image_normalization import ImageNormalization
from vqlab.nn.image_score import image_score
from vqlab.nn.patches import patch_features, sample_each, sample_rows, to_rows
from vqlab.nn.quantizer import VectorQuantizer
from vqlab.nn.smoothing import smooth
from vqlab.types import InputSpec, Pyramid, Sample, Scores, UserError

WHITENING_PATCHES = 60_000
"""Maximum number of patches that the whitening is fitted to."""
MINIMUM = 1e-6
"""Lower bound of −log p (up to constants) before its logarithm is taken."""
SHRINKAGE = 20.0
"""See `ConceptNormalization`."""
IMAGES_PER_CONCEPT = 12
"""Training images of each concept that the normalisation of image scores is fitted to."""


@register("vqflow")
class VQFlow(Detector):
    """−log p of features under conditional flows, and their distance to a coreset of patches."""

    Config = VQFlowSettings
    config: VQFlowSettings
    image_scoring = frozenset({"image_score", "top", "image_standardise"})
    any_shape = True

    def __init__(self, config: VQFlowSettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        flow, concept = config.flow, config.concept
        levels = list(zip(spec.channels, spec.sizes, strict=True))
        self.condition_on_deepest = len(levels) > 1 and config.deepest == "condition"
        modelled = levels[:-1] if self.condition_on_deepest else levels
        joined = (sum(channels for channels, _ in modelled), modelled[0][1])
        if config.levels == "joined":
            modelled = [joined]
        self.concepts: ConceptCodebook | None = None
        if concept.enabled:
            self.concepts = ConceptCodebook(
                spec.channels[-1], concept.codebook_size, concept.dim, encoder=concept.encoder,
                quantise=config.quantise, commitment=config.commitment, decay=concept.decay,
                restart=concept.restart, init=concept.init,
            )  # fmt: skip
        weights = config.scoring.weights
        if weights and len(weights) != len(modelled):
            raise UserError(
                f"setting detector.scoring.weights must have a number for each of {len(modelled)} "
                f"levels; got {list(weights)}; set [] for equal weights."
            )
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
                dims, ((width, *modelled[-1][1]),) if width else None, kernel=flow.kernel,
                clamp=flow.clamp, norm=flow.norm,
            )  # fmt: skip
        self.coverage: Coreset | ConceptCoreset | None = None
        concepts = concept.codebook_size if concept.enabled else 1
        size = config.pattern.coverage
        if size and config.pattern.coverage_kind == "per_concept":
            self.coverage = ConceptCoreset(concepts, size, joined[0], prototype_dim)
        elif size:
            self.coverage = Coreset(size, joined[0])
        self.expectation = ConceptNormalization(self._count_terms(), joined[1], concepts, SHRINKAGE)
        self.image_level = ImageNormalization(concepts)

    @torch.no_grad()
    def prepare(self, samples: Iterable[Sample]) -> None:
        if self.concepts is not None:
            means = torch.cat([self.concepts.pool(sample.pyramid[-1]) for sample in samples])
            self._check_images(len(means))
            self.concepts.fit(means)
        if isinstance(self.coverage, ConceptCoreset):
            self._fit_by_concept(self.coverage, samples)
        elif self.coverage is not None:
            patches = (to_rows(self._patches(sample.pyramid)) for sample in samples)
            self.coverage.fit(sample_rows(patches, self.config.pattern.patches))
        for number, level in enumerate(self._levels()):
            rows = (to_rows(self._features(sample.pyramid, number)) for sample in samples)
            level.whitening.fit(sample_rows(rows, WHITENING_PATCHES))

    def _fit_by_concept(self, coverage: ConceptCoreset, samples: Iterable[Sample]) -> None:
        assert self.concepts is not None
        vectors = torch.cat([self.concepts.encode(sample.pyramid[-1]) for sample in samples])
        each = max(1, self.config.pattern.patches // len(vectors))
        maps = (self._patches(sample.pyramid).half() for sample in samples)
        parts = [sample_each(batch, each) for batch in maps]
        counts = torch.cat([torch.tensor([len(part) for part in batch]) for batch in parts])
        images = torch.arange(len(vectors)).repeat_interleave(counts).to(vectors.device)
        patches = torch.cat([part for batch in parts for part in batch])
        coverage.fit(patches, images, vectors, self.concepts.quantizer.codebook)

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
        latents = self._latents(sample.pyramid, concept, noise=self.config.flow.noise)
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

    @torch.no_grad()
    def score(self, sample: Sample) -> Scores:
        return self.scores(self.extract(sample))

    @torch.no_grad()
    def extract(self, sample: Sample) -> Extracted:
        """Return terms (B, T, h, w), see `_terms`; concepts (B,); image vectors before quantisation
        (B, D), D = 0 without concepts; pattern codes (B, h, w), h = w = 0 without patterns."""
        with self._eval_mode():
            terms, concept, codes = self._terms(sample.pyramid)
            vectors = terms.new_zeros(len(concept), 0)
            if self.concepts is not None:
                vectors = self.concepts.encode(sample.pyramid[-1])
        return terms.movedim(0, 1), concept, vectors, codes

    @classmethod
    def can_rescore(cls, calibrated: Settings, wanted: Settings) -> bool:
        assert isinstance(calibrated, Scoring) and isinstance(wanted, Scoring)
        fitted = ("jacobian", "standardise")
        return all(getattr(calibrated, name) == getattr(wanted, name) for name in fitted)

    @torch.no_grad()
    def scores(self, extracted: Extracted) -> Scores:
        terms, concept, *_ = extracted
        scores = self._scores(terms.movedim(1, 0), concept)
        if self.config.scoring.image_standardise == "none":
            return scores
        return Scores(scores.anomaly_map, self.image_level.normalize(scores.image_score, concept))

    def _scores(self, terms: Tensor, concept: Tensor) -> Scores:
        """Return scores from terms (T, B, h, w) and concepts (B,); image scores not normalised."""
        scoring = self.config.scoring
        maps = self._combine(terms, concept)
        maps = smooth(maps, scoring.smoothing * max(self.spec.image_size))
        return Scores(maps, image_score(maps, scoring.image_score, scoring.top))

    def _terms(
        self, pyramid: Pyramid, leave_one_out: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return terms (T, B, h, w), concepts (B,) and pattern codes (B, h, w).

        Terms: −log p of each level per dimension, up to constants; the logarithm of each; and the
        distance to the nearest code of the coreset (`leave_one_out`: also to the nearest one that
        is not a patch of the image itself). Pattern codes: of the finest level with patterns, else
        the nearest codes of the coreset.
        """
        concept = self._concept(pyramid)
        share, grid = self.config.scoring.jacobian, _size(pyramid[0])
        terms = []
        latents = self._latents(pyramid, concept, with_log_det=share > 0)
        for level, (z, log_det, _, _, size) in zip(self._levels(), latents, strict=True):
            term = level.base.quadratic(z.flatten(0, 1), self._prototypes(z, concept))
            term = term.view(z.shape[:2])
            if share:
                term = term - share * log_det / level.channels
            maps = term.view(-1, 1, *size)
            terms.append(maps if size == grid else resize(maps, grid))
        terms += [term.clamp_min(MINIMUM).log() for term in terms]
        indices = self._concept_indices(pyramid) if concept is None else concept.indices
        codes = indices.new_empty(len(indices), 0, 0)
        if self.coverage is not None:
            rows = to_rows(self._patches(pyramid))
            vectors = indices[:, None].float()
            if self.concepts is not None:
                vectors = self.concepts.encode(pyramid[-1])
            index, distance = self.coverage(rows, vectors, grid[1])
            codes = index.view(-1, *grid)
            terms.append(distance.view(-1, 1, *grid))
            if leave_one_out:
                parts = (each.chunk(len(codes)) for each in (rows, index, distance))
                others = [
                    self.coverage.distance_to_others(r, (i, d), vector)
                    for r, i, d, vector in zip(*parts, vectors, strict=True)
                ]
                terms.append(torch.stack(others).view(-1, 1, *grid))
        for latent in latents:
            if latent.pattern is not None:
                codes = latent.pattern.view(-1, *latent.size)
                break
        return torch.stack(terms)[:, :, 0], indices, codes

    def _combine(self, terms: Tensor, concept: Tensor) -> Tensor:
        """Combine terms (T, B, h, w) of images of these concepts (B,) to maps (B, H, W)."""
        scoring, size = self.config.scoring, self.spec.image_size_of(terms.shape[2:])
        count = len(self.levels)
        if scoring.combine != "sum":
            return published_map(resize(terms[:count], size), scoring.combine)
        normalized = self.expectation.normalize(terms, concept, scoring.standardise)
        levels = normalized[count : 2 * count] if scoring.scale == "log" else normalized[:count]
        weights = torch.tensor(scoring.weights or [1.0] * count).to(levels)
        maps = (weights[:, None, None, None] * levels).sum(0) / weights.sum()
        if self.coverage is not None:
            maps = (1 - scoring.coverage) * maps + scoring.coverage * normalized[-1]
        return resize(maps[None], size)[0]

    @torch.no_grad()
    def calibrate(
        self, train: Iterable[Sample], held_out: Iterable[Sample], effort: float = 1.0
    ) -> None:
        with self._eval_mode():
            by_concept = self.config.scoring.image_standardise == "concept"
            both = [self._terms(sample.pyramid, by_concept)[:2] for sample in held_out]
            count = self._count_terms()
            held_out_terms = [(terms[:count], concept) for terms, concept in both]
            pooled = self.config.scoring.standardise in ("none", "global")
            terms = held_out_terms if pooled else (self._terms(s.pyramid)[:2] for s in train)
            self.expectation.fit(terms, held_out_terms)
            if by_concept:
                self._fit_image_level(train, both, effort)

    def _fit_image_level(
        self, train: Iterable[Sample], held_out: list[tuple[Tensor, Tensor]], effort: float
    ) -> None:
        """Fit the normalisation of image scores to the held-out images, and to others so that each
        concept has `IMAGES_PER_CONCEPT` of them, times the effort.

        held_out: leave-one-out terms and concepts. The scores are leave-one-out, since an image
        whose patches are codes scores far lower than a new image of its concept.
        """
        batches = [self._concept_indices(sample.pyramid) for sample in train]
        present = torch.cat([concept for _, concept in held_out])
        size = len(self.image_level.location)
        wanted = effort * IMAGES_PER_CONCEPT - torch.bincount(present, minlength=size)
        parts = [self._leave_one_out_scores(*each) for each in held_out]
        concepts = [present]
        for sample, places in zip(train, evenly_by_concept(batches, wanted), strict=True):
            if places:
                pyramid = tuple(level[places] for level in sample.pyramid)
                terms, concept, _ = self._terms(pyramid, leave_one_out=True)
                parts.append(self._leave_one_out_scores(terms, concept))
                concepts.append(concept)
        self.image_level.fit(torch.cat(parts), torch.cat(concepts))

    def _leave_one_out_scores(self, terms: Tensor, concept: Tensor) -> Tensor:
        """Return image scores (B,), not normalised, of leave-one-out terms (T, B, h, w)."""
        if self.coverage is not None:
            terms = torch.cat([terms[:-2], terms[-1:]])
        return self._scores(terms, concept).image_score

    def _count_terms(self) -> int:
        """Return the number of terms, without those of leave-one-out."""
        return 2 * len(self.levels) + (self.coverage is not None)

    def _concept_indices(self, pyramid: Pyramid) -> Tensor:
        """Return the concepts (B,); zeros without concepts."""
        concept = self._concept(pyramid)
        if concept is None:
            return torch.zeros(len(pyramid[0]), dtype=torch.int64, device=pyramid[0].device)
        return concept.indices

    @torch.no_grad()
    def alternatives(self, extracted: Extracted) -> dict[str, Scores]:
        """Return the two published scores, `add` and `mul`."""
        terms = extracted[0].movedim(1, 0)[: len(self.levels)]
        levels = resize(terms, self.spec.image_size_of(terms.shape[2:]))
        return {"add": published_scores(levels, "add"), "mul": published_scores(levels, "mul")}

    @torch.no_grad()
    def prototypes(self, extracted: Extracted) -> ImagePrototypes | None:
        if self.concepts is None:
            return None
        quantizer, vectors = self.concepts.quantizer, extracted[2]
        return ImagePrototypes(quantizer.encode(vectors), vectors, quantizer.codebook)

    @torch.no_grad()
    def extract_prototypes(self, sample: Sample) -> ImagePrototypes | None:
        if self.concepts is None:
            return None
        with self._eval_mode():
            vectors = self.concepts.encode(sample.pyramid[-1])
        quantizer = self.concepts.quantizer
        return ImagePrototypes(quantizer.encode(vectors), vectors, quantizer.codebook)

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

    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        """Return `pattern codes`: the code at each position, (B, h, w)."""
        codes = extracted[3]
        return {"pattern codes": codes} if codes.numel() else {}

    def codebook_sizes(self) -> dict[str, int]:
        pattern = self.config.pattern
        groups = self.config.concept.codebook_size if pattern.kind == "per_concept" else 1
        if pattern.kind == "none":
            groups = self.config.concept.codebook_size
            size = pattern.coverage * (groups if pattern.coverage_kind == "per_concept" else 1)
        else:
            size = groups * pattern.codebook_size
        return {"pattern codes": size} if size else {}

    @contextmanager
    def _eval_mode(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]

    def _patches(self, pyramid: Pyramid) -> Tensor:
        """Return all modelled levels (B, C, h, w) on the grid of the finest one."""
        levels = pyramid[:-1] if self.condition_on_deepest else pyramid
        return patch_features(levels, self.config.neighbourhood)

    def _features(self, pyramid: Pyramid, number: int) -> Tensor:
        """Return the input (B, C_l, h_l, w_l) of the flow of that number."""
        if self.config.levels == "joined":
            return self._patches(pyramid)
        return patch_features((pyramid[number],), self.config.neighbourhood)

    def _concept(self, pyramid: Pyramid) -> ConceptCodes | None:
        return None if self.concepts is None else self.concepts(pyramid[-1])

    def _latents(
        self,
        pyramid: Pyramid,
        concept: ConceptCodes | None,
        noise: float = 0.0,
        with_log_det: bool = True,
    ) -> list[Latents]:
        """Return the latents of each level, in training at random positions if these are
        independent. with_log_det: as of `apply_flow`."""
        latents = []
        for number, level in enumerate(self._levels()):
            maps = self._features(pyramid, number)
            positions = self._positions(maps)
            rows = rows_at(maps, positions)
            rows = level.whitening(rows.flatten(0, 1)).view(*rows.shape[:2], -1)
            if self.training and noise:
                rows = rows + noise * _normal_like(rows)
            size = _size(maps)
            condition = level.condition(rows, positions, concept, pyramid[-1], size)
            z, log_det = apply_flow(level, rows, condition, size, with_log_det)
            latents.append(Latents(z, log_det, condition.pattern, condition.loss, size))
        if self.fusion is None:
            return latents
        return apply_fusion(self.fusion, self.above, latents, pyramid[-1], concept)

    def _positions(self, maps: Tensor) -> Tensor:
        """Return indices of positions (B, P) of maps (B, C, h, w): random ones in training, else
        all."""
        flow, images, count = self.config.flow, len(maps), maps.shape[2] * maps.shape[3]
        independent = flow.kernel == 1 and not flow.fusion
        if not (self.training and independent) or flow.places >= count:
            return torch.arange(count, device=maps.device).expand(images, -1)
        return distributed.sample_shard(
            lambda total: torch.randint(count, (total, flow.places)), images
        ).to(maps.device)

    def _prototypes(self, z: Tensor, concept: ConceptCodes | None) -> Prototypes:
        """Return the prototypes of all rows of z (B, P, C): of their images, or the codebook."""
        images, positions = z.shape[:2]
        rows = torch.arange(images, device=z.device).repeat_interleave(positions)
        if concept is None or self.concepts is None:
            return Prototypes(z.new_zeros(1, 1), torch.zeros_like(rows))
        if self.config.base == "mixture":
            return Prototypes(self.concepts.quantizer.codebook, concept.indices[rows])
        return Prototypes(concept.vectors, rows)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]


def _normal_like(rows: Tensor) -> Tensor:
    """Return standard normal noise, shaped as rows (B, P, C)."""
    return distributed.sample_shard(
        lambda count: torch.randn(count, *rows.shape[1:], device=rows.device), len(rows)
    )
