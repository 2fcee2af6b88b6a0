"""Greedy k-centre selection: a subset that minimises the largest distance to the nearest member.

Sources: Gonzalez 1985 (the greedy rule: its radius is at most twice the best possible), Roth et
al. 2022 (PatchCore, algorithm 1: the patches of a memory bank).
"""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVE = 2048
"""Candidate rows per round; chosen to fit into a CPU cache."""
ROWS = 512
"""Rows updated in one matrix product."""


@torch.no_grad()
def k_centre(rows: Tensor, size: int, *, dim: int | None = None) -> Tensor:
    """Return indices (size,) into rows (N, D); each is the row farthest from those before it.

    Exact greedy selection by L2 distance, up to float32 rounding, from a random first row (torch's
    seed). Rows may be float16. dim: project rows at random to this many dimensions first, if D is
    larger; distances are roughly preserved (Johnson and Lindenstrauss 1984). Indices repeat if
    N < size. Extra memory: 20 bytes per row, plus the projection.
    """
    if len(rows) == 0:
        raise ValueError("k_centre needs at least one row.")
    search = _Search(random_projection(rows, dim), size)
    search.add(int(torch.randint(len(rows), ())))
    while search.count < size:
        search.advance()
    return search.indices


def random_projection(rows: Tensor, dim: int | None) -> Tensor:
    """Return rows (N, D) centred and, if D > dim, multiplied by a random (D, dim); same dtype."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for part in torch.split(rows, ACTIVE):
        total += part.double().sum(0)
    mean = (total / len(rows)).float()
    if dim is None or dim >= rows.shape[1]:
        matrix = None
        result = torch.empty_like(rows)
    else:
        matrix = torch.randn(rows.shape[1], dim).to(rows.device) / dim**0.5
        result = rows.new_empty(len(rows), dim)
    for part, into in zip(torch.split(rows, ACTIVE), torch.split(result, ACTIVE), strict=True):
        centred = part.float() - mean
        into.copy_(centred if matrix is None else centred @ matrix)
    return result


class _Search:
    """Lazy greedy selection with upper bounds on distances.

    The distance to the nearest centre only decreases as centres are added, so an outdated distance
    is an upper bound. Only the `ACTIVE` rows with the highest bounds are kept up to date; as long
    as the farthest of them exceeds the bounds of all other rows, it is the next centre. Outdated
    rows are later compared with all missed centres in one matrix product.
    """

    def __init__(self, rows: Tensor, size: int) -> None:
        self.rows, self.count = rows, 0
        device = rows.device
        self.squares = torch.cat(
            [part.float().square().sum(1) for part in torch.split(rows, ACTIVE)]
        )
        self.bounds = torch.full((len(rows),), torch.inf, device=device)
        """Squared distance to the nearest of the first `compared` centres, (N,)."""
        self.compared = torch.zeros(len(rows), dtype=torch.int64, device=device)
        self.indices = torch.empty(size, dtype=torch.int64, device=device)
        self.centres = torch.empty(size, rows.shape[1], device=device)

    def add(self, row: int) -> None:
        """Add a row as the next centre."""
        self.indices[self.count] = row
        self.centres[self.count] = self.rows[row].float()
        self.count += 1

    def advance(self) -> None:
        """Update the rows with the highest bounds and select centres among them."""
        highest = self.bounds.topk(min(ACTIVE + 1, len(self.rows)))
        active = highest.indices[:ACTIVE]
        limit = float(highest.values[ACTIVE]) if len(highest.values) > ACTIVE else -1.0
        rows = self.rows[active].float()
        squares = self.squares[active]
        distance = self._distances(active, rows, squares)
        while self.count < len(self.indices):
            farthest, place = distance.max(0)
            if farthest < limit:
                break
            self.add(int(active[place]))
            centre = self.centres[self.count - 1]
            new = squares + squares[place] - 2 * (rows @ centre)
            distance = torch.minimum(distance, new.clamp_min_(0))
            distance[place] = 0  # rounding could select it again
        self.bounds[active] = distance
        self.compared[active] = self.count

    def _distances(self, active: Tensor, rows: Tensor, squares: Tensor) -> Tensor:
        """Return squared distances (n,) of the rows `active` to the nearest centre so far."""
        distance = self.bounds[active]
        norms = self.centres[: self.count].square().sum(1)
        compared, order = self.compared[active].sort()
        for part in torch.split(order, ROWS):  # sorted: each part missed about the same centres
            first = int(compared[: len(part)].min())
            compared = compared[len(part) :]
            if first < self.count:
                cross = torch.addmm(
                    norms[first:], rows[part], self.centres[first : self.count].T, alpha=-2
                )
                new = (cross.amin(1) + squares[part]).clamp_min_(0)
                distance[part] = torch.minimum(distance[part], new)
        return distance
