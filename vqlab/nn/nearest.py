"""Exact nearest code of many vectors in a large, fixed codebook.

On a CPU most codes are discarded by a lower bound of their distance. Codes are rotated to their
principal axes; the distance along the first axes, combined with the difference of the norms along
the other axes, never exceeds the full distance. Tiles hold codes that are close to each other,
groups hold neighbouring rows. A small matrix product gives the bounds of all codes for the centre
of a group; the triangle inequality extends them to its rows. In the tiles that remain (about a
tenth), bounds are computed for each row, first along few axes, then along more. Only codes whose
bound is below the best distance so far (0.1 %) are compared in full.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.codebook import nearest

AXES, ALL_AXES = range(15, 48, 8), range(63, 128, 16)
"""Possible numbers of principal axes of the first bound, and of both bounds; each bound also has
the norm of the rest."""
SHARE, SHARE_OF_ALL = 0.9, 0.98
"""Fractions of the variance of the codes that these axes explain, if so many are possible."""
WITHIN_AXES = 8
"""Principal axes on which `NearestSearch.within` compares vectors first."""
MINIMUM = 512
"""Smaller codebooks are searched by `nearest`, as are vectors of few dimensions."""
GROUP = 4
"""Rows that share the bounds of their centre."""
GROUPS = 64
"""Groups whose bounds are computed at once."""
ROUNDING = 1e-5
"""Rounding error of a bound, relative to the squared norms; bounds are lowered by it."""


class NearestSearch(nn.Module):
    """Find the nearest codes of rows in a codebook (K, D) that rarely changes.

    It has no parameters or buffers. The codebook is prepared at the first use and again after
    `load_state_dict`; call `reset` after any other change of its values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._prepared: _Bounds | None = None
        self.register_load_state_dict_post_hook(_reset)  # type: ignore[no-untyped-call]

    def reset(self) -> None:
        """Prepare the codebook again at the next use."""
        self._prepared = None

    def forward(
        self, rows: Tensor, table: Tensor, excluded: Tensor | None = None, width: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return indices (N,) of the nearest codes of rows (N, D) in L2, and the distances (N,).

        table: the codebook (K, D), without gradient. Of equal distances the lowest index wins.
        Distances are accurate for close pairs, too. excluded: indices of codes that are not
        searched. width: if the rows are the positions of maps in raster order, the width of these
        maps; it makes the search faster and does not change the result. On other devices, and for
        codebooks too small to gain from bounds, `nearest` compares all codes. Raises UserError if
        bounds are used and a code is not finite.
        """
        bounds = self._bounds(rows, table)
        if bounds is not None:
            index, distance = bounds.search(rows.detach(), excluded, width)
            if not rows.requires_grad:
                return index, distance
        elif excluded is None:
            index = nearest(rows, table)
        else:
            searched = torch.ones(len(table), dtype=torch.bool, device=rows.device)
            searched[excluded] = False
            codes = searched.nonzero()[:, 0]
            index = codes[nearest(rows, table[codes])]
        parts = zip(torch.split(rows, 4096), torch.split(index, 4096), strict=True)
        return index, torch.cat([(part - table[at]).norm(dim=1) for part, at in parts])

    def within(self, rows: Tensor, table: Tensor, share: float) -> Tensor:
        """Return the indices, ascending, of the codes whose L2 distance to any of the rows (N, D)
        is at most `share`, well below 1, of their norm."""
        bounds = self._bounds(rows, table)
        if bounds is not None:
            return bounds.within(rows.detach(), share)
        reach = share * table.norm(dim=1)
        near = torch.zeros_like(reach, dtype=torch.bool)
        for part in torch.split(rows, 256):
            distance = torch.cdist(part, table, compute_mode="donot_use_mm_for_euclid_dist")
            near |= (distance <= reach).any(0)
        return near.nonzero()[:, 0]

    def _bounds(self, rows: Tensor, table: Tensor) -> _Bounds | None:
        """Return the prepared codebook; None if all codes are compared."""
        if not rows.is_cpu or len(table) < MINIMUM or table.shape[1] <= ALL_AXES[-1]:
            return None
        if self._prepared is None or self._prepared.table is not table:
            self._prepared = _Bounds(table)
        return self._prepared


def _reset(search: NearestSearch, _: object) -> None:
    """Hook of `load_state_dict`; a function of a module, so that models can be pickled."""
    search.reset()


class _Bounds:
    """A codebook (K, D) in the coordinates of the bounds."""

    def __init__(self, table: Tensor) -> None:
        from vqlab.nn.nearest_kernel import TILE, Codes  # numba is slow to import

        if not table.isfinite().all():
            raise UserError(
                "the codes of a model must be finite numbers; got NaN or infinity; train it again."
            )
        self.table = table
        self.mean, self.norms = table.mean(0), table.norm(dim=1)
        centred = (table - self.mean).double()
        variances, axes = torch.linalg.eigh(centred.T @ centred)
        shares = variances.flip(0).cumsum(0) / variances.sum()
        self.leading_axes = _count_axes(shares, SHARE, AXES)
        count = _count_axes(shares, SHARE_OF_ALL, ALL_AXES)
        self.axes = axes[:, -count:].flip(1).float().contiguous()
        leading, middle, squares = self._project(table)
        order = leading[:, 0].argsort()
        self.sorted = leading[order, :WITHIN_AXES], order
        """Coordinates (K, `WITHIN_AXES`) sorted by the first, and their codes (K,)."""
        order = _split(leading, torch.arange(len(table)), TILE)
        self.places = torch.empty_like(order)
        """Place of each code in the tiles, (K,)."""
        self.places[order] = torch.arange(len(order))
        order = torch.cat([order, order[:1].expand(-len(order) % TILE)])
        leading = leading[order]
        bounds = leading.square().sum(1)
        bounds[len(table) :] = torch.inf
        self.products = torch.cat([-2 * leading, bounds[:, None]], 1).T.contiguous()
        """Matrix (A + 1, T · TILE): the product with [x; 1] and ‖x‖² are squared bounds of x."""
        self.rounding = ROUNDING * squares.max()
        tiles = leading.view(-1, TILE, leading.shape[1]).mT.contiguous()
        self.codes = Codes(
            table.numpy(), order.numpy(), tiles.numpy(), middle[order].numpy(), bounds.numpy()
        )

    def search(self, rows: Tensor, excluded: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
        """Return indices (N,) of the nearest codes of rows (N, D), and the distances (N,)."""
        from vqlab.nn.nearest_kernel import Rows, search_groups  # numba is slow to import

        codes = self.codes
        if excluded is not None:  # their bounds in `products` only let more tiles be searched
            squares = torch.from_numpy(codes.squares).clone()
            squares[self.places[excluded]] = torch.inf
            codes = codes._replace(squares=squares.numpy())
        count = len(rows)
        order = _groups(count, width)
        rows = rows.contiguous().index_select(0, order)
        leading, middle, norms = self._project(rows)
        groups = leading.view(-1, GROUP, leading.shape[1])
        centres = groups.mean(1)
        radii = (groups - centres[:, None]).norm(dim=2).flatten()
        rounding = ROUNDING * norms + self.rounding
        results = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
        bounds = rows.new_empty(min(GROUPS, len(centres)), self.products.shape[1])
        for start in range(0, len(centres), GROUPS):
            part, inside = (slice(k * start, k * (start + GROUPS)) for k in (1, GROUP))
            some = bounds[: len(centres[part])]
            torch.mm(F.pad(centres[part], (0, 1), value=1), self.products, out=some)
            search_groups(
                some.numpy(),
                centres[part].square().sum(1).numpy(),
                Rows(*(t[inside].numpy() for t in (rows, leading, middle, radii, rounding))),
                codes,
                *(each[inside].numpy() for each in results),
            )
        index, distance = (each.new_empty(count).index_copy_(0, order, each) for each in results)
        return index, distance

    def within(self, rows: Tensor, share: float) -> Tensor:
        """Return the indices of codes as `NearestSearch.within`."""
        from vqlab.nn.nearest_kernel import mark_within  # numba is slow to import

        axes = self.axes[:, :WITHIN_AXES]
        leading = rows @ axes - self.mean @ axes
        result = torch.zeros(len(self.table), dtype=torch.bool)
        arrays = rows.contiguous(), leading, self.table, *self.sorted, share * self.norms, result
        mark_within(*(each.numpy() for each in arrays))
        return result.nonzero()[:, 0]

    def _project(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows on the leading axes (N, A) and on the middle axes (N, M), each with the norm
        of the rest as the last column, and their squared norms (N,)."""
        centred = rows - self.mean
        projected = centred @ self.axes
        squares = centred.square().sum(1)
        leading, middle = projected.tensor_split([self.leading_axes], 1)
        rest = squares - leading.square().sum(1)
        last = rest - middle.square().sum(1)
        leading, middle = (
            torch.cat([part, norm.clamp_min(0).sqrt()[:, None]], 1)
            for part, norm in ((leading, rest), (middle, last))
        )
        return leading, middle, squares


def _count_axes(shares: Tensor, wanted: float, possible: range) -> int:
    """Return the fewest axes whose cumulative share of the variance (D,) is `wanted`."""
    return next((n for n in possible if shares[n - 1] >= wanted), possible[-1])


def _split(points: Tensor, indices: Tensor, size: int) -> Tensor:
    """Reorder indices into points (N, A) so that each `size` of them are near each other: split at
    the median of the axis of largest variance, as in a k-d tree (Bentley 1975)."""
    if len(indices) <= size:
        return indices
    values = points[indices]
    ordered = indices[values[:, values.var(0).argmax()].argsort(stable=True)]
    middle = -(-len(indices) // (2 * size)) * size
    return torch.cat([_split(points, part, size) for part in (ordered[:middle], ordered[middle:])])


def _groups(count: int, width: int) -> Tensor:
    """Return the order of rows in which each `GROUP` are neighbours: 2 × 2 positions of maps of
    this width, in raster order, else consecutive rows; the last index is repeated to fill up."""
    rows = torch.arange(count)
    if width and width % 2 == 0 and count % (2 * width) == 0:
        return rows.view(-1, 2, width // 2, 2).transpose(1, 2).flatten()
    return torch.cat([rows, rows[-1:].expand(-count % GROUP)])
