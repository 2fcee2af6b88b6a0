"""VQ-Flow: likelihood of features under a flow conditioned on codes of the image and its patches.

The condition comes from two codebooks: concepts (one code per image, CPC) and patterns (one code
per position, CSPC), arXiv 2409.00942. The likelihood is exact; the published code omits a
log-determinant. The distance to a coreset of training patches is an addition.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vqlab.config import Settings
from vqlab.detectors.base import register
from vqlab.detectors.capabilities import Extracted, ImagePrototypes
from vqlab.detectors.vqflow.level import resize
from vqlab.detectors.vqflow.network import FlowNetwork, map_size
from vqlab.detectors.vqflow.published import published_map, published_scores
from vqlab.detectors.vqflow.selection import evenly_by_concept
from vqlab.detectors.vqflow.settings import Scoring, VQFlowSettings
from vqlab.nn.concept_normalization import ConceptNormalization
from vqlab.nn.image_normalization import ImageNormalization
from vqlab.nn.image_score import image_score, total_variation
from vqlab.nn.patches import join_levels, to_rows
from vqlab.nn.smoothing import smooth, upsample
from vqlab.types import InputSpec, Pyramid, Sample, Scores, UserError

MINIMUM = 1e-6
"""Lower bound of −log p (up to constants) before its logarithm is taken."""
MANY_POSITIONS = 576
"""Maps of this size are calibrated on every second row and column: what limits the precision of the
statistics is the number of images, since positions of one image are similar."""
SHRINKAGE = 20.0
"""See `ConceptNormalization`."""
IMAGES_PER_CONCEPT = 12
"""Training images of each concept that the normalisation of image scores is fitted to."""


@register("vqflow")
class VQFlow(FlowNetwork):
    """−log p of features under conditional flows, and their distance to a coreset of patches."""

    Config = VQFlowSettings
    config: VQFlowSettings
    image_scoring = frozenset({"image_score", "top", "variation", "image_standardise"})
    any_shape = True

    def __init__(self, config: VQFlowSettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        weights = config.scoring.weights
        if weights and len(weights) != len(self.levels):
            raise UserError(
                "setting detector.scoring.weights must have a number for each of "
                f"{len(self.levels)} levels; got {list(weights)}; set [] for equal weights."
            )
        self.expectation = ConceptNormalization(
            self._count_terms(), self.grid, self.n_concepts, SHRINKAGE
        )
        self.image_level = ImageNormalization(self.n_concepts)
        self.stride = 2 if self.grid[0] * self.grid[1] >= MANY_POSITIONS else 1
        """Rows and columns of the finest level per row and column that calibration uses."""

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
    def can_rescore(cls, calibrated: Settings, new: Settings) -> bool:
        assert isinstance(calibrated, Scoring) and isinstance(new, Scoring)
        fitted = ("jacobian", "standardise")
        return all(getattr(calibrated, name) == getattr(new, name) for name in fitted)

    @torch.no_grad()
    def scores(self, extracted: Extracted) -> Scores:
        terms, concept, *_ = extracted
        scores = self._scores(terms.movedim(1, 0), concept)
        if self.config.scoring.image_standardise == "none":
            return scores
        return Scores(scores.anomaly_map, self.image_level.normalize(scores.image_score, concept))

    def _scores(self, terms: Tensor, concept: Tensor, step: int = 1) -> Scores:
        """Return scores from terms (T, B, h, w), of every `step`-th row and column, and concepts
        (B,); image scores not normalised.

        The total variation is that of every second row and column of large maps, as calibration
        sees them: it is larger with all of them.
        """
        scoring = self.config.scoring
        height, width = self.spec.image_size_of(terms.shape[2:])
        size = step * height, step * width
        maps = self._maps(terms, concept, size)
        score = image_score(maps, scoring.image_score, scoring.top)
        if scoring.variation:
            every = self.stride // step
            coarse = self._maps(terms[..., ::every, ::every], concept, size) if every > 1 else maps
            score = score + scoring.variation * total_variation(coarse)
        return Scores(maps, score)

    def _maps(self, terms: Tensor, concept: Tensor, size: tuple[int, int]) -> Tensor:
        """Return smoothed maps (B, *size) from terms (T, B, h, w) of images of these concepts."""
        scoring = self.config.scoring
        sigma = scoring.smoothing * max(self.spec.image_size)
        if scoring.combine == "sum":
            return upsample(self._sum(terms, concept), size, sigma)
        levels = resize(terms[: len(self.levels)], size)
        return smooth(published_map(levels, scoring.combine), sigma)

    def _terms(self, pyramid: Pyramid) -> tuple[Tensor, Tensor, Tensor]:
        """Return terms (T, B, h, w), concepts (B,) and pattern codes (B, h, w).

        Terms: those of `_level_terms`, and the distance to the nearest code of the coreset. Pattern
        codes: of the finest level with patterns, else the nearest codes of the coreset.
        """
        means, grid = self._means(pyramid), map_size(pyramid[0])
        terms, indices, codes = self._level_terms(pyramid, means)
        if self.coverage is not None:
            rows, vectors = to_rows(join_levels(means)), self._vectors(pyramid)
            nearest, distance = self.coverage(rows, vectors, grid[1])
            terms = torch.cat([terms, distance.view(1, -1, *grid)])
            codes = nearest.view(-1, *grid) if codes is None else codes
        return terms, indices, indices.new_empty(len(indices), 0, 0) if codes is None else codes

    def _training_terms(self, pyramid: Pyramid, step: int) -> tuple[Tensor, Tensor]:
        """Return terms (T, B, h, w) and concepts (B,) of training images.

        As `_terms`, but with the distance to the nearest code that is not a patch of the image
        itself: patches that are codes have distance 0, those of new images do not. The maps have
        every `step`-th row and column.
        """
        means = self._means(pyramid)
        terms, indices, _ = self._level_terms(pyramid, means, step)
        if self.coverage is not None:
            whole = join_levels(means)
            every = whole[..., ::step, ::step]
            parts = (map(to_rows, torch.split(maps, 1)) for maps in (every, whole))
            distances = [
                self.coverage.distance_to_others(rows, image, vector, every.shape[3])
                for rows, image, vector in zip(*parts, self._vectors(pyramid), strict=True)
            ]
            terms = torch.cat([terms, torch.stack(distances).view(1, *terms.shape[1:])])
        return terms, indices

    def _level_terms(
        self, pyramid: Pyramid, means: Pyramid, step: int = 1
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return terms (2L, B, h, w) of L levels: −log p of each per dimension, up to constants,
        and the logarithm of each; concepts (B,); pattern codes (B, h, w), None without.

        step: as of `_training_terms`.
        """
        concept, share, terms = self._concept(pyramid), self.config.scoring.jacobian, []
        grid = map_size(pyramid[0])
        latents = self._latents(pyramid, means, concept, with_log_det=share > 0, step=step)
        for level, (z, log_det, _, _, size) in zip(self._levels(), latents, strict=True):
            term = level.base.quadratic(z.flatten(0, 1), self._prototypes(z, concept))
            term = term.view(z.shape[:2])
            if share:
                term = term - share * log_det / level.channels
            if size == grid and self.independent:
                terms.append(term.view(-1, 1, *(-(-n // step) for n in grid)))
            else:
                maps = term.view(-1, 1, *size)
                maps = maps if size == grid else resize(maps, grid)
                terms.append(maps[..., ::step, ::step])
        terms += [term.clamp_min(MINIMUM).log() for term in terms]
        indices = self._concept_indices(pyramid) if concept is None else concept.indices
        codes = (each.pattern.view(-1, *each.size) for each in latents if each.pattern is not None)
        return torch.stack(terms)[:, :, 0], indices, next(codes, None) if step == 1 else None

    def _vectors(self, pyramid: Pyramid) -> Tensor:
        """Return the image vectors (B, V) before quantisation; zeros without concepts."""
        if self.concepts is None:
            return pyramid[0].new_zeros(len(pyramid[0]), 1)
        return self.concepts.encode(pyramid[-1])

    def _sum(self, terms: Tensor, concept: Tensor) -> Tensor:
        """Return the weighted sum (B, h, w) of standardised terms (T, B, h, w) of images of these
        concepts (B,)."""
        scoring, count = self.config.scoring, len(self.levels)
        normalized = self.expectation.normalize(terms, concept, scoring.standardise)
        levels = normalized[count : 2 * count] if scoring.scale == "log" else normalized[:count]
        weights = torch.tensor(scoring.weights or [1.0] * count).to(levels)
        maps = (weights[:, None, None, None] * levels).sum(0) / weights.sum()
        if self.coverage is None:
            return maps
        return (1 - scoring.coverage) * maps + scoring.coverage * normalized[-1]

    @torch.no_grad()
    def calibrate(
        self, train: Iterable[Sample], held_out: Iterable[Sample], effort: float = 1.0
    ) -> None:
        with self._eval_mode():
            pooled = self.config.scoring.standardise in ("none", "global")
            step = self.stride if pooled else 1
            new = [self._training_terms(sample.pyramid, step) for sample in held_out]
            terms = new if pooled else (self._training_terms(s.pyramid, step) for s in train)
            self.expectation.fit(terms, new)
            if self.config.scoring.image_standardise == "concept":
                self._fit_image_level(train, new, effort, step)

    def _fit_image_level(
        self,
        train: Iterable[Sample],
        held_out: list[tuple[Tensor, Tensor]],
        effort: float,
        step: int,
    ) -> None:
        """Fit the normalisation of image scores to the held-out images, and to so many training
        images that each concept has `IMAGES_PER_CONCEPT` images, times the effort.

        held_out: `_training_terms` and concepts. The scores are leave-one-out, since an image whose
        patches are codes scores far lower than a new image of its concept.
        """
        batches = [self._concept_indices(sample.pyramid) for sample in train]
        present = torch.cat([concept for _, concept in held_out])
        size = len(self.image_level.location)
        missing = effort * IMAGES_PER_CONCEPT - torch.bincount(present, minlength=size)
        parts = [self._scores(*each, step).image_score for each in held_out]
        concepts = [present]
        for sample, places in zip(train, evenly_by_concept(batches, missing), strict=True):
            if places:
                pyramid = tuple(level[places] for level in sample.pyramid)
                terms, concept = self._training_terms(pyramid, step)
                parts.append(self._scores(terms, concept, step).image_score)
                concepts.append(concept)
        self.image_level.fit(torch.cat(parts), torch.cat(concepts))

    def _count_terms(self) -> int:
        """Return the number of terms."""
        return 2 * len(self.levels) + (self.coverage is not None)

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
