"""The prototype of each image, and how prototypes agree with categories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from vqlab.detectors import HasPrototypes, ImagePrototypes, Scorer
from vqlab.evaluation.scored import concatenate_prototypes
from vqlab.evaluation.spool import Array
from vqlab.features import FeatureSet
from vqlab.metrics import entropy, mutual_information, purity
from vqlab.types import ImageRecord


@dataclass(frozen=True)
class Concepts:
    """The prototypes of N images."""

    indices: Array
    """(N,) int64."""
    vectors: Array
    """(N, D) float64, before quantisation."""
    codebook: Array
    """(K, D) float64."""
    records: tuple[ImageRecord, ...]

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Categories of the images, sorted."""
        return tuple(sorted({record.category for record in self.records}))

    @cached_property
    def of_category(self) -> Array:
        """Index of each image in `categories`, (N,) int64."""
        numbers = {name: number for number, name in enumerate(self.categories)}
        return np.array([numbers[record.category] for record in self.records], np.int64)

    @cached_property
    def counts(self) -> Array:
        """Number of images by category and prototype, (C, K) int64."""
        size = len(self.codebook)
        pairs = self.of_category * size + self.indices
        counts = np.bincount(pairs, minlength=len(self.categories) * size)
        return counts.reshape(-1, size)

    def metrics(self) -> dict[str, float]:
        """Return `concept_live`, the number of prototypes in use, and for several categories
        `concept_information`, the mutual information of prototype and category as a fraction of the
        entropy of the category, and `concept_purity`, the fraction of images in the majority
        category of their prototype. The last two are not adjusted for chance.
        """
        metrics = {"concept_live": float(np.count_nonzero(self.counts.sum(0)))}
        if len(self.categories) > 1:
            information = mutual_information(self.indices, self.of_category)
            metrics["concept_information"] = min(1.0, information / entropy(self.of_category))
            metrics["concept_purity"] = purity(self.indices, self.of_category)
        return metrics


@torch.inference_mode()
def assign_concepts(detector: Scorer, features: FeatureSet) -> Concepts | None:
    """Return the prototype of every image; None if the detector has none, or without images."""
    if not isinstance(detector, HasPrototypes):
        return None
    parts = [part for s in features if (part := detector.extract_prototypes(s)) is not None]
    return with_records(concatenate_prototypes(parts), features.images.records)


def with_records(
    prototypes: ImagePrototypes | None, records: tuple[ImageRecord, ...]
) -> Concepts | None:
    """Return the prototypes of images with these records; None for None."""
    if prototypes is None:
        return None
    vectors, codebook = (
        part.double().numpy() for part in (prototypes.vectors, prototypes.codebook)
    )
    return Concepts(prototypes.indices.numpy(), vectors, codebook, records)
