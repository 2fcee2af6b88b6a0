"""Random brightness augmentation."""

from __future__ import annotations

import pytest
import torch

from vqlab.nn.brightness import scale_brightness


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_gain_per_image() -> None:
    images = 0.1 + 0.1 * torch.rand(500, 3, 4, 4, generator=draw())
    gains = scale_brightness(images, 0.2, draw(1)) / images
    torch.testing.assert_close(gains, gains[:, :1, :1, :1].expand_as(gains))
    logs = gains[:, 0, 0, 0].log()
    assert float(logs.mean()) == pytest.approx(0, abs=0.03)
    assert float(logs.std()) == pytest.approx(0.2, rel=0.1)


def test_white_is_clipped() -> None:
    assert float(scale_brightness(torch.ones(50, 3, 2, 2), 0.5, draw()).max()) == 1


def test_zero_spread_is_the_identity() -> None:
    images = torch.rand(3, 3, 4, 4, generator=draw())
    assert torch.equal(scale_brightness(images, 0.0, draw()), images)


def test_same_generator_gives_same_gains() -> None:
    images = torch.rand(3, 3, 4, 4, generator=draw())
    assert torch.equal(
        scale_brightness(images, 0.3, draw(7)), scale_brightness(images, 0.3, draw(7))
    )
    assert not torch.equal(
        scale_brightness(images, 0.3, draw(7)), scale_brightness(images, 0.3, draw(8))
    )
