"""Figure of a drift test: wealth and image scores against parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqlab.plots import style
from vqlab.plots.curves import integer_ticks, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
MAX_POINTS = 4000
"""Number of scores that are drawn, evenly spaced, and of columns of the wealth."""
_HIGHEST = 300.0


def drift_figure(
    title: str,
    parts: Array,
    log_wealths: Mapping[str, Array],
    scores: Array,
    level: float,
    threshold: float,
    alarm: tuple[int, int] | None = None,
) -> Figure:
    """Return the wealth of a drift test (logarithmic) above the image scores.

    parts (N,): numbers of the parts; log_wealths: natural logarithms (N,) by stream; scores (N,).
    level: an alarm is raised at wealth 1 / level. alarm: the first part of the change and the part
    of the alarm.
    """
    figure = new_figure(f"{title} · drift", 7.2, 5.2)
    upper, lower = (style_axes(figure.add_subplot(2, 1, row)) for row in (1, 2))
    columns = np.array_split(np.arange(len(parts)), min(len(parts), MAX_POINTS))
    blue, red, ink = style.BLUE, style.RED, style.INK
    colours = [colour for colour in style.LINES if colour != red]
    for (name, log_wealth), colour in zip(log_wealths.items(), colours, strict=False):
        wealth = np.minimum(log_wealth / math.log(10), _HIGHEST)
        peaks = [column[np.argmax(wealth[column])] for column in columns]
        upper.plot(parts[peaks], wealth[peaks], color=colour, linewidth=1.6, label=name)
    label = f"alarm at {1 / level:.4g} (false with probability ≤ {level:g})"
    upper.axhline(-math.log10(level), color=red, linewidth=1.3, linestyle=(0, (4, 3)), label=label)
    upper.set(ylabel="wealth, power of 10")
    places = np.unique(np.linspace(0, len(parts) - 1, min(len(parts), MAX_POINTS)).astype(int))
    lower.scatter(parts[places], scores[places], 7, color=blue, linewidths=0, alpha=0.7)
    label = f"image threshold {threshold:.4g}"
    lower.axhline(threshold, color=ink, linewidth=1.3, linestyle=(0, (4, 3)), label=label)
    lower.set(xlabel="part", ylabel="image score")
    for axes in (upper, lower):
        if alarm is not None:
            since, at = alarm
            label = f"drift since about part {since}, alarm at part {at}"
            axes.axvspan(since, at, color=red, alpha=0.1, linewidth=0, label=label)
            axes.axvline(at, color=red, linewidth=1)
        integer_ticks(axes.xaxis)
        axes.legend(frameon=False, fontsize=8, loc="best")
    return figure
