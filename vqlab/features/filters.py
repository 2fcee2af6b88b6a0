"""A fixed filter bank as a backbone: no training, no download.

Oriented Gabor filters on octaves of the brightness, in the manner of simple cells (Daugman 1985;
pooled magnitudes as texture features: Bovik et al. 1990). Filters and pooling were chosen by a
memory bank's AUROC on four real categories.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqlab.errors import UserError
from vqlab.features.settings import FILTERS, FeatureSettings, check_stride

LEVELS = (1, 2, 3, 4)
"""Level l has stride 2 ** (l + 1), as in a ResNet of timm."""
ORIENTATIONS = 6
WAVELENGTH, WIDTH, SIDE = 4.5, 1.7, 7
"""Of a filter, in pixels of its octave; WIDTH is the standard deviation of the envelope."""
FLOOR = 1e-4
"""Added to the magnitude of a response (0 to about 2) before the square root."""
EDGES, CHROMA = (0.186, 0.133, 0.081), (0.06, 0.054, 0.038)
BRIGHTNESS, DIFFERENCE = 0.117, 0.045
"""Standard deviation of each kind of channel over positions and images, from the coarsest octave of
a level to its finest: root mean square over version 1 of the built-in synthetic categories."""


class FilterBank(nn.Module):
    """Images (B, 3, S, S) in [0, 1] → levels (B, C, S / 2 ** (l + 1), ...), finest first.

    Level l has the octaves l − 2 to l (pixels of 2 ** octave). With r the responses of the
    brightness to even and odd filters in 6 orientations, every octave has the local means of √|r|
    (12 channels) and of ±√|r| (12, bright on dark against dark on bright) and, except octave 0
    (cameras resolve little colour there), √ of the mean magnitude in two colour differences (2). A
    level also has the local mean brightness and colour differences (3). Each channel is divided by
    its usual standard deviation.
    """

    filters: Tensor

    def __init__(self, settings: FeatureSettings, image_size: int) -> None:
        super().__init__()
        self.levels = settings.levels or (2, 3)
        _check(settings, self.levels, image_size)
        self.register_buffer("filters", gabor_filters())
        for level in self.levels:
            self.register_buffer(f"spread_{level}", spread(level))

    def forward(self, images: Tensor) -> list[Tensor]:
        octaves = [opponents(images)]
        for _ in range(self.levels[-1] + 1):
            octaves.append(functional.avg_pool2d(octaves[-1], 2))
        used = sorted({octave for level in self.levels for octave in octaves_of(level)})
        responses = {octave: self._responses(octaves[octave], octave > 0) for octave in used}
        pyramid = []
        for level in self.levels:
            parts = [
                functional.avg_pool2d(responses[octave], 2 ** (level + 1 - octave))
                for octave in octaves_of(level)
            ]
            channels = torch.cat([*parts, octaves[level + 1]], 1)
            pyramid.append(channels / self.get_buffer(f"spread_{level}")[:, None, None])
        return pyramid

    def _responses(self, channels: Tensor, chroma: bool) -> Tensor:
        """Brightness and colour differences (B, 3, h, w) → (B, 24 or 26, h, w)."""
        edge = SIDE // 2
        padded = functional.pad(channels, (edge, edge, edge, edge), mode="replicate")
        response = functional.conv2d(padded[:, :1], self.filters)
        root = (response.abs() + FLOOR).sqrt()
        features = [root, response / root]
        if chroma:
            each = functional.conv2d(padded[:, 1:].flatten(0, 1)[:, None], self.filters)
            mean = each.abs().mean(1).view(-1, 2, *channels.shape[2:])
            features.append((mean + FLOOR).sqrt())
        return torch.cat(features, 1)


def octaves_of(level: int) -> range:
    """Return the octaves of a level, finest first."""
    return range(max(0, level - 2), level + 1)


def spread(level: int) -> Tensor:
    """Return the divisors of the channels of a level, (C,)."""
    values: list[float] = []
    for octave in octaves_of(level):
        depth = level - octave
        values += [EDGES[depth]] * 4 * ORIENTATIONS + [CHROMA[depth]] * 2 * (octave > 0)
    return torch.tensor([*values, BRIGHTNESS, DIFFERENCE, DIFFERENCE])


def opponents(images: Tensor) -> Tensor:
    """Convert RGB (B, 3, H, W) to brightness, red − green and blue − yellow, (B, 3, H, W)."""
    red, green, blue = images.unbind(1)
    return torch.stack([(red + green + blue) / 3, red - green, blue - (red + green) / 2], 1)


def gabor_filters() -> Tensor:
    """Return 6 even and 6 odd filters, (12, 1, SIDE, SIDE), of unit norm and without response to a
    constant."""
    edge = SIDE // 2
    at = torch.arange(-edge, edge + 1.0)
    y, x = torch.meshgrid(at, at, indexing="ij")
    envelope = torch.exp(-(x.square() + y.square()) / (2 * WIDTH**2))
    angle = torch.arange(ORIENTATIONS).view(-1, 1, 1) * math.pi / ORIENTATIONS
    phase = 2 * math.pi / WAVELENGTH * (x * angle.cos() + y * angle.sin())
    even = envelope * phase.cos()
    even = even - envelope * (even.sum((1, 2)) / envelope.sum())[:, None, None]
    filters = torch.cat([even, envelope * phase.sin()])
    return (filters / filters.square().sum((1, 2), keepdim=True).sqrt())[:, None]


def _check(settings: FeatureSettings, levels: tuple[int, ...], size: int) -> None:
    if levels[0] < LEVELS[0] or levels[-1] > LEVELS[-1]:
        available = ", ".join(f"{level} (stride {2 ** (level + 1)})" for level in LEVELS)
        raise UserError(
            f"setting features.levels: {FILTERS} has the levels {available}; got {list(levels)}."
        )
    check_stride(FILTERS, levels[-1], 2 ** (levels[-1] + 1), size)
