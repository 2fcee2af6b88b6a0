"""Exact nearest code of many vectors in a large, fixed codebook.

On a CPU most codes are discarded by a lower bound of their distance. Codes are rotated to their
principal axes; the distance along the first axes, plus the difference of the norms along all other
axes, never exceeds the full distance. One small matrix product gives the bound of all codes, a few
more axes that of the remaining ones, and only codes below the best distance so far are compared in
full (for features of a network 1 % of them).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqlab.nn.codebook import nearest

AXES, ALL_AXES = 47, 127
"""Principal axes of the first bound, and of both bounds; each has the norm of the rest as well."""
MINIMUM = 512
"""Smaller codebooks are searched by `nearest`, as are vectors of few dimensions."""
ROWS = 256
"""Rows whose bounds are computed at once."""
ROUNDING = 1e-5
"""Rounding error of a bound, relative to the squared norms; bounds are lowered by it."""


class NearestSearch(nn.Module):
    """Find the nearest codes of rows in a codebook (K, D) that rarely changes.

    Without parameters or buffers. The codebook is prepared at the first use, after
    `load_state_dict` and after `reset`, which must follow any other change.
    """

    def __init__(self) -> None:
        super().__init__()
        self._prepared: _Bounds | None = None
        self.register_load_state_dict_post_hook(_reset)  # type: ignore[no-untyped-call]

    def reset(self) -> None:
        """Prepare the codebook again at the next use."""
        self._prepared = None

    def forward(
        self, rows: Tensor, table: Tensor, excluded: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return indices (N,) of the nearest codes of rows (N, D) in L2, and the distances (N,).

        Of equal distances the lowest index wins. Distances are accurate for close pairs, too.
        excluded: indices of codes that are not searched. `nearest` compares all codes on other
        devices, and where bounds do not pay.
        """
        if rows.is_cpu and len(table) >= MINIMUM and table.shape[1] > ALL_AXES:
            if self._prepared is None or self._prepared.table is not table:
                self._prepared = _Bounds(table)
            index = self._prepared.search(rows.detach().contiguous(), excluded)
        elif excluded is None:
            index = nearest(rows, table)
        else:
            searched = torch.ones(len(table), dtype=torch.bool, device=rows.device)
            searched[excluded] = False
            codes = searched.nonzero()[:, 0]
            index = codes[nearest(rows, table[codes])]
        parts = zip(torch.split(rows, 4096), torch.split(index, 4096), strict=True)
        return index, torch.cat([(part - table[at]).norm(dim=1) for part, at in parts])


def _reset(search: NearestSearch, _: object) -> None:
    """Hook of `load_state_dict`; a function of a module, so that models can be pickled."""
    search.reset()


class _Bounds:
    """A codebook (K, D) in the coordinates of the bounds."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.mean = table.mean(0)
        centred = (table - self.mean).double()
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors
        self.axes = axes[:, -ALL_AXES:].flip(1).float().contiguous()
        self.leading, self.middle, squares = self._project(table)
        self.bound = self.leading.square().sum(1)
        self.rounding = ROUNDING * squares.max()

    def search(self, rows: Tensor, excluded: Tensor | None) -> Tensor:
        """Return indices (N,) of the nearest codes of rows (N, D)."""
        from vqlab.nn.nearest_kernel import refine  # numba is slow to import

        bound = self.bound
        if excluded is not None:
            bound = bound.index_fill(0, excluded, torch.inf)
        leading, middle, squares = self._project(rows)
        offsets = leading.square().sum(1) - ROUNDING * squares - self.rounding
        norms = self.leading[:, -1].contiguous().numpy()
        index = torch.empty(len(rows), dtype=torch.int64)
        bounds = rows.new_empty(min(ROWS, len(rows)), len(self.table))
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            size = len(index[part])
            torch.addmm(bound, leading[part], self.leading.T, alpha=-2, out=bounds[:size])
            guess = index[part].numpy()
            guess[:] = bounds[:size].numpy().argmin(1)
            refine(
                bounds[:size].numpy(), offsets[part].numpy(), rows[part].numpy(),
                self.table.numpy(), leading[part, -1].contiguous().numpy(), norms,
                middle[part].numpy(), self.middle.numpy(), guess,
            )  # fmt: skip
        return index

    def _project(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows on the leading axes (N, AXES + 1) and on the middle axes (N, …), each with
        the norm of the rest as the last column, and their squared norms (N,)."""
        centred = rows - self.mean
        projected = centred @ self.axes
        squares = centred.square().sum(1)
        leading, middle = projected[:, :AXES], projected[:, AXES:]
        rest = squares - leading.square().sum(1)
        last = rest - middle.square().sum(1)
        leading, middle = (
            torch.cat([part, norm.clamp_min(0).sqrt()[:, None]], 1)
            for part, norm in ((leading, rest), (middle, last))
        )
        return leading, middle, squares
