"""Properties of the base densities."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vqlab.nn.base_density import (
    BaseDensity,
    BaseName,
    Hierarchical,
    Mixture,
    Prototypes,
    Selected,
    base_density,
)

BASES: tuple[BaseName, ...] = ("standard", "selected", "hierarchical", "mixture")


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def density(name: BaseName, channels: int, by: float = 0.4) -> BaseDensity:
    """Return a density over four prototypes of dimension 3, with perturbed parameters."""
    base = base_density(name, channels, prototype_dim=3, codebook_size=4)
    with torch.no_grad():
        for number, weight in enumerate(base.parameters()):
            weight += by * noise(*weight.shape, seed=50 + number)
    return base


def prototypes(*codes: int) -> Prototypes:
    return Prototypes(noise(4, 3, seed=2), torch.tensor(codes))


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("channels", [1, 2])
@torch.no_grad()
def test_integrates_to_one(name: BaseName, channels: int) -> None:
    axis = torch.linspace(-25, 25, 2001 if channels == 1 else 801)
    points = torch.cartesian_prod(*[axis] * channels).view(-1, channels)
    area = float(axis[1] - axis[0]) ** channels
    for code in (0, 3):
        condition = Prototypes(prototypes(0).vectors, torch.full((len(points),), code))
        total = density(name, channels).log_prob(points, condition).exp().sum() * area
        assert float(total) == pytest.approx(1, abs=1e-9)


def test_selected_and_mixture_match_torch_distributions() -> None:
    z, condition = 3 * noise(6, 5), prototypes(0, 1, 2, 3, 0, 1)
    selected, mixture = density("selected", 5), density("mixture", 5)
    assert isinstance(selected, Selected) and isinstance(mixture, Mixture)
    mean, log_sigma = selected.moments(condition.vectors)
    expected = (
        Normal(mean[condition.indices], log_sigma[condition.indices].exp()).log_prob(z).sum(1)
    )
    torch.testing.assert_close(selected.log_prob(z, condition), expected)
    mean, log_sigma = mixture.moments(condition.vectors)
    parts = Independent(Normal(mean, log_sigma.exp()), 1)
    peer = MixtureSameFamily(Categorical(logits=mixture.logits), parts)
    torch.testing.assert_close(mixture.log_prob(z, condition), peer.log_prob(z))
    square = ((z[:, None] - mean) / log_sigma.exp()).square().mean(2)
    share = (parts.log_prob(z[:, None]) + mixture.logits.log_softmax(0)).softmax(1)
    torch.testing.assert_close(mixture.quadratic(z, condition), 0.5 * (share * square).sum(1))


def test_hierarchical_matches_torch_mixture_of_each_concept() -> None:
    z, condition, base = 3 * noise(6, 5), prototypes(0, 1, 2, 3, 0, 1), density("hierarchical", 5)
    assert isinstance(base, Hierarchical)
    pairs = [moments(condition.vectors) for moments in base.components]
    mean, log_sigma = (
        torch.stack(parts, 1)[condition.indices] for parts in zip(*pairs, strict=True)
    )
    parts = Independent(Normal(mean, log_sigma.exp()), 1)
    weights = Categorical(logits=base.weights(condition.vectors)[condition.indices])
    torch.testing.assert_close(
        base.log_prob(z, condition), MixtureSameFamily(weights, parts).log_prob(z)
    )
    square = ((z[:, None] - mean) / log_sigma.exp()).square().mean(2)
    share = (parts.log_prob(z[:, None]) + weights.logits).softmax(1)
    torch.testing.assert_close(base.quadratic(z, condition), 0.5 * (share * square).sum(1))


@pytest.mark.parametrize("name", BASES)
@torch.no_grad()
def test_samples_have_score_one_half_and_the_expected_entropy(name: BaseName) -> None:
    base, condition = density(name, 4), Prototypes(prototypes(0).vectors, torch.arange(40_000) % 4)
    z = base.sample(condition, torch.Generator().manual_seed(3))
    repeated = base.sample(condition, torch.Generator().manual_seed(3))
    assert torch.equal(z, repeated)
    assert float(base.quadratic(z, condition).mean()) == pytest.approx(0.5, abs=0.05)
    # in a mixture, the component with the highest responsibility is not always the sampled one
    if name in ("standard", "selected"):
        assert float(base.quadratic(z, condition).mean()) == pytest.approx(0.5, abs=0.01)
        spread = 0.0
        if isinstance(base, Selected):
            spread = float(base.moments(condition.vectors)[1].sum(1).mean())
        entropy = 2 * math.log(2 * math.pi * math.e) + spread
        assert float(-base.log_prob(z, condition).mean()) == pytest.approx(entropy, abs=0.05)


def test_log_prob_depends_on_the_prototype_and_has_a_gradient() -> None:
    z, base = noise(2, 4), density("selected", 4)
    vectors = prototypes(0).vectors.requires_grad_()
    right = base.log_prob(z, Prototypes(vectors, torch.tensor([0, 1])))
    other = base.log_prob(z, Prototypes(vectors, torch.tensor([2, 3])))
    assert (right - other).abs().min() > 1e-3
    right.sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad[:2].abs().sum(1) > 0).all() and (vectors.grad[2:] == 0).all()
    for name in ("hierarchical", "mixture"):
        mixture = density(name, 4)
        mixture.log_prob(z, prototypes(0, 1)).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mixture.parameters())


def test_vector_per_image_equals_code_per_row() -> None:
    z, base = noise(6, 4), density("selected", 4)
    codes = torch.tensor([2, 2, 2, 0, 0, 0])
    vectors = prototypes(0).vectors
    by_image = Prototypes(vectors[torch.tensor([2, 0])], torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(
        base.log_prob(z, Prototypes(vectors, codes)), base.log_prob(z, by_image)
    )


def test_selected_is_standard_normal_at_initialization_and_mixtures_are_close() -> None:
    z, condition = noise(50, 6), prototypes(*[0, 3] * 25)
    start = {n: base_density(n, 6, prototype_dim=3, codebook_size=4) for n in BASES}
    standard = start["standard"].log_prob(z, condition)
    torch.testing.assert_close(start["selected"].log_prob(z, condition), standard)
    for name in ("hierarchical", "mixture"):
        near = start[name].log_prob(z, condition)
        torch.testing.assert_close(near, standard, rtol=0, atol=1)
        assert not torch.equal(near, standard)


@torch.no_grad()
def test_sigma_has_lower_and_upper_bounds() -> None:
    base = density("selected", 4, by=1e4)
    assert isinstance(base, Selected)
    log_sigma = base.moments(prototypes(0).vectors)[1]
    assert log_sigma.min() == -2 and log_sigma.max() == 2


@pytest.mark.parametrize("name", BASES)
def test_half_precision_inputs_are_computed_in_float32_under_autocast(name: BaseName) -> None:
    torch.set_default_dtype(torch.float32)
    base = density(name, 64).float()
    condition = Prototypes(noise(4, 3), torch.tensor([0, 1, 2]))
    z = 3 * noise(3, 64)
    right = base.log_prob(z, condition)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(base.log_prob(z, condition), right)
        rough = base.log_prob(z.bfloat16(), condition)
        score = base.quadratic(z.bfloat16(), condition)
    assert rough.dtype == score.dtype == torch.float32
    torch.testing.assert_close(rough, right, rtol=0.02, atol=0)
    exact = base.double().log_prob(
        z.double(), Prototypes(condition.vectors.double(), condition.indices)
    )
    torch.testing.assert_close(right.double(), exact, rtol=1e-5, atol=1e-3)
