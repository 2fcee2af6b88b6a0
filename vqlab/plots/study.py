"""Figures of a study: how the best value came about, and which settings mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def study_history(
    title: str,
    metric: str,
    numbers: Sequence[int],
    values: Sequence[float],
    best: Sequence[float],
    recipes: Sequence[str],
) -> Figure:
    """The value of each complete trial by its number, and the best up to there.

    recipes: of each trial, which has the recipe's colour; empty names where there is but one.
    """
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    for recipe in dict.fromkeys(recipes):
        own = [place for place, name in enumerate(recipes) if name == recipe]
        label = f"trial of {recipe}" if recipe else "trial"
        axes.plot([numbers[i] for i in own], [values[i] for i in own], "o", label=label)
    axes.step(numbers, best, where="post", color="0.5", zorder=1, label="best so far")
    axes.set(title=title, xlabel="trial", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure


def importance_bars(evaluator: str, shares: Mapping[str, float]) -> Figure:
    """Shares in [0, 1] by setting, most important on top; `evaluator` says what they mean."""
    figure = _figure(7, 1.2 + 0.4 * len(shares))
    axes = figure.add_subplot()
    axes.barh(list(shares)[::-1], list(shares.values())[::-1])
    axes.set(title=f"importance of settings ({evaluator})", xlabel="share", xlim=(0, 1))
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
