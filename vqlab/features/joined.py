"""Several networks, or one at several input sizes, as one pyramid: levels of equal stride are
concatenated along the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqlab.errors import UserError
from vqlab.features.filters import LEVELS
from vqlab.features.settings import (
    BUILT_IN,
    FILTERS,
    HUB,
    RANDOM,
    FeatureSettings,
    check_stride,
    split_part,
)
from vqlab.text import join_names

STRIDES = (8, 16)
"""Strides of the levels of a joined pyramid, if the settings do not choose levels."""


class Part(NamedTuple):
    """One network of a joined backbone."""

    settings: FeatureSettings
    """Those of this network alone, with its levels."""
    shrink: int
    """Factor by which the sides of its input are smaller than the image."""


class JoinedNetwork(nn.Module):
    """Images (B, 3, S, S) in [0, 1] → levels (B, Σ C_l of all networks, h_l, w_l), finest first.

    The channels of network p at level l are multiplied by `scales[p, l]`, (P, L), so that all
    networks have the mean channel variance of the first one on `reference_images`.
    """

    scales: Tensor

    def __init__(self, networks: Sequence[nn.Module], parts: Sequence[Part]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.shrinks = [part.shrink for part in parts]
        self.levels = [part.settings.levels for part in parts]
        self.register_buffer("scales", torch.ones(len(parts), len(self.levels[0] or ())))

    def forward(self, images: Tensor) -> list[Tensor]:
        each = self._each(images)
        return [
            torch.cat([maps * scale for maps, scale in zip(level, scales, strict=True)], 1)
            for level, scales in zip(zip(*each, strict=True), self.scales.T, strict=True)
        ]

    def _each(self, images: Tensor) -> list[list[Tensor]]:
        """Return the levels of each network."""
        sizes = {1: images}
        for shrink in self.shrinks:
            if shrink not in sizes:
                sizes[shrink] = functional.avg_pool2d(images, shrink)
        pairs = zip(self.networks, self.shrinks, strict=True)
        return [network(sizes[shrink]) for network, shrink in pairs]

    @torch.no_grad()
    def fit_scales(self, image_size: int) -> None:
        """Compute `scales`."""
        each = self._each(reference_images(image_size))
        variances = torch.stack([torch.stack([_mean_variance(m) for m in maps]) for maps in each])
        ratios = (variances[0] / variances.clamp_min(1e-12)).sqrt()
        self.scales.copy_(torch.tensor([[float(f"{r:.2g}") for r in row] for row in ratios]))


def _mean_variance(maps: Tensor) -> Tensor:
    """Return the variance of maps (B, C, h, w) over images and positions, mean over channels, ()"""
    return maps.movedim(1, -1).flatten(0, 2).double().var(0).mean()


def reference_images(size: int, count: int = 8) -> Tensor:
    """Return images (count, 3, size, size) in [0, 1] whose amplitude is inversely proportional to
    the frequency, as that of photographs (Field 1987)."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, size, size, generator=generator))
    frequency = torch.fft.fftfreq(size)[:, None].hypot(torch.fft.rfftfreq(size)[None])
    frequency[0, 0] = torch.inf  # no mean
    images: Tensor = torch.fft.irfft2(spectrum / frequency, s=(size, size))
    return (0.5 + 0.2 * images / images.std()).clamp(0, 1)


def strides_of_parts(settings: FeatureSettings) -> dict[str, dict[int, int]]:
    """Return the stride of each level of each network, in pixels of the image, by the network's
    name with its size. Raises UserError for an unknown network."""
    return {text: _strides(text) for text in settings.parts}


def choose_parts(settings: FeatureSettings, image_size: int) -> tuple[Part, ...]:
    """Return the networks of a joined backbone, each with the levels of the chosen strides.

    Strides are those of `settings.levels` in the first network, else `STRIDES`; each network has
    its last level of each. Raises UserError for an unknown network, if one lacks a stride, and if
    the image size is not a multiple of the largest.
    """
    networks = strides_of_parts(settings)
    first = settings.parts[0]
    strides = _chosen_strides(first, networks[first], settings.levels)
    if any(stride not in each.values() for each in networks.values() for stride in strides):
        raise UserError(_mismatch(networks, strides))
    deepest = next(level for level, stride in networks[first].items() if stride == strides[-1])
    check_stride(first, deepest, strides[-1], image_size)
    parts = []
    for text, each in networks.items():
        name, shrink = split_part(text)
        last = {stride: level for level, stride in each.items()}
        levels = tuple(last[stride] for stride in strides)
        if text == first and settings.levels is not None:
            levels = settings.levels
        update = {"backbone": name, "levels": levels}
        parts.append(Part(settings.model_copy(update=update), shrink))
    return tuple(parts)


def check_weights(settings: FeatureSettings) -> None:
    """Raise UserError if one file is to hold the weights of several networks."""
    names = {split_part(text)[0] for text in settings.parts} - set(BUILT_IN)
    single = settings.weights not in (HUB, RANDOM) and Path(settings.weights).is_file()
    if single and len(names) > 1:
        files = join_names([f"{name}.pth" for name in sorted(names)])
        raise UserError(
            f"setting features.weights: must be a folder with {files} for {settings.backbone}; got "
            f"the file {settings.weights}, which holds the weights of one network."
        )


def _strides(text: str) -> dict[int, int]:
    """Return the stride of each level of a network, in pixels of the image."""
    name, shrink = split_part(text)
    if name == FILTERS:
        strides = {level: 2 ** (level + 1) for level in LEVELS}
    else:
        from vqlab.features.timm_network import level_strides  # timm takes seconds to import

        strides = dict(enumerate(level_strides(name)))
    return {level: stride * shrink for level, stride in strides.items()}


def _chosen_strides(
    first: str, strides: Mapping[int, int], levels: tuple[int, ...] | None
) -> tuple[int, ...]:
    if levels is None:
        return STRIDES
    available = ", ".join(f"{level} (stride {stride})" for level, stride in strides.items())
    missing = [level for level in levels if level not in strides]
    chosen = tuple(strides[level] for level in levels if level in strides)
    if missing or len(set(chosen)) < len(chosen):
        raise UserError(
            f"setting features.levels: must be levels of {first} of different strides, which the "
            f"other networks share; its levels are {available}; got {list(levels)}."
        )
    return chosen


def _mismatch(networks: Mapping[str, Mapping[int, int]], wanted: tuple[int, ...]) -> str:
    sets = {text: sorted(set(strides.values())) for text, strides in networks.items()}
    each = "; ".join(f"{text} has {_numbers(strides)}" for text, strides in sets.items())
    first = next(iter(networks))
    common = [stride for stride in sets[first] if all(stride in s for s in sets.values())]
    last = {stride: level for level, stride in networks[first].items()}
    remedy = ",".join(str(last[stride]) for stride in common[-2:])
    return (
        "setting features.backbone: networks joined by + must have levels of equal stride, here "
        f"{_numbers(wanted)}; {each}; "
        + (f"set features.levels={remedy} or " if common else "")
        + "choose other networks."
    )


def _numbers(values: Sequence[int]) -> str:
    return join_names([str(value) for value in values])
