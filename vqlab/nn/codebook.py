"""A codebook: nearest codes, moving averages, restarts of dead codes, k-means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn import distributed

ROWS = 1024
"""Vectors compared with the codebook at once; chosen to fit into a CPU cache."""


@dataclass(frozen=True)
class CodebookOptions:
    """How the codes of a codebook are learned."""

    commitment: float = 0.25
    """Weight β of the commitment loss."""
    decay: float = 0.99
    """Of the moving averages."""
    restart: float = 0.0
    """Codes used less than this fraction of uniform usage are moved to a random vector of the
    batch; 0 disables it."""
    init: Literal["random", "kmeans"] = "random"
    """`random` (uniform in ±1/K) or `kmeans` on the first training batch."""


class Codebook(nn.Module):
    """Codebook vectors (K, D), usage counts (K,) and, for `ema`, sums of assigned vectors."""

    vectors: Tensor
    counts: Tensor
    """Moving average of the number of vectors assigned per batch."""
    sums: Tensor
    """Moving average of the sum of these vectors; codes are sums / counts."""
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
        """Return the codes (K, D), normalised for `cosine`."""
        return F.normalize(self.vectors, dim=1) if self.distance == "cosine" else self.vectors

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return indices (N,) and codes (N, D) of rows (N, D); in training, update the codebook.

        Dead codes are restarted before the look-up, so that they can be chosen in the same step;
        sum and count are reset with them, so that the moving average does not undo the restart.
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
        """Set codes, counts and sums from k-means on rows (N, D)."""
        table = kmeans(rows, len(self.vectors), on_sphere=self.distance == "cosine")
        members = torch.bincount(nearest(rows, table), minlength=len(table))
        every_code = torch.arange(len(table), device=rows.device)
        self._place(every_code, table, members.clamp_min(1).to(rows))
        for tensor in (self.vectors.data, self.counts, *([self.sums] if self.moving else [])):
            distributed.broadcast(tensor)

    @torch.no_grad()
    def _observe(self, rows: Tensor, index: Tensor) -> None:
        # Unlike torch.bincount, index_add does not wait for the device.
        members = torch.zeros_like(self.usage).index_add_(0, index, torch.ones_like(index))
        members = distributed.sum_over_ranks(members)
        self.usage += members
        self.counts.lerp_(members.to(self.counts), 1 - self.decay)
        if self.moving:
            sums = torch.zeros_like(self.sums).index_add_(0, index, rows)
            self.sums.lerp_(distributed.sum_over_ranks(sums), 1 - self.decay)
            # Count and sum of an unused code decay alike, so the code does not move until both
            # are too small to divide.
            alive = (self.counts > 1e-20)[:, None]
            means = self.sums / self.counts[:, None]
            self.vectors.copy_(torch.where(alive, means, self.vectors))

    @torch.no_grad()
    def _restart(self, rows: Tensor) -> None:
        uniform = distributed.broadcast(self.counts).mean()
        dead = (self.counts < self.restart * uniform).nonzero()[:, 0]
        if len(dead):
            places = random_indices(distributed.count_rows(rows), len(dead), rows.device)
            self._place(dead, distributed.gather_rows_at(rows, places), uniform.expand(len(dead)))

    def _place(self, codes: Tensor, at: Tensor, counts: Tensor) -> None:
        self.vectors.data[codes] = at
        self.counts[codes] = counts
        if self.moving:
            self.sums[codes] = at * counts[:, None]


@torch.no_grad()
def nearest(rows: Tensor, table: Tensor) -> Tensor:
    """Return indices (N,) into table (K, D) of the rows nearest to rows (N, D) in L2.

    ‖z‖² is constant over codes and omitted.
    """
    squares = table.square().sum(1)
    index = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    buffer = rows.new_empty(min(ROWS, len(rows)), len(table))
    for part, into in zip(torch.split(rows, ROWS), torch.split(index, ROWS), strict=True):
        distance = torch.addmm(squares, part, table.T, alpha=-2, out=buffer[: len(part)])
        if distance.is_cpu:
            # On a CPU numpy's argmin over the last axis is seven times as fast as torch's.
            into.copy_(torch.from_numpy(distance.numpy().argmin(1)))
        else:
            into.copy_(distance.argmin(1))
    return index


@torch.no_grad()
def kmeans(rows: Tensor, size: int, *, on_sphere: bool = False, iterations: int = 10) -> Tensor:
    """Return k-means centres (size, D) of a random sample of at most 64 · size of the rows (N, D).

    Empty clusters are restarted at a random row. Rows repeat if N < size. Uses torch's seed.
    """
    rows = sample_rows(rows, 64 * size) if len(rows) > 64 * size else rows
    centres = sample_rows(rows, size)
    for _ in range(iterations):
        index = nearest(rows, centres)
        members = torch.bincount(index, minlength=size)[:, None]
        means = torch.zeros_like(centres).index_add_(0, index, rows) / members.clamp_min(1)
        centres = torch.where(members > 0, means, sample_rows(rows, size))
        centres = F.normalize(centres, dim=1) if on_sphere else centres
    return centres


def sample_rows(rows: Tensor, size: int) -> Tensor:
    """Return a random sample of rows (N, D), without replacement if size ≤ N."""
    return rows[random_indices(len(rows), size, rows.device)]


def random_indices(count: int, size: int, device: torch.device) -> Tensor:
    """Return `size` random integers below `count`, distinct if size ≤ count."""
    if size <= count:
        return torch.randperm(count, device=device)[:size]
    return torch.randint(count, (size,), device=device)
