"""Vector quantisation: replace each vector by the nearest of K codebook vectors.

Sources: van den Oord et al. 2017 (VQ-VAE, gradient codebook and, in its appendix A.1, the moving
averages), Yu et al. 2022 (cosine distance), Zeghidour et al. 2021 (SoundStream: residual levels,
k-means start, replacing dead codes), Fifty et al. 2024 (rotation trick).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn import distributed
from vqlab.nn.codebook import Codebook, CodebookOptions, nearest
from vqlab.nn.latch import latched, reset_on_load
from vqlab.nn.precision import without_autocast


class Quantized(NamedTuple):
    """Result of quantising z."""

    codes: Tensor
    """Nearest codes, shaped as z; gradients pass through the estimator."""
    indices: Tensor
    """Int64 (B, h, w) or (N,); with L > 1 residual levels (B, L, h, w) or (N, L)."""
    codebook: Tensor
    """Codebook loss, mean of (sg[z] − e)², (); for `ema` reported only."""
    commitment: Tensor
    """Commitment loss, mean of (z − sg[e])², (); not weighted by β."""
    loss: Tensor
    """Term to add to the loss, (): β · commitment, plus `codebook` if learned by gradient."""


@dataclass(frozen=True)
class Usage:
    """Usage counts of codes in training: histogram (L, K)."""

    histogram: Tensor

    @property
    def perplexity(self) -> float:
        """exp(entropy of usage), mean over levels; between 1 (a single code) and K (uniform)."""
        return float(perplexity(self.histogram).mean())

    @property
    def dead(self) -> int:
        """Number of unused codes over all levels."""
        return int((self.histogram == 0).sum())

    @property
    def used(self) -> float:
        """Fraction of codes that were used."""
        return 1 - self.dead / self.histogram.numel()

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return `<prefix>perplexity`, `<prefix>dead_codes` and `<prefix>usage`."""
        values = {"perplexity": self.perplexity, "dead_codes": float(self.dead), "usage": self.used}
        return {f"{prefix}{name}": value for name, value in values.items()}


class VectorQuantizer(nn.Module):
    """Vector quantiser with one codebook, or L residual codebooks.

    codebook_size, dim: K and D. learning: `gradient`, or `ema` (moving averages). distance: `l2` or
    `cosine` (vectors and codes on the unit sphere). gradient: estimator of the gradient through the
    quantisation.

    In training mode `forward` updates codebooks and usage, synchronised over ranks; in eval mode,
    and in `encode` and `lookup`, nothing changes. Computed in float32 regardless of autocast.
    """

    initialised: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        options: CodebookOptions,
        *,
        learning: Literal["gradient", "ema"] = "gradient",
        distance: Literal["l2", "cosine"] = "l2",
        gradient: Literal["straight_through", "rotation"] = "straight_through",
        levels: int = 1,
    ) -> None:
        super().__init__()
        if levels > 1 and distance == "cosine":
            raise ValueError("levels > 1 requires distance 'l2'; got 'cosine'.")
        self.gradient, self.distance, self.levels = gradient, distance, levels
        self.commitment = options.commitment
        self.codebooks = nn.ModuleList(
            Codebook(codebook_size, dim, learning, distance, options.restart, options.decay)
            for _ in range(levels)
        )
        self.register_buffer("initialised", torch.tensor(options.init == "random"))
        reset_on_load(self)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise z (B, D, h, w) or (N, D)."""
        with without_autocast(z.device):
            rows = self._rows(z.float())
            if self.training and not self.is_initialised:
                self.initialise(z)
            residual, total = rows, torch.zeros_like(rows)
            indices, codebook, commitment = [], [], []
            for book in self._books():
                index, chosen = book(residual.detach())
                indices.append(index)
                error = F.mse_loss(residual, chosen.detach())
                commitment.append(error)
                codebook.append(error.detach())
                if chosen.requires_grad:  # the same value
                    codebook[-1] = F.mse_loss(chosen, residual.detach())
                total = total + chosen.detach()
                residual = residual - chosen.detach()
            passed = rotation(rows, total) if self.gradient == "rotation" else rows
            codes = passed + (total - passed).detach()
            codebook_loss, commitment_loss = (
                torch.stack(codebook).mean(),
                torch.stack(commitment).mean(),
            )
            loss = self.commitment * commitment_loss + (
                codebook_loss if codebook_loss.requires_grad else 0.0
            )
            return Quantized(
                _unrows(codes, z),
                self._reshape_indices(indices, z),
                codebook_loss.detach(),
                commitment_loss.detach(),
                loss,
            )

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Return indices of the nearest codes of z, shaped as in `Quantized`, without updates."""
        residual, indices = self._rows(z.float()), []
        for book in self._books():
            index = nearest(residual, book.table())
            residual = residual - F.embedding(index, book.table())
            indices.append(index)
        return self._reshape_indices(indices, z)

    @torch.no_grad()
    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes (B, D, h, w) or (N, D) of `indices`, the output of `encode`."""
        by_level = [indices] if self.levels == 1 else list(indices.unbind(1))
        books = zip(by_level, self._books(), strict=True)
        codes = torch.stack([F.embedding(index, book.table()) for index, book in books]).sum(0)
        return codes.movedim(-1, 1)

    @torch.no_grad()
    def initialise(self, z: Tensor) -> None:
        """Initialise codebooks and moving averages from k-means centres of z."""
        residual = distributed.gather_rows(self._rows(z.detach().float()))
        for book in self._books():
            book.fit(residual)
            residual = residual - F.embedding(nearest(residual, book.table()), book.table())
        self.initialised.fill_(True)

    @property
    def is_initialised(self) -> bool:
        """Whether the codebooks have been initialised."""
        return latched(self, "initialised", lambda: bool(self.initialised))

    def pop_usage(self) -> Usage | None:
        """Return and reset the usage counted in training; None if nothing was quantised."""
        histogram = torch.stack([book.usage for book in self._books()])
        for book in self._books():
            book.usage.zero_()
        return Usage(histogram) if bool(histogram.any()) else None

    @property
    def codebook(self) -> Tensor:
        """The codes (K, D) of the first level."""
        return self._books()[0].table()

    def _books(self) -> list[Codebook]:
        return [book for book in self.codebooks if isinstance(book, Codebook)]

    def _rows(self, z: Tensor) -> Tensor:
        rows = z.movedim(1, -1).reshape(-1, z.shape[1])
        return F.normalize(rows, dim=1) if self.distance == "cosine" else rows

    def _reshape_indices(self, indices: list[Tensor], z: Tensor) -> Tensor:
        shaped = [index.view(z.shape[0], *z.shape[2:]) for index in indices]
        return shaped[0] if self.levels == 1 else torch.stack(shaped, 1)


def _unrows(rows: Tensor, z: Tensor) -> Tensor:
    """Reshape rows (N, D) like z; the inverse of `VectorQuantizer._rows`."""
    return rows.view(z.shape[0], *z.shape[2:], z.shape[1]).movedim(-1, 1)


def rotation(z: Tensor, codes: Tensor) -> Tensor:
    """Return λR z, which equals the codes (N, D); gradients reach z (N, D) through constant λR.

    R rotates z onto its code in their plane, λ = ‖e‖ / ‖z‖ (Fifty et al. 2024, eq. 2–4).
    """
    detached = z.detach()
    start, end = F.normalize(detached, dim=1), F.normalize(codes, dim=1)
    middle = F.normalize(start + end, dim=1)
    stretch = codes.norm(dim=1, keepdim=True) / detached.norm(dim=1, keepdim=True).clamp_min(1e-6)
    along_middle = (z * middle).sum(1, keepdim=True) * middle
    along_start = (z * start).sum(1, keepdim=True) * end
    rotated: Tensor = stretch * (z - 2 * along_middle + 2 * along_start)
    return rotated


def perplexity(histogram: Tensor) -> Tensor:
    """Return exp(entropy) of counts (..., K), shape (...), in [1, K]; 1 if all counts are zero."""
    share = histogram.double() / histogram.sum(-1, keepdim=True).clamp_min(1)
    entropy: Tensor = torch.special.entr(share).sum(-1)
    return entropy.exp()
