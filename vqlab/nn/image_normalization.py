"""Where the scores of normal images lie, by what the image is of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageLevel(nn.Module):
    """Location of the image scores of normal images of each of K concepts, and their scatter.

    Products differ in how far even good ones lie from the training images, so that one threshold
    on plain scores rejects all of one product and lets the defects of another pass.

    A concept's location is the mean score of its images, shrunk to the mean of all by as much as
    chance can explain it (James and Stein 1961): with n images, scores of variance w within
    concepts and locations of variance b between them it keeps the share n·b / (n·b + w) of its
    distance. Both variances are a one-way analysis of variance's. Where concepts lie alike, as in
    a model of one category, all have one location, and the order of images stays. The scatter √w
    is the same for all: a handful of images tells no more.
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
        mean, images, seen = values.mean(), count.sum(), (count > 0).sum()
        far = torch.where(count > 0, total / count.clamp_min(1) - mean, 0.0)
        inside = (values - mean - far[concept]).square().sum()
        across = (count * far.square()).sum()
        if images > seen:
            within = inside / (images - seen)
            spread = images - count.square().sum() / images
            between = (across - (seen - 1) * within).clamp_min(0) / spread.clamp_min(1e-12)
        else:  # an image for each concept: nothing tells scatter from distance
            within, between = across / images, torch.zeros_like(across)
        kept = count * between / (count * between + within).clamp_min(1e-30)
        self.location.copy_(mean + kept * far)
        self.scatter.copy_(within.sqrt() if within > 1e-16 else torch.ones_like(within))

    def measure(self, scores: Tensor, concept: Tensor) -> Tensor:
        """Scores (B,) of images of these concepts (B,): above their location, over the scatter."""
        return (scores - self.location[concept]) / self.scatter
