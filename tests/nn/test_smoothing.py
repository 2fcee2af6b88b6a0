"""Properties of Gaussian smoothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from vqlab.nn.smoothing import gaussian_kernel, smooth, upsample


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5])
def test_equals_scipy(sigma: float) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 20, 31)).astype(np.float32)
    radius = int(np.ceil(3 * sigma))
    expected = gaussian_filter(maps, (0, sigma, sigma), mode="mirror", radius=(0, radius, radius))
    np.testing.assert_allclose(smooth(torch.from_numpy(maps), sigma), expected, atol=1e-5)


def test_kernel_sums_to_one_and_is_symmetric() -> None:
    kernel = gaussian_kernel(1.7, 5)
    assert float(kernel.sum()) == pytest.approx(1)
    torch.testing.assert_close(kernel, kernel.flip(0))


def test_zero_sigma_is_the_identity() -> None:
    maps = torch.rand(3, 4, 5)
    assert torch.equal(smooth(maps, 0.0), maps)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 2)])
def test_kernel_wider_than_the_map_preserves_a_constant(shape: tuple[int, int]) -> None:
    maps = torch.full((2, 3, *shape), 4.0)
    torch.testing.assert_close(smooth(maps, 5.0), maps)


@pytest.mark.parametrize("sigma", [0.0, 1.5, 50.0])
@pytest.mark.parametrize("size", [(24, 24), (24, 10), (5, 3), (6, 8)])
def test_upsampling_is_interpolation_and_then_smoothing(
    size: tuple[int, int], sigma: float
) -> None:
    for maps in (torch.rand(2, 6, 8), torch.rand(1, 6, 6)):
        full = F.interpolate(maps[:, None], size, mode="bilinear")[:, 0]
        torch.testing.assert_close(upsample(maps, size, sigma), smooth(full, sigma))
