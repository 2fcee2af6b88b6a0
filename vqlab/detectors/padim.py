"""PaDiM: a Gaussian of patch features at each position (Defard et al. 2021, arXiv 2011.08785)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor

from vqlab.config import Settings
from vqlab.detectors.base import register
from vqlab.detectors.distance import DistanceDetector, DistanceScoring
from vqlab.nn.patches import patch_features
from vqlab.nn.resizing import resized
from vqlab.types import InputSpec, Pyramid, Sample


class PadimSettings(Settings):
    """Settings of `padim`; its recipe sets `training.epochs: 0`."""

    dims: int = Field(100, ge=1, le=2048)
    """Number of random channels of the pyramid; all if there are fewer. Memory and checkpoint size
    are proportional to positions × dims²: 164 MB at 64 × 64 positions and 100."""
    regularization: float = Field(0.01, gt=0)
    """ε, added to the diagonal of each covariance matrix (eq. 1)."""
    scoring: DistanceScoring = DistanceScoring()


@register("padim")
class Padim(DistanceDetector):
    """Mahalanobis distance of each patch to the Gaussian of its position, smoothed.

    The image score is the maximum of the map. Images must be aligned.
    """

    Config = PadimSettings
    config: PadimSettings
    any_shape = True
    channels: Tensor
    """Indices of the selected channels, int64 (D,)."""
    mean: Tensor
    """Mean features at each of the N positions, (N, D)."""
    whitening: Tensor
    """Transposed inverse Cholesky factors of the covariance matrices, (N, D, D): the Mahalanobis
    distance of x is the norm of (x − mean) @ whitening."""

    def __init__(self, config: PadimSettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        height, width = spec.sizes[0]
        dims = min(config.dims, sum(spec.channels))
        self.register_buffer("channels", torch.arange(dims))
        self.register_buffer("mean", torch.zeros(height * width, dims))
        self.register_buffer("whitening", torch.eye(dims).repeat(height * width, 1, 1))

    @torch.no_grad()
    def prepare(self, samples: Iterable[Sample]) -> None:
        """Fit mean and covariance of each position (eq. 1) to normal images, in one pass."""
        channels = torch.randperm(sum(self.spec.channels))[: len(self.channels)]
        self.channels.copy_(channels.sort().values)
        products, count = torch.zeros_like(self.whitening), 0
        total, shift = torch.zeros_like(self.mean), self.mean
        for sample in samples:
            features = self._features(sample.pyramid)
            if count == 0:  # deviations from one image avoid cancellation
                shift = features[:, 0].clone()
            deviations = features - shift[:, None]
            total += deviations.sum(1)
            products.baddbmm_(deviations.mT, deviations)
            count += features.shape[1]
        mean = total / count
        products.baddbmm_(mean[:, :, None], mean[:, None], alpha=-count)
        products.div_(max(count - 1, 1)).diagonal(dim1=1, dim2=2).add_(self.config.regularization)
        self.mean.copy_(shift + mean)
        identity = torch.eye(len(self.channels)).to(products)
        for index, covariance in enumerate(products):
            factor = torch.linalg.cholesky(covariance)
            inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
            self.whitening[index] = inverse.mT

    def _features(self, pyramid: Pyramid) -> Tensor:
        """Return the selected channels of all levels on the finest grid of the spec, (N, B, D)."""
        maps = patch_features(pyramid, kernel=1)[:, self.channels]
        height, width = self.spec.sizes[0]
        return resized(maps, maps.new_empty(height, width)).flatten(2).permute(2, 0, 1)

    def distances(self, pyramid: Pyramid) -> Tensor:
        deviations = self._features(pyramid) - self.mean[:, None]
        distances: Tensor = torch.linalg.vector_norm(deviations @ self.whitening, dim=2)
        return resized(distances.mT.reshape(-1, 1, *self.spec.sizes[0]), pyramid[0])[:, 0]
