"""VQ-Flow: how likely are features, given what the image is of and which pattern lies where?

A conditional normalising flow of frozen features; its condition comes from two codebooks, concepts
(one code per image, CPC) and patterns (one code per place, CSPC): arXiv 2409.00942. The likelihood
is exact where the published code left out a log-determinant. Ours adds the distance to a codebook
of patterns that covers all that was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.detectors.base import Detector, register
from vqlab.detectors.capabilities import Extracted, ImagePrototypes
from vqlab.detectors.vqflow.level import (
    Condition,
    Latents,
    Level,
    brought,
    flow_of,
    fused,
    rows_at,
)
from vqlab.detectors.vqflow.published import published_map, published_scores
from vqlab.detectors.vqflow.settings import Scoring, VQFlowSettings
from vqlab.nn import distributed
from vqlab.nn.base_density import Prototypes
from vqlab.nn.concept_normalization import ConceptNormalization
from vqlab.nn.flow import FusionFlow
from vqlab.nn.hierarchy import ConceptCodebook, ConceptCodes, Coreset, PatternCodebook
from vqlab.nn.image_normalization import ImageNormalization
from vqlab.nn.image_score import image_score
from vqlab.nn.patches import patch_features, sample_rows, to_rows
from vqlab.nn.quantizer import VectorQuantizer
from vqlab.nn.smoothing import smooth
from vqlab.types import InputSpec, Pyramid, Sample, Scores, UserError

WHITENED_ON = 60_000
"""Patches that the whitening is fitted to."""
LEAST = 1e-6
"""Least −log p, up to constants, whose logarithm is taken."""
SHRINK = 20.0
"""Images of a concept at which what is normal at a place counts half."""


@register("vqflow")
class VQFlow(Detector):
    """Likelihood of features under a flow conditioned on codes, and their distance to all seen."""

    Config = VQFlowSettings
    config: VQFlowSettings
    image_scoring = frozenset({"image_score", "top", "image_standardise"})

    def __init__(self, config: VQFlowSettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        flow, joins = config.flow, config.levels == "joined"
        levels = list(zip(spec.channels, spec.sizes, strict=True))
        self.apart = len(levels) > 1 and config.deepest == "condition"
        shown = levels[:-1] if self.apart else levels
        self.joined_spec = (sum(c for c, _ in shown), shown[0][1])
        chosen = [self.joined_spec] if joins else shown
        self.whole = flow.kernel > 1 or flow.fusion
        """Whether a step takes whole maps: then places are not independent."""
        self.concepts: ConceptCodebook | None = None
        concept = config.concept
        if concept.enabled:
            self.concepts = ConceptCodebook(
                spec.channels[-1], concept.codebook_size, concept.dim, encoder=concept.encoder,
                quantise=config.quantise, commitment=config.commitment, decay=concept.decay,
                restart=concept.restart, init=concept.init,
            )  # fmt: skip
        weights = config.scoring.weights
        if weights and len(weights) != len(chosen):
            raise UserError(
                f"setting detector.scoring.weights must have a number for each of {len(chosen)} "
                f"levels; got {list(weights)}; set [] to weigh them alike."
            )
        known = self.concepts.dim if self.concepts is not None else 0
        top = spec.channels[-1]
        self.levels = nn.ModuleList(
            Level(config, own, top, known, number) for number, own in enumerate(chosen)
        )
        self.fusion: FusionFlow | None = None
        if flow.fusion:
            self.above = Condition(config, levels[-1], 0, known)
            dims = [(level.channels, *level.size) for level in self._levels()]
            width = self.above.width
            self.fusion = FusionFlow(
                dims, ((width, *chosen[-1][1]),) if width else None, kernel=flow.kernel,
                clamp=flow.clamp, norm=flow.norm,
            )  # fmt: skip
        self.coverage: Coreset | None = None
        if config.pattern.coverage:
            self.coverage = Coreset(config.pattern.coverage, self.joined_spec[0])
        kinds = concept.codebook_size if concept.enabled else 1
        terms = 2 * len(chosen) + (self.coverage is not None)
        self.expectation = ConceptNormalization(terms, self.joined_spec[1], kinds, SHRINK)
        self.image_level = ImageNormalization(kinds)

    @torch.no_grad()
    def prepare(self, samples: Iterable[Sample]) -> None:
        if self.concepts is not None:
            means = torch.cat([self.concepts.pool(sample.pyramid[-1]) for sample in samples])
            _enough(len(means), self.config.concept.codebook_size)
            self.concepts.fit(means)
        if self.coverage is not None:
            most = self.config.pattern.patches
            self.coverage.fit(
                sample_rows((to_rows(self._patches(s.pyramid)) for s in samples), most)
            )
        for number, level in enumerate(self._levels()):
            own = (to_rows(self._map(sample.pyramid, number)) for sample in samples)
            level.whitening.fit(sample_rows(own, WHITENED_ON))

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        """`nll` in nats per dimension of the features, and what the codebooks add."""
        concept = self._concept(sample.pyramid)
        latents = self._latents(sample.pyramid, concept, noise=self.config.flow.noise)
        nll = self._nll(latents, concept)
        zero = nll.new_zeros(())
        terms = {"nll": nll, "pattern": sum((one.described.loss for one in latents), zero)}
        if concept is not None:
            terms["concept"] = concept.loss
        return {"loss": sum(terms.values(), zero), **terms}

    def _nll(self, latents: list[Latents], concept: ConceptCodes | None) -> Tensor:
        """Negative log-likelihood per dimension of the features, mean over images, ()."""
        total, dims = latents[0].z.new_zeros(()), 0
        for level, (z, log_det, _) in zip(self._levels(), latents, strict=True):
            likely = self._likely(level, z, concept).view(z.shape[:2])
            whole = level.places * level.whitening.log_det
            if log_det.ndim == 2:
                total = total + level.places * (likely + log_det).mean(1).mean() + whole
            else:
                total = total + (likely.sum(1) + log_det).mean() + whole
            dims += level.places * level.channels
        return -total / dims

    @torch.no_grad()
    def score(self, sample: Sample) -> Scores:
        return self.scores(self.extract(sample))

    @torch.no_grad()
    def extract(self, sample: Sample) -> Extracted:
        """Terms (B, T, h, w), see `_terms`; concepts (B,); image vectors before quantisation
        (B, D), D = 0 without concepts; pattern codes (B, h, w), h = w = 0 without patterns."""
        with self._calm():
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
        """Of terms (T, B, h, w) of images of these concepts (B,); image scores as they are."""
        scoring = self.config.scoring
        maps = self._combined(terms, concept)
        maps = smooth(maps, scoring.smoothing * max(self.spec.image_size))
        return Scores(maps, image_score(maps, scoring.image_score, scoring.top))

    def _terms(self, pyramid: Pyramid, as_new: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Terms (T, B, h, w) on the finest level's grid, concepts (B,) and pattern codes (B, h, w).

        Terms are −log p of each level, per dimension, up to constants; its logarithm, of each
        level; and the distance to the nearest code of the coreset (`as_new`: of those that are
        not patches of the image itself). Pattern codes are those of the finest level that has
        patterns, else the nearest codes of the coreset.
        """
        concept = self._concept(pyramid)
        size, share = self.joined_spec[1], self.config.scoring.jacobian
        terms = []
        latents = self._latents(pyramid, concept)
        for level, (z, log_det, _) in zip(self._levels(), latents, strict=True):
            term = self._quadratic(level, z, concept).view(z.shape[:2])
            if share:
                term = term - share * log_det / level.channels
            maps = term.view(-1, 1, *level.size)
            terms.append(maps if level.size == size else brought(maps, size))
        terms += [term.clamp_min(LEAST).log() for term in terms]
        zeros = torch.zeros(len(pyramid[0]), dtype=torch.int64, device=pyramid[0].device)
        codes = zeros.new_empty(len(zeros), 0, 0)
        if self.coverage is not None:
            rows = to_rows(self._patches(pyramid))
            if as_new:
                parts = rows.chunk(len(pyramid[0]))
                distance = torch.cat([self.coverage.distance_to_others(part) for part in parts])
            else:
                index, distance = self.coverage(rows)
                codes = index.view(-1, *size)
            terms.append(distance.view(-1, 1, *size))
        for level, (_, _, described) in zip(self._levels(), latents, strict=True):
            if described.pattern is not None:
                codes = described.pattern.view(-1, *level.size)
                break
        return torch.stack(terms)[:, :, 0], zeros if concept is None else concept.indices, codes

    def _combined(self, terms: Tensor, concept: Tensor) -> Tensor:
        """One map (B, H, W) of terms (T, B, h, w) of images of these concepts (B,)."""
        scoring, size = self.config.scoring, self.spec.image_size
        if scoring.combine != "sum":
            return published_map(brought(terms[: len(self.levels)], size), scoring.combine)
        measured = self.expectation.normalize(terms, concept, scoring.standardise)
        count = len(self.levels)
        chosen = measured[count : 2 * count] if scoring.scale == "log" else measured[:count]
        weights = torch.tensor(scoring.weights or [1.0] * count).to(chosen)
        one = (weights[:, None, None, None] * chosen).sum(0) / weights.sum()
        if self.coverage is not None:
            one = (1 - scoring.coverage) * one + scoring.coverage * measured[-1]
        return brought(one[None], size)[0]

    @torch.no_grad()
    def calibrate(
        self, train: Iterable[Sample], held_out: Iterable[Sample], effort: float = 1.0
    ) -> None:
        with self._calm():
            terms_held_out = [self._terms(sample.pyramid)[:2] for sample in held_out]
            alike = self.config.scoring.standardise in ("none", "global")
            fitted = terms_held_out if alike else (self._terms(s.pyramid)[:2] for s in train)
            self.expectation.fit(fitted, terms_held_out)
            if self.config.scoring.image_standardise == "concept":
                # Of all images, for a concept has few; as of new ones, for an image with patches
                # among the codes scores far lower than others of its concept will.
                scores, concepts = [], []
                for sample in chain(_share(train, effort), held_out):
                    terms, concept, _ = self._terms(sample.pyramid, as_new=True)
                    scores.append(self._scores(terms, concept).image_score)
                    concepts.append(concept)
                self.image_level.fit(torch.cat(scores), torch.cat(concepts))

    @torch.no_grad()
    def alternatives(self, extracted: Extracted) -> dict[str, Scores]:
        """`add` and `mul`: the paper's two."""
        terms = extracted[0].movedim(1, 0)[: len(self.levels)]
        levels = brought(terms, self.spec.image_size)
        return {"add": published_scores(levels, "add"), "mul": published_scores(levels, "mul")}

    @torch.no_grad()
    def prototypes(self, extracted: Extracted) -> ImagePrototypes | None:
        if self.concepts is None:
            return None
        quantizer = self.concepts.quantizer
        return ImagePrototypes(quantizer.encode(extracted[2]), extracted[2], quantizer.codebook)

    @torch.no_grad()
    def extract_prototypes(self, sample: Sample) -> ImagePrototypes | None:
        if self.concepts is None:
            return None
        with self._calm():
            vectors = self.concepts.encode(sample.pyramid[-1])
        quantizer = self.concepts.quantizer
        return ImagePrototypes(quantizer.encode(vectors), vectors, quantizer.codebook)

    def health(self) -> dict[str, float]:
        """Return the usage in training, since the last call, of concepts, of each level's patterns,
        and of the patterns that the fusion flow is conditioned on (`pattern_top`)."""
        metrics = {}
        for name, book in self._books().items():
            usage = book.pop_usage()
            if usage is not None:
                metrics[f"codebook/{name}_perplexity"] = usage.perplexity
                metrics[f"codebook/{name}_dead_codes"] = float(usage.dead)
                metrics[f"codebook/{name}_usage"] = usage.used
        return metrics

    def _books(self) -> dict[str, VectorQuantizer | PatternCodebook]:
        books: dict[str, VectorQuantizer | PatternCodebook | None] = {}
        if self.concepts is not None:
            books["concept"] = self.concepts.quantizer
        for number, level in enumerate(self._levels()):
            books[f"pattern{number}"] = level.condition.patterns
        if self.fusion is not None:
            books["pattern_top"] = self.above.patterns
        return {name: book for name, book in books.items() if book is not None}

    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        """`pattern codes`: the code at each position, (B, h, w)."""
        codes = extracted[3]
        return {"pattern codes": codes} if codes.numel() else {}

    def codebook_sizes(self) -> dict[str, int]:
        pattern = self.config.pattern
        each = self.config.concept.codebook_size if pattern.kind == "per_concept" else 1
        size = pattern.coverage if pattern.kind == "none" else each * pattern.codebook_size
        return {"pattern codes": size} if size else {}

    @contextmanager
    def _calm(self) -> Iterator[None]:
        """As in `eval`, whatever the flag: nothing is learned, drawn or noisy."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]

    def _patches(self, pyramid: Pyramid) -> Tensor:
        """All levels that are modelled together (B, C, h, w), on the finest one's grid."""
        return patch_features(pyramid[:-1] if self.apart else pyramid, self.config.neighbourhood)

    def _map(self, pyramid: Pyramid, number: int) -> Tensor:
        """What the flow of that number looks at, (B, C_l, h_l, w_l)."""
        if self.config.levels == "joined":
            return self._patches(pyramid)
        return patch_features((pyramid[number],), self.config.neighbourhood)

    def _concept(self, pyramid: Pyramid) -> ConceptCodes | None:
        return None if self.concepts is None else self.concepts(pyramid[-1])

    def _latents(
        self, pyramid: Pyramid, concept: ConceptCodes | None, noise: float = 0.0
    ) -> list[Latents]:
        """Of each level; in training of random places where these are independent."""
        given = None if concept is None else (concept.vectors, concept.indices)
        few = self.training and not self.whole
        found = []
        for number, level in enumerate(self._levels()):
            maps = self._map(pyramid, number)
            places = self._places(level, len(maps), few)
            rows = rows_at(maps, places)
            rows = level.whitening(rows.flatten(0, 1)).view(*rows.shape[:2], -1)
            if self.training and noise:
                rows = rows + noise * _normal_like(rows)
            described = level.condition(rows, places, given, pyramid[-1])
            found.append(Latents(*flow_of(level, rows, described.condition), described))
        if self.fusion is None:
            return found
        sizes = [level.size for level in self._levels()]
        return fused(self.fusion, self.above, found, sizes, pyramid[-1], given)

    def _places(self, level: Level, images: int, few: bool) -> Tensor:
        """Indices of places (B, P): random ones, or all."""
        everywhere = torch.arange(level.places, device=self.expectation.mean.device)
        if not few or self.config.flow.places >= level.places:
            return everywhere.expand(images, -1)
        most = self.config.flow.places
        drawn_ones = distributed.sample_shard(
            lambda count: torch.randint(level.places, (count, most)), images
        )
        return drawn_ones.to(everywhere.device)

    def _prototypes(self, z: Tensor, concept: ConceptCodes | None) -> Prototypes:
        """Of every row of z (B, P, C): the image's own vector, or for the mixture the codebook."""
        images, places = z.shape[:2]
        rows = torch.arange(images, device=z.device).repeat_interleave(places)
        if concept is None or self.concepts is None:
            return Prototypes(z.new_zeros(1, 1), torch.zeros_like(rows))
        if self.config.base == "mixture":
            return Prototypes(self.concepts.quantizer.codebook, concept.indices[rows])
        return Prototypes(concept.vectors, rows)

    def _likely(self, level: Level, z: Tensor, concept: ConceptCodes | None) -> Tensor:
        return level.base.log_prob(z.flatten(0, 1), self._prototypes(z, concept))

    def _quadratic(self, level: Level, z: Tensor, concept: ConceptCodes | None) -> Tensor:
        return level.base.quadratic(z.flatten(0, 1), self._prototypes(z, concept))


def _normal_like(rows: Tensor) -> Tensor:
    """Standard normal numbers, shaped as rows (B, P, C)."""
    return distributed.sample_shard(
        lambda count: torch.randn(count, *rows.shape[1:], device=rows.device), len(rows)
    )


def _share(samples: Iterable[Sample], effort: float) -> Iterator[Sample]:
    """Yield about the fraction `effort` of the batches, evenly spaced."""
    for number, sample in enumerate(samples):
        if int((number + 1) * effort) > int(number * effort):
            yield sample


def _enough(images: int, codebook_size: int) -> None:
    """Raise UserError where there are more prototypes than images: each would be one image."""
    if images < codebook_size:
        raise UserError(
            f"setting detector.concept.codebook_size: {codebook_size} prototypes need as many "
            f"training images; got {images}; set it to {max(1, images // 4)}, or train several "
            "categories together (data.joint=true)."
        )
