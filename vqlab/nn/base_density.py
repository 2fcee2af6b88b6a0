"""Base densities of a flow's latents, conditioned on the prototypes of their images.

Each is a normalised density over R^C, in nats: `standard` is N(0, I), `selected` a Gaussian with
mean and log σ linear in the row's prototype, `hierarchical` a mixture of such Gaussians, whose
weights depend on the row's prototype too, `mixture` a mixture of one Gaussian of every prototype.
(The published method omits log σ from the likelihood, which is then not normalised.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn.precision import without_autocast

BaseName = Literal["standard", "selected", "hierarchical", "mixture"]
LOG_2PI = math.log(2 * math.pi)
BOUND = 2.0
"""Largest |log σ|."""


class Prototypes(NamedTuple):
    """Prototype of each row.

    `vectors` is the codebook, or one vector per image; with the latter, `selected` passes gradients
    to the vectors (straight-through). `mixture` needs the whole codebook.
    """

    vectors: Tensor
    """Float (K, D)."""
    indices: Tensor
    """Int64 (N,): row of `vectors`."""


class BaseDensity(nn.Module, ABC):
    """Density of latents z (N, C), computed in float32 or wider regardless of autocast."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def log_prob(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        """Return log p(z | prototypes) in nats, (N,)."""
        with without_autocast(z.device):
            return self._log_prob(at_least_float32(z), prototypes) - 0.5 * self.channels * LOG_2PI

    def quadratic(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        """Return half the mean square over channels of the standardised z, (N,); expectation ½.

        For the mixture, components are weighted by their responsibility for z.
        """
        with without_autocast(z.device):
            return self._quadratic(at_least_float32(z), prototypes)

    @abstractmethod
    def sample(self, prototypes: Prototypes, generator: torch.Generator | None = None) -> Tensor:
        """Return one sample per index, (N, C)."""

    @abstractmethod
    def _log_prob(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        """Return `log_prob` without the constant −C/2 · log 2π."""

    @abstractmethod
    def _quadratic(self, z: Tensor, prototypes: Prototypes) -> Tensor: ...


class Standard(BaseDensity):
    """N(0, I), independent of the prototype."""

    def _log_prob(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        return -0.5 * z.square().sum(1)

    def _quadratic(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        return 0.5 * z.square().mean(1)

    def sample(self, prototypes: Prototypes, generator: torch.Generator | None = None) -> Tensor:
        vectors, indices = prototypes
        return _noise(vectors, len(indices), self.channels, generator)


class Selected(BaseDensity):
    """N(μ(v), σ(v)²) of the row's prototype v, |log σ| ≤ 2 by tanh; starts at N(0, I)."""

    def __init__(self, channels: int, prototype_dim: int) -> None:
        super().__init__(channels)
        self.moments = Moments(channels, prototype_dim)

    def _log_prob(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        standardised, log_sigma = self._standardise(z, prototypes)
        return -0.5 * standardised.square().sum(1) - log_sigma

    def _quadratic(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        standardised, _ = self._standardise(z, prototypes)
        return 0.5 * standardised.square().mean(1)

    def _standardise(self, z: Tensor, prototypes: Prototypes) -> tuple[Tensor, Tensor]:
        return standardise(z, self.moments(prototypes.vectors), prototypes.indices)

    def sample(self, prototypes: Prototypes, generator: torch.Generator | None = None) -> Tensor:
        mean, log_sigma = self.moments(prototypes.vectors)
        noise = _noise(mean, len(prototypes.indices), self.channels, generator)
        z: Tensor = mean[prototypes.indices] + noise * log_sigma.exp()[prototypes.indices]
        return z


class Hierarchical(BaseDensity):
    """Σ_m π_m(v) N(μ_m(v), σ_m(v)²) of the row's prototype v, over M components.

    The components of a concept are those of HGAD (Yao et al. 2024, arXiv 2403.13349), learned
    without labels and by the likelihood alone. Starts near N(0, I), with slightly different means.
    """

    def __init__(self, channels: int, prototype_dim: int, components: int) -> None:
        super().__init__(channels)
        self.components = nn.ModuleList(Moments(channels, prototype_dim) for _ in range(components))
        self.weights = nn.Linear(prototype_dim, components)
        for parameter in self.weights.parameters():
            nn.init.zeros_(parameter)
        for moments in self._moments():
            nn.init.normal_(moments.mean.bias, std=0.1)

    def _log_prob(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        return torch.logsumexp(self._terms(z, prototypes)[0], 1)

    def _quadratic(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        terms, squares = self._terms(z, prototypes)
        return 0.5 / self.channels * (terms.softmax(1) * squares).sum(1)

    def sample(self, prototypes: Prototypes, generator: torch.Generator | None = None) -> Tensor:
        vectors, indices = prototypes
        shares = self.weights(at_least_float32(vectors)).softmax(1)[indices]
        component = shares.multinomial(1, generator=generator)[:, 0]
        noise = _noise(vectors, len(indices), self.channels, generator)
        pairs = [moments(vectors) for moments in self._moments()]
        mean, log_sigma = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        z: Tensor = mean[component, indices] + noise * log_sigma[component, indices].exp()
        return z

    def _moments(self) -> list[Moments]:
        return [moments for moments in self.components if isinstance(moments, Moments)]

    def _terms(self, z: Tensor, prototypes: Prototypes) -> tuple[Tensor, Tensor]:
        """Return log(π_m σ_m^-1 e^(−½ d²)) and the squared standardised distance d²: (N, M)."""
        vectors, indices = prototypes
        parts = [standardise(z, moments(vectors), indices) for moments in self._moments()]
        squares = torch.stack([standardised.square().sum(1) for standardised, _ in parts], 1)
        log_sigma = torch.stack([total for _, total in parts], 1)
        log_weight = F.log_softmax(self.weights(at_least_float32(vectors)), 1)[indices]
        return log_weight - log_sigma - 0.5 * squares, squares


class Mixture(BaseDensity):
    """Σ_k π_k N(μ(v_k), σ(v_k)²) over all K prototypes, with learned weights π.

    Independent of the row's prototype. Initialised near N(0, I), with slightly different means.
    """

    def __init__(self, channels: int, prototype_dim: int, codebook_size: int) -> None:
        super().__init__(channels)
        self.moments = Moments(channels, prototype_dim)
        nn.init.normal_(self.moments.mean.weight, std=0.1 / math.sqrt(prototype_dim))
        self.logits = nn.Parameter(torch.zeros(codebook_size))

    def _log_prob(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        return torch.logsumexp(self._terms(z, prototypes.vectors)[0], 1)

    def _quadratic(self, z: Tensor, prototypes: Prototypes) -> Tensor:
        terms, squares = self._terms(z, prototypes.vectors)
        return 0.5 / self.channels * (terms.softmax(1) * squares).sum(1)

    def sample(self, prototypes: Prototypes, generator: torch.Generator | None = None) -> Tensor:
        mean, log_sigma = self.moments(prototypes.vectors)
        rows = len(prototypes.indices)
        component = self.logits.softmax(0).multinomial(rows, replacement=True, generator=generator)
        noise = _noise(mean, rows, self.channels, generator)
        z: Tensor = mean[component] + noise * log_sigma.exp()[component]
        return z

    def _terms(self, z: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return log(π_k σ_k^-1 e^(−½ d²)) and the squared standardised distance d², both (N, K).

        d² is expanded into two matrix products to avoid an (N, K, C) tensor.
        """
        mean, log_sigma = self.moments(vectors)
        precision = torch.exp(-2 * log_sigma)
        weighted = mean * precision
        constant = (mean * weighted).sum(1)
        squares = torch.addmm(constant, z.square(), precision.T) - 2 * (z @ weighted.T)
        log_weight = F.log_softmax(self.logits, 0) - log_sigma.sum(1)
        return log_weight - 0.5 * squares, squares


class Moments(nn.Module):
    """Mean and log σ, both (K, C), of prototype vectors (K, D); initialised to zero."""

    def __init__(self, channels: int, prototype_dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(prototype_dim, channels)
        self.log_sigma = nn.Linear(prototype_dim, channels)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        vectors = at_least_float32(vectors)
        return self.mean(vectors), BOUND * torch.tanh(self.log_sigma(vectors) / BOUND)


def standardise(
    z: Tensor, moments: tuple[Tensor, Tensor], indices: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (z − μ) / σ (N, C) and Σ log σ (N,) of rows z, given mean and log σ, both (K, C), and
    the index of each row in them."""
    mean, log_sigma = moments
    rate = torch.exp(-log_sigma)
    table = torch.cat([-mean * rate, rate], 1)
    rows = table if len(table) == 1 else F.embedding(indices, table)
    shift, rate = rows.chunk(2, 1)
    return torch.addcmul(shift, z, rate), log_sigma.sum(1)[indices]


def base_density(
    name: BaseName,
    channels: int,
    *,
    prototype_dim: int,
    codebook_size: int,
    components: int = 4,
) -> BaseDensity:
    """Return the base density `name`; `codebook_size` is used by `mixture` only, `components` by
    `hierarchical`."""
    if name == "standard":
        return Standard(channels)
    if name == "selected":
        return Selected(channels, prototype_dim)
    if name == "hierarchical":
        return Hierarchical(channels, prototype_dim, components)
    return Mixture(channels, prototype_dim, codebook_size)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _noise(like: Tensor, rows: int, channels: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(rows, channels, generator=generator, dtype=like.dtype, device=like.device)
