"""Vector quantisation: a vector is replaced by the nearest of the K vectors of a codebook.

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

ROWS = 1024
"""Vectors compared with the codebook at a time: their distances fit into a CPU's cache."""


class Quantized(NamedTuple):
    """What the quantiser makes of z."""

    codes: Tensor
    """Shaped as z: the nearest codes forward, the gradient estimator backward."""
    indices: Tensor
    """Int64 (B, h, w) or (N,); with L > 1 residual levels (B, L, h, w) or (N, L)."""
    codebook: Tensor
    """Mean of (sg[z] − e)², (): teaches a gradient codebook, a plain figure for a moving one."""
    commitment: Tensor
    """Mean of (z − sg[e])², (): teaches the encoder; not weighted by β."""
    loss: Tensor
    """What to add to the loss, (): β · commitment, and `codebook` where that is learned by it."""


@dataclass(frozen=True)
class Usage:
    """How often each code was chosen in training since it was last read: histogram (L, K)."""

    histogram: Tensor

    @property
    def perplexity(self) -> float:
        """exp(entropy of usage), mean over levels: 1 (one code does it all) to K (all alike)."""
        return float(perplexity(self.histogram).mean())

    @property
    def dead(self) -> int:
        """Number of codes never chosen, over all levels."""
        return int((self.histogram == 0).sum())

    @property
    def used(self) -> float:
        """Share of the codes that were chosen at all."""
        return 1 - self.dead / self.histogram.numel()


class VectorQuantizer(nn.Module):
    """The codebooks: one, or L residual levels of which each quantises what the former left over.

    codebook_size, dim: K and D. commitment: β. learning: by `gradient` or by moving averages
    (`ema`, with `decay`). distance: `l2`, or `cosine`, which puts vectors and codes on the unit
    sphere. gradient: how a gradient passes the choice backward. init: `random`, uniform in ±1/K,
    or `kmeans` on the first vectors seen in training. restart: a code chosen less often than this
    share of uniform usage moves onto a vector of the present batch; 0: never.

    A training forward updates codebooks and usage, by the whole batch where ranks share one;
    `encode`, `lookup` and an eval forward change nothing. Computes in float32 under any autocast.
    """

    initialised: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        *,
        commitment: float = 0.25,
        learning: Literal["gradient", "ema"] = "gradient",
        distance: Literal["l2", "cosine"] = "l2",
        gradient: Literal["straight_through", "rotation"] = "straight_through",
        init: Literal["random", "kmeans"] = "random",
        restart: float = 0.0,
        decay: float = 0.99,
        levels: int = 1,
    ) -> None:
        super().__init__()
        if levels > 1 and distance == "cosine":
            raise ValueError("residual levels need distance l2: what is left over has a length.")
        self.commitment, self.gradient, self.distance = commitment, gradient, distance
        self.levels = levels
        self.codebooks = nn.ModuleList(
            Codebook(codebook_size, dim, learning, distance, restart, decay) for _ in range(levels)
        )
        self.register_buffer("initialised", torch.tensor(init == "random"))

    def forward(self, z: Tensor) -> Quantized:
        """Quantise z (B, D, h, w) or (N, D)."""
        with torch.autocast(z.device.type, enabled=False):
            rows = self._rows(z.float())
            if self.training and not self.initialised:
                self.initialise(z)
            residual, total = rows, torch.zeros_like(rows)
            indices, codebook, commitment = [], [], []
            for book in self._books():
                index, chosen = book(residual.detach())
                indices.append(index)
                codebook.append(F.mse_loss(chosen, residual.detach()))
                commitment.append(F.mse_loss(residual, chosen.detach()))
                total = total + chosen.detach()
                residual = residual - chosen.detach()
            passed = rotation(rows, total) if self.gradient == "rotation" else rows
            codes = passed + (total - passed).detach()
            taught, held = torch.stack(codebook).mean(), torch.stack(commitment).mean()
            loss = self.commitment * held + (taught if taught.requires_grad else 0.0)
            return Quantized(
                _unrows(codes, z), self._shaped(indices, z), taught.detach(), held.detach(), loss
            )

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Indices of the nearest codes of z, shaped as in `Quantized`; changes nothing."""
        residual, indices = self._rows(z.float()), []
        for book in self._books():
            index = nearest(residual, book.table())
            residual = residual - F.embedding(index, book.table())
            indices.append(index)
        return self._shaped(indices, z)

    @torch.no_grad()
    def lookup(self, indices: Tensor) -> Tensor:
        """The codes (B, D, h, w) or (N, D) of `indices` as `encode` returns them."""
        by_level = [indices] if self.levels == 1 else list(indices.unbind(1))
        books = zip(by_level, self._books(), strict=True)
        codes = torch.stack([F.embedding(index, book.table()) for index, book in books]).sum(0)
        return codes.movedim(-1, 1)

    @torch.no_grad()
    def initialise(self, z: Tensor) -> None:
        """Set every codebook to the k-means centres of z, and its moving averages to match."""
        residual = distributed.gather_rows(self._rows(z.detach().float()))
        for book in self._books():
            book.fit(residual)
            residual = residual - F.embedding(nearest(residual, book.table()), book.table())
        self.initialised.fill_(True)

    def read_usage(self) -> Usage | None:
        """Usage in training since the last reading, which is forgotten; none: nothing chosen."""
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

    def _shaped(self, indices: list[Tensor], z: Tensor) -> Tensor:
        shaped = [index.view(z.shape[0], *z.shape[2:]) for index in indices]
        return shaped[0] if self.levels == 1 else torch.stack(shaped, 1)


def _unrows(rows: Tensor, z: Tensor) -> Tensor:
    """Rows (N, D) in the shape of z; the inverse of `VectorQuantizer._rows` up to length."""
    return rows.view(z.shape[0], *z.shape[2:], z.shape[1]).movedim(-1, 1)


class Codebook(nn.Module):
    """K vectors (K, D), how often each is chosen (K,), and for `ema` the sums of their members."""

    vectors: Tensor
    counts: Tensor
    """Moving average of the number of vectors per batch that chose the code."""
    sums: Tensor
    """Moving average of the sum of these vectors; sums / counts are the codes."""
    usage: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        learning: Literal["gradient", "ema"],
        distance: Literal["l2", "cosine"],
        restart: float,
        decay: float,
    ) -> None:
        super().__init__()
        self.distance, self.restart, self.decay = distance, restart, decay
        vectors = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        self.moving = learning == "ema"
        if self.moving:
            self.register_buffer("vectors", vectors)
            self.register_buffer("sums", vectors.clone())
        else:
            self.vectors = nn.Parameter(vectors)
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("usage", torch.zeros(size, dtype=torch.int64), persistent=False)

    def table(self) -> Tensor:
        """The codes (K, D) as they are compared and returned: for cosine of length 1."""
        return F.normalize(self.vectors, dim=1) if self.distance == "cosine" else self.vectors

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (N,) and codes (N, D) of rows (N, D); in training the codebook learns of them.

        Restarting comes before the look-up, so a revived code is chosen in the same step; and it
        carries its sum and count along, so no later step of the averages can undo it.
        """
        if self.training and self.restart:
            self._restart(rows)
        table = self.table()
        index = nearest(rows, table.detach())
        chosen = F.embedding(index, table)
        if self.training:
            self._observe(rows, index)
        return index, chosen

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Place the codes at the k-means centres of rows (N, D), counts and sums to match."""
        table = kmeans(rows, len(self.vectors), on_sphere=self.distance == "cosine")
        members = torch.bincount(nearest(rows, table), minlength=len(table))
        everyone = torch.arange(len(table), device=rows.device)
        self._place(everyone, table, members.clamp_min(1).to(rows))
        for tensor in (self.vectors.data, self.counts, *([self.sums] if self.moving else [])):
            distributed.as_first(tensor)

    @torch.no_grad()
    def _observe(self, rows: Tensor, index: Tensor) -> None:
        members = distributed.sum_over_ranks(torch.bincount(index, minlength=len(self.counts)))
        self.usage += members
        self.counts.lerp_(members.to(self.counts), 1 - self.decay)
        if self.moving:
            sums = torch.zeros_like(self.sums).index_add_(0, index, rows)
            self.sums.lerp_(distributed.sum_over_ranks(sums), 1 - self.decay)
            # Count and sum of an unused code fade alike: it stays where it is, until both are
            # too small to divide.
            alive = self.counts > 1e-20
            self.vectors[alive] = self.sums[alive] / self.counts[alive, None]

    @torch.no_grad()
    def _restart(self, rows: Tensor) -> None:
        uniform = distributed.as_first(self.counts).mean()
        dead = (self.counts < self.restart * uniform).nonzero()[:, 0]
        if len(dead):
            places = drawn_places(distributed.count_rows(rows), len(dead), rows.device)
            self._place(dead, distributed.rows_at(rows, places), uniform.expand(len(dead)))

    def _place(self, codes: Tensor, at: Tensor, counts: Tensor) -> None:
        self.vectors.data[codes] = at
        self.counts[codes] = counts
        if self.moving:
            self.sums[codes] = at * counts[:, None]


@torch.no_grad()
def nearest(rows: Tensor, table: Tensor) -> Tensor:
    """Index (N,) of the row of table (K, D) nearest to each of rows (N, D) in squared L2.

    ‖z‖² is the same for every code and is left out.
    """
    squares = table.square().sum(1)
    index = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    space = rows.new_empty(min(ROWS, len(rows)), len(table))
    for part, into in zip(torch.split(rows, ROWS), torch.split(index, ROWS), strict=True):
        distance = torch.addmm(squares, part, table.T, alpha=-2, out=space[: len(part)])
        if distance.is_cpu:
            # torch's argmin over the last axis takes seven times as long as numpy's on a CPU.
            into.copy_(torch.from_numpy(distance.numpy().argmin(1)))
        else:
            into.copy_(distance.argmin(1))
    return index


def rotation(z: Tensor, codes: Tensor) -> Tensor:
    """z (N, D) turned and stretched onto its codes (N, D), both held constant for the gradient.

    The gradient reaches z through λR, R the rotation from z to its code in their plane and
    λ = ‖e‖ / ‖z‖ (Fifty et al. 2024, eq. 2–4), instead of unchanged.
    """
    held = z.detach()
    start, end = F.normalize(held, dim=1), F.normalize(codes, dim=1)
    middle = F.normalize(start + end, dim=1)
    stretch = codes.norm(dim=1, keepdim=True) / held.norm(dim=1, keepdim=True).clamp_min(1e-6)
    along_middle = (z * middle).sum(1, keepdim=True) * middle
    along_start = (z * start).sum(1, keepdim=True) * end
    turned: Tensor = stretch * (z - 2 * along_middle + 2 * along_start)
    return turned


@torch.no_grad()
def kmeans(rows: Tensor, size: int, *, on_sphere: bool = False, iterations: int = 10) -> Tensor:
    """Centres (size, D) of rows (N, D), or of 64 · size drawn ones; drawn by torch's seed.

    A centre without members starts anew at a drawn row. With fewer rows than centres, rows repeat.
    """
    rows = draw(rows, 64 * size) if len(rows) > 64 * size else rows
    centres = draw(rows, size)
    for _ in range(iterations):
        index = nearest(rows, centres)
        members = torch.bincount(index, minlength=size)[:, None]
        means = torch.zeros_like(centres).index_add_(0, index, rows) / members.clamp_min(1)
        centres = torch.where(members > 0, means, draw(rows, size))
        centres = F.normalize(centres, dim=1) if on_sphere else centres
    return centres


def draw(rows: Tensor, size: int) -> Tensor:
    """`size` of rows (N, D) at random: different ones where there are enough."""
    return rows[drawn_places(len(rows), size, rows.device)]


def drawn_places(count: int, size: int, device: torch.device) -> Tensor:
    """`size` of the numbers below `count` at random: different ones where there are enough."""
    if size <= count:
        return torch.randperm(count, device=device)[:size]
    return torch.randint(count, (size,), device=device)


def perplexity(histogram: Tensor) -> Tensor:
    """exp(entropy) of counts (..., K), shape (...): within [1, K]; 1 also where all are zero."""
    share = histogram.double() / histogram.sum(-1, keepdim=True).clamp_min(1)
    entropy: Tensor = torch.special.entr(share).sum(-1)
    return entropy.exp()
