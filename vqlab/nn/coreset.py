"""Greedy k-centre selection: a few rows that leave no row far from all of them.

Sources: Gonzalez 1985 (the greedy rule: its radius is at most twice the best possible), Roth et
al. 2022 (PatchCore, algorithm 1: the patches of a memory bank).
"""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVE = 2048
"""Rows among which the next centres are sought: they fit into a CPU's cache."""
ROWS = 512
"""Rows brought up to date in one matrix product."""


@torch.no_grad()
def k_centre(rows: Tensor, size: int, *, dim: int | None = None) -> Tensor:
    """Indices (size,) of rows (N, D): each is the row farthest from the nearest one before it.

    Exactly the greedy rule on L2 distances, up to float32's rounding. The first is drawn by torch's
    seed. dim: rows are first projected at random to this many dimensions, where D is larger, which
    keeps distances roughly (Johnson and Lindenstrauss 1984). Rows may be of half precision. Where
    rows are fewer than `size`, some repeat. Memory beyond the rows: 20 bytes a row, and what the
    projection takes.
    """
    if len(rows) == 0:
        raise ValueError("k_centre needs at least one row.")
    search = _Search(projected(rows, dim), size)
    search.add(int(torch.randint(len(rows), ())))
    while search.found < size:
        search.advance()
    return search.chosen


def projected(rows: Tensor, dim: int | None) -> Tensor:
    """Rows (N, D) around their mean, times a random (D, dim) where D is larger; dtype is kept."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for part in torch.split(rows, ACTIVE):
        total += part.double().sum(0)
    mean = (total / len(rows)).float()
    if dim is None or dim >= rows.shape[1]:
        onto = None
        result = torch.empty_like(rows)
    else:
        onto = torch.randn(rows.shape[1], dim).to(rows.device) / dim**0.5
        result = rows.new_empty(len(rows), dim)
    for part, into in zip(torch.split(rows, ACTIVE), torch.split(result, ACTIVE), strict=True):
        moved = part.float() - mean
        into.copy_(moved if onto is None else moved @ onto)
    return result


class _Search:
    """Lazy greedy selection: only few rows are compared with a new centre at once.

    A row's distance to its nearest centre falls as centres are added, so what it was is an upper
    bound. While a row among the `ACTIVE` with the highest bounds is farther than every other
    row's bound, it is the farthest of all, and the others can wait; they meet all the centres they
    missed in one matrix product, which is many times as fast as one by one, and most meet few.
    """

    def __init__(self, rows: Tensor, size: int) -> None:
        self.rows, self.found = rows, 0
        device, count = rows.device, len(rows)
        self.squares = torch.cat(
            [part.float().square().sum(1) for part in torch.split(rows, ACTIVE)]
        )
        self.bounds = torch.full((count,), torch.inf, device=device)
        """Squared distance to the nearest of the first `met` centres, (N,)."""
        self.met = torch.zeros(count, dtype=torch.int64, device=device)
        self.chosen = torch.empty(size, dtype=torch.int64, device=device)
        self.centres = torch.empty(size, rows.shape[1], device=device)

    def add(self, row: int) -> None:
        """Make a row the next centre."""
        self.chosen[self.found] = row
        self.centres[self.found] = self.rows[row].float()
        self.found += 1

    def advance(self) -> None:
        """Bring the rows with the highest bounds up to date and choose centres among them."""
        highest = self.bounds.topk(min(ACTIVE + 1, len(self.rows)))
        active = highest.indices[:ACTIVE]
        others = float(highest.values[ACTIVE]) if len(highest.values) > ACTIVE else -1.0
        rows = self.rows[active].float()
        squares = self.squares[active]
        distance = self._up_to_date(active, rows, squares)
        while self.found < len(self.chosen):
            farthest, place = distance.max(0)
            if farthest < others:
                break
            self.add(int(active[place]))
            centre = self.centres[self.found - 1]
            new = squares + squares[place] - 2 * (rows @ centre)
            distance = torch.minimum(distance, new.clamp_min_(0))
            distance[place] = 0  # what rounding leaves would let it be chosen again
        self.bounds[active] = distance
        self.met[active] = self.found

    def _up_to_date(self, active: Tensor, rows: Tensor, squares: Tensor) -> Tensor:
        """Squared distances (n,) of the rows `active` to the nearest centre so far."""
        distance = self.bounds[active]
        known = self.centres[: self.found].square().sum(1)
        met, order = self.met[active].sort()
        for part in torch.split(order, ROWS):  # those of one part lag behind about alike
            first = int(met[: len(part)].min())
            met = met[len(part) :]
            if first < self.found:
                cross = torch.addmm(
                    known[first:], rows[part], self.centres[first : self.found].T, alpha=-2
                )
                new = (cross.amin(1) + squares[part]).clamp_min_(0)
                distance[part] = torch.minimum(distance[part], new)
        return distance
