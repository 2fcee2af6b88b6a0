"""A sequence of invertible steps, computed by FrEIA's `SequenceINN`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vqlab.nn.flow.blocks import Dims

if TYPE_CHECKING:
    from FrEIA.framework import SequenceINN


class Steps(nn.Module):
    """Invertible steps of tensors whose dimensions without the batch are `dims`, in order.

    They are appended to a `SequenceINN` at the first call: a flow that is loaded and folded does
    not import FrEIA, which imports scipy.stats. State dicts have the keys of a `SequenceINN`.
    """

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims
        self.module_list = nn.ModuleList()
        self.conditions: list[int | None] = []
        """Index of the condition of each step."""

    def append(self, step: nn.Module, condition: int | None = None) -> None:
        """Append a step with the index of its condition."""
        self.module_list.append(step)
        self.conditions.append(condition)

    def forward(
        self, x: Tensor, conditions: Sequence[Tensor] = (), rev: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the output of the last step and log_det; with `rev`, those of the inverse."""
        out, log_det = self._sequence(x, conditions, rev=rev)
        return out, log_det

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.module_list)

    def __getitem__(self, index: int) -> nn.Module:
        return self.module_list[index]

    @cached_property
    def _sequence(self) -> SequenceINN:
        from FrEIA.framework import SequenceINN  # slow to import

        sequence = SequenceINN(*self.dims)
        for step, condition in zip(self, self.conditions, strict=True):
            sequence.append(_same, cond=condition, step=step)
        return sequence


def _same(dims_in: Dims, dims_c: Dims | None = None, *, step: nn.Module) -> nn.Module:
    """Return a step where FrEIA expects its class."""
    return step
