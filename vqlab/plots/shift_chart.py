"""Chart of the errors of a model under capture shifts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vqlab.evaluation import AS_CAPTURED, ShiftTable
from vqlab.plots import style
from vqlab.plots.curves import new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FACE = {AS_CAPTURED: style.MUTED, "mild": style.AMBER, "strong": style.RED}


def shift_chart(table: ShiftTable, promised: float | None) -> Figure:
    """Return false rejects and escapes under every shift as two bar charts with counts.

    promised: target false-reject rate, drawn as a line.
    """
    figure = new_figure("Errors under capture shifts", 9.2, 0.27 * len(table.rows) + 1.5)
    left = style_axes(figure.add_subplot(1, 2, 1))
    right = style_axes(figure.add_subplot(1, 2, 2, sharey=left))
    rejects = [row.false_rejects for row in table.rows]
    escapes = [row.escapes for row in table.rows]
    _bars(left, table, rejects, table.normals, "rejected normal images")
    _bars(right, table, escapes, table.anomalies, "escaped anomalous images")
    if promised is not None:
        text = f"target: at most {promised:.3g}"
        left.axvline(promised, color=style.INK, linestyle=(0, (4, 3)), label=text)
        left.legend(frameon=False, fontsize=8.5, loc="lower right")
    titles = [
        row.title + (" · trained" if row.shift in table.trained else "") for row in table.rows
    ]
    left.set_yticks(range(len(titles)), titles, fontsize=9)
    left.invert_yaxis()
    right.tick_params(labelleft=False)
    return figure


def _bars(axes: Axes, table: ShiftTable, counts: list[int], total: int, title: str) -> None:
    rates = np.array(counts) / max(total, 1)
    colours = [_FACE[row.severity] for row in table.rows]
    axes.barh(range(len(counts)), rates, 0.72, color=colours)
    for place, (count, rate) in enumerate(zip(counts, rates, strict=True)):
        axes.text(rate + 0.01, place, str(count), va="center", fontsize=8.5, color=style.INK)
    axes.set_title(f"{title} (of {total})", fontsize=10, loc="left", color=style.INK)
    axes.set_xlim(0, max(0.1, float(rates.max(initial=0)) * 1.15))
    axes.set_xlabel("share")
