"""Critical-difference diagram of average ranks (Demšar 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vqlab.plots import style
from vqlab.plots.curves import NAME_WIDTH, figure_text, new_figure
from vqlab.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.3
"""Inches per line of text."""


def critical_difference_figure(
    title: str,
    names: Sequence[str],
    ranks: Sequence[float],
    difference: float,
    groups: Sequence[Sequence[int]],
) -> Figure:
    """Return a diagram of average ranks, 1 (best) on the left.

    ranks: average rank of each method; difference: critical difference; groups: sets of methods, by
    index, that are not significantly different, joined by bars.
    """
    order = sorted(range(len(names)), key=lambda index: ranks[index])
    left = (len(order) + 1) // 2
    rows = max(left, len(order) - left)
    bars = len(groups) * 0.8 + 0.6
    depth = bars + rows - 0.4
    figure = new_figure(title, 8.0, 0.5 + _ROW * (depth + 2.5))
    figure.set_layout_engine("none")
    share = 1 - 0.45 / figure.get_figheight()
    axes = figure.add_axes((0.28, 0, 0.44, share))
    top = 1.0
    axes.set(xlim=(1, len(names)), ylim=(-depth, 2.5))
    axes.set_axis_off()
    axes.hlines(top, 1, len(names), color=style.INK, linewidth=1.5)
    for tick in range(1, len(names) + 1):
        axes.vlines(tick, top, top + 0.2, color=style.INK, linewidth=1.2)
        axes.text(tick, top + 0.3, str(tick), ha="center", va="bottom", fontsize=9)
    length = min(difference, len(names) - 1.0)
    axes.hlines(2.2, 1, 1 + length, color=style.RED, linewidth=2.5)
    axes.annotate(
        f"critical difference {difference:.2f}", (1 + length, 2.2), (6, 0), va="center",
        textcoords="offset points", fontsize=9, color=style.RED, annotation_clip=False,
    )  # fmt: skip
    for place, index in enumerate(order):
        on_left = place < left
        row = place if on_left else len(order) - 1 - place
        _label(axes, shorten(names[index], NAME_WIDTH), ranks[index], -(bars + row), on_left)
    for row, group in enumerate(groups):
        values = [ranks[index] for index in group]
        height = 0.5 - 0.8 * row
        axes.hlines(height, min(values) - 0.04, max(values) + 0.04, color=style.BLUE,
                    linewidth=5)  # fmt: skip
    return figure


def _label(axes: Axes, name: str, rank: float, row: float, on_left: bool) -> None:
    """Draw a line from the axis at `rank` down to `row`, and out to the name."""
    low, high = axes.get_xlim()
    edge = low if on_left else high
    axes.plot([rank, rank, edge], [1.0, row, row], color=style.MUTED, linewidth=1,
              clip_on=False)  # fmt: skip
    axes.annotate(
        f"{figure_text(name)}  {rank:.2f}", (edge, row), (-6 if on_left else 6, 0),
        textcoords="offset points", ha="right" if on_left else "left", va="center", fontsize=10,
        annotation_clip=False,
    )  # fmt: skip
