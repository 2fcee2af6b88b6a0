"""Properties of the code prior: masked receptive field, equality with a convolution, learning of
structure."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vqlab.nn.prior import HIDDEN, REACH, CodePrior

K, D = 12, 6


@pytest.fixture
def codebook() -> torch.Tensor:
    return torch.randn(K, D, generator=torch.Generator().manual_seed(1))


def maps(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(K, (count, side, side), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spacing", [1, 3])
def test_codes_nearer_than_the_spacing_have_no_effect(spacing: int, codebook: torch.Tensor) -> None:
    torch.manual_seed(0)
    prior = CodePrior(K, D, [spacing])
    indices = maps(1, 16)
    where = torch.tensor([8 * 16 + 8])
    before = prior.logits(indices, codebook, where, 0)
    near = indices.clone()
    inside = slice(8 - spacing + 1, 8 + spacing)
    near[0, inside, inside] = (near[0, inside, inside] + 1) % K
    assert torch.equal(prior.logits(near, codebook, where, 0), before)
    near[0, 8, 8 + spacing] = (near[0, 8, 8 + spacing] + 1) % K
    assert not torch.equal(prior.logits(near, codebook, where, 0), before)


@pytest.mark.parametrize("spacing", [1, 2])
def test_lookup_table_equals_a_dilated_convolution(spacing: int, codebook: torch.Tensor) -> None:
    torch.manual_seed(0)
    prior = CodePrior(K, D, [spacing])
    torch.nn.init.normal_(prior.outside)
    torch.nn.init.normal_(prior.position)
    indices, side = maps(2, 9), 9
    grid = torch.zeros((2 * REACH + 1) ** 2, D, HIDDEN)
    grid[[i for i in range(25) if i != 12]] = prior.taps[0]
    weight = grid.view(5, 5, D, HIDDEN).permute(3, 2, 0, 1)
    margin = REACH * spacing
    rows = torch.cat([codebook, prior.outside])
    padded = F.pad(indices, (margin,) * 4, value=K)
    quantised = F.embedding(padded, rows).permute(0, 3, 1, 2)
    hidden = F.conv2d(quantised, weight, dilation=spacing)
    hidden = hidden + F.interpolate(prior.position[0][None], (side, side), mode="bilinear")
    expected = prior.heads[0](hidden.permute(0, 2, 3, 1).reshape(-1, HIDDEN))
    got = prior.logits(indices, codebook, torch.arange(2 * side * side), 0)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_surprisal_is_a_negative_log_probability(codebook: torch.Tensor) -> None:
    torch.manual_seed(0)
    prior = CodePrior(K, D, [1])
    indices = maps(1, 8)
    total = torch.zeros(())
    where = torch.tensor([3 * 8 + 4])
    for code in range(K):  # the code itself is masked: all K alternatives share one context
        indices[0, 3, 4] = code
        total += prior.surprisal(indices, codebook)[0, 3, 4].neg().exp()
        assert prior.logits(indices, codebook, where, 0).shape == (1, K)
    assert float(total) == pytest.approx(1.0, abs=1e-5)


def test_learns_regular_patterns_and_flags_irregular_ones(codebook: torch.Tensor) -> None:
    rows = torch.arange(16)
    striped = (rows[None, :] // 2 % 4 + rows[:, None] // 2 % 3).expand(6, 16, 16).clone()
    prior = CodePrior(K, D, [1, 2])
    prior.fit(striped, codebook, steps=60, places=256)
    normal = prior.surprisal(striped[:1], codebook)
    assert float(normal.mean()) < 0.3 * math.log(K)
    irregular = striped[:1].clone()
    irregular[0, 7:9, 7:9] = K - 1
    surprise = prior.surprisal(irregular, codebook)
    assert float(surprise[0, 7:9, 7:9].min()) > float(normal.max())


def test_noise_cannot_be_predicted(codebook: torch.Tensor) -> None:
    prior = CodePrior(K, D, [1])
    prior.fit(maps(32, 16), codebook, steps=40, places=256)
    assert float(prior.surprisal(maps(4, 16, seed=9), codebook).mean()) > 0.9 * math.log(K)


def test_fit_is_reproducible_and_keeps_the_global_generator_state(codebook: torch.Tensor) -> None:
    first, second = CodePrior(K, D, [1, 3]), CodePrior(K, D, [1, 3])
    torch.manual_seed(5)
    first.fit(maps(4, 8), codebook, steps=5, places=64)
    numbers = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), numbers)
    second.fit(maps(4, 8, seed=3), codebook, steps=5, places=64)  # a second fit starts from scratch
    second.fit(maps(4, 8), codebook, steps=5, places=64)
    for weight, expected in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(weight, expected)
        assert not weight.requires_grad
    batch = maps(3, 8)
    batched = first.surprisal(batch, codebook)
    torch.testing.assert_close(batched[1:2], first.surprisal(batch[1:2], codebook))
