"""The fixed filter bank: selectivity and invariance of each kind of channel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqlab.config import validate
from vqlab.features import Backbone, FeatureSettings
from vqlab.features.filters import FilterBank, gabor_filters, octaves_of, spread
from vqlab.types import UserError

SIDE = 64
MAGNITUDE, SIGN = slice(0, 12), slice(12, 24)
"""Channels of a level's finest octave."""


def backbone(side: int = SIDE, **settings: object) -> Backbone:
    return Backbone(validate(FeatureSettings, {"backbone": "filters", **settings}), side)


def features(image: Tensor, level: int = 2) -> Tensor:
    """Return the filter responses (C, h, w) of a grey image (SIDE, SIDE) or a colour image (3,
    SIDE, SIDE)."""
    bank = FilterBank(validate(FeatureSettings, {"backbone": "filters", "levels": [level]}), SIDE)
    responses = bank(image.expand(3, SIDE, SIDE)[None])[0][0]
    return responses * spread(level)[:, None, None]


def stripes(angle: float, wavelength: float = 4.5) -> Tensor:
    y, x = torch.meshgrid(torch.arange(float(SIDE)), torch.arange(float(SIDE)), indexing="ij")
    angle = torch.deg2rad(torch.tensor(angle))
    return 0.5 + 0.2 * torch.sin(2 * torch.pi / wavelength * (x * angle.cos() + y * angle.sin()))


def test_levels_of_stride_8_and_16_by_default() -> None:
    spec = backbone().spec
    assert spec.sizes == ((8, 8), (4, 4)) and spec.channels == (79, 81)
    assert len(spread(2)) == 79 and len(spread(3)) == 81


def test_chosen_levels() -> None:
    chosen = backbone(levels=[1, 4])
    assert chosen.spec.sizes == ((16, 16), (2, 2))
    assert chosen.spec.channels == (len(spread(1)), len(spread(4)))
    assert [list(octaves_of(level)) for level in (1, 2, 4)] == [[0, 1], [0, 1, 2], [2, 3, 4]]


def test_filters_have_zero_mean_and_unit_norm() -> None:
    filters = gabor_filters()
    assert filters.shape == (12, 1, 7, 7)
    torch.testing.assert_close(filters.sum((1, 2, 3)), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(filters.square().sum((1, 2, 3)), torch.ones(12))


def test_constant_image_has_colour_responses_only() -> None:
    image = torch.tensor([0.6, 0.3, 0.1]).view(3, 1, 1)
    responses = features(image)
    edges, colour = responses[:-3], responses[-3:, 0, 0]
    assert float(edges.abs().max()) < 0.011  # square root of the floor
    torch.testing.assert_close(colour, torch.tensor([1 / 3, 0.3, -0.35]))


@pytest.mark.parametrize("place", range(6))
def test_orientation_selectivity(place: int) -> None:
    inside = features(stripes(30.0 * place))[MAGNITUDE, 2:-2, 2:-2].mean((1, 2))
    assert int((inside[:6] + inside[6:]).argmax()) == place


def test_octave_selectivity() -> None:
    for octave in range(3):
        responses = features(stripes(0, 4.5 * 2**octave))[:, 2:-2, 2:-2].mean((1, 2))
        starts = (0, 24, 50)  # octave 0 has no colour differences
        strongest = [float(responses[start : start + 12].max()) for start in starts]
        assert strongest.index(max(strongest)) == octave


def test_sign_distinguishes_bright_and_dark_spots() -> None:
    image = torch.full((SIDE, SIDE), 0.5)
    image[:, 32:34] += 0.2
    bright, dark = features(image), features(1 - image)
    torch.testing.assert_close(bright[MAGNITUDE], dark[MAGNITUDE], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bright[SIGN], -dark[SIGN], atol=1e-4, rtol=1e-4)
    assert float(bright[SIGN].abs().max()) > 0.05


def test_grey_image_has_no_colour_responses() -> None:
    responses = features(torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    assert float(responses[-2:].abs().max()) < 1e-6
    # differences in octave 1: square root of the floor
    assert float(responses[48:50].max()) < 0.0101


def test_state_round_trip() -> None:
    image = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    plain = backbone()
    restored = Backbone(plain.settings, SIDE, plain.state_dict())
    for first_half, second_half in zip(plain(image), restored(image), strict=True):
        assert torch.equal(first_half, second_half)
    assert plain.key == restored.key != backbone(levels=[2]).key


def test_weights_setting_is_ignored() -> None:
    plain = backbone()
    for weights in ("random", "nowhere.pth"):
        other = backbone(weights=weights)
        assert other.key == plain.key and "vqlab.features" not in other.settings.tags


@pytest.mark.parametrize(
    ("settings", "side", "message"),
    [
        ({"levels": [0, 1]}, 64, r"has the levels 1 \(stride 4\), 2 .*; got \[0, 1\]"),
        ({"levels": [2, 5]}, 64, r"4 \(stride 32\); got \[2, 5\]"),
        ({}, 72, "must be a multiple of 16, .* the nearest are 64 and 80"),
    ],
)
def test_invalid_settings_raise(settings: dict[str, object], side: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone(side, **settings)
