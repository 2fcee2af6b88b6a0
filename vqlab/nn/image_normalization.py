"""Normalisation of image scores by concept."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageNormalization(nn.Module):
    """Location per concept (K) and common scale of the image scores of normal images.

    Score levels of normal images differ between products, so that a single threshold on raw scores
    rejects all images of one product and accepts the defects of another.

    The location is the concept's mean score, shrunk towards the overall mean (James and Stein
    1961): its deviation is multiplied by n·b / (n·b + w), with n images, variance w within concepts
    and b between them, both from a one-way analysis of variance. With a single concept, or concepts
    that do not differ, all locations are equal and the ranking of images does not change.
    The scale √w is shared, since there are few images per concept.
    """

    location: Tensor
    """(K,); 0 until fitted."""
    scatter: Tensor
    """(); 1 until fitted."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.register_buffer("location", torch.zeros(concepts))
        self.register_buffer("scatter", torch.ones(()))

    @torch.no_grad()
    def fit(self, scores: Tensor, concept: Tensor) -> None:
        """Fit to the scores (N,) of normal images of these concepts (N,), N ≥ 1."""
        values = scores.double()
        count = torch.bincount(concept, minlength=len(self.location)).double()
        total = torch.zeros_like(count).index_add_(0, concept, values)
        mean, images, concepts = values.mean(), count.sum(), (count > 0).sum()
        deviation = torch.where(count > 0, total / count.clamp_min(1) - mean, 0.0)
        inside = (values - mean - deviation[concept]).square().sum()
        across = (count * deviation.square()).sum()
        if images > concepts:
            within = inside / (images - concepts)
            spread = images - count.square().sum() / images
            between = (across - (concepts - 1) * within).clamp_min(0) / spread.clamp_min(1e-12)
        else:  # one image per concept: the variances cannot be separated
            within, between = across / images, torch.zeros_like(across)
        shrinkage = count * between / (count * between + within).clamp_min(1e-30)
        self.location.copy_(mean + shrinkage * deviation)
        self.scatter.copy_(within.sqrt() if within > 1e-16 else torch.ones_like(within))

    def normalize(self, scores: Tensor, concept: Tensor) -> Tensor:
        """Return (scores − location) / scale of images (B,) of these concepts (B,)."""
        return (scores - self.location[concept]) / self.scatter
