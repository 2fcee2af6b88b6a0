"""Figures of a study: how its best trial came about, what trades against what, what held on test.

Every function gives None where its picture would say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from vqlab.plots import style
from vqlab.plots.curves import dressed, figure_text, hexed, new_figure

FAINT = "#a9b4c0"
WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
ON_REQUEST = "on request"
"""For what a trial was scored on test that did not win."""
_ODD = "constraint broken, or dead codebook"
_TOLD = 1
"""Points beside which there is room for their figures."""
_LEAST = 0.1
"""The least that the axes of validation and test span: small differences shall look small."""
_MANY = 8
"""Values from which far worse ones may be left off the scale."""


@dataclass(frozen=True)
class Goal:
    """One objective of a study."""

    name: str
    maximize: bool

    @property
    def label(self) -> str:
        """The name, and which way is better."""
        return f"{self.name} ({'higher' if self.maximize else 'lower'} is better)"


@dataclass(frozen=True)
class Trial:
    """One trial, as pictures show it."""

    number: int
    state: str
    """COMPLETE, PRUNED, FAIL, RUNNING or WAITING."""
    values: tuple[float, ...] = ()
    """One per goal, all finite; empty where the trial has none."""
    recipe: str = ""
    """Where the study compares several."""
    settings: Mapping[str, float | str] = field(default_factory=dict)
    """By their short names: numbers, and the words of choices."""
    curve: Mapping[int, float] = field(default_factory=dict)
    """What it reported, by epoch."""
    eligible: bool = True
    """False if it violates a constraint, has a dead codebook or is not clearly better than the
    recipe's own trial: best only for want of others."""


def history_figure(study: str, goals: Sequence[Goal], trials: Sequence[Trial]) -> Figure | None:
    """Each complete trial's value by its number, the best up to there, and what did not end."""
    if not any(trial.values for trial in trials):
        return None
    figure = new_figure(f"{study} · optimisation history", 8.4, 0.9 + 3.6 * len(goals))
    for place, goal in enumerate(goals):
        axes = dressed(figure.add_subplot(len(goals), 1, place + 1))
        _history(axes, goal, place, trials)
    _legend(figure, axes)
    return figure


def _history(axes: Axes, goal: Goal, place: int, trials: Sequence[Trial]) -> None:
    done = [trial for trial in trials if trial.values]
    span = limits([trial.values[place] for trial in done], goal)
    for recipe, colour in colours(trials).items():
        own = [t for t in done if t.recipe == recipe and t.eligible]
        points(axes, [(t.number, t.values[place]) for t in own], span, colour, recipe or "complete")
    odd = [(t.number, t.values[place]) for t in done if not t.eligible]
    points(axes, odd, span, FAINT, _ODD)
    lost = sum(not span[0] <= trial.values[place] <= span[1] for trial in done)
    if lost:
        axes.set_title(f"triangles: {lost} far worse, off the scale", loc="left", fontsize=9)
    _unfinished(axes, trials)
    _best_so_far(axes, goal, place, done, trials[-1].number)
    axes.set(xlabel="trial", ylabel=goal.label, ylim=span)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _unfinished(axes: Axes, trials: Sequence[Trial]) -> None:
    """Marks along the foot: which trials were pruned, which failed."""
    for state, mark, colour in (("PRUNED", "|", style.MUTED), ("FAIL", "x", style.RED)):
        numbers = [trial.number for trial in trials if trial.state == state]
        if numbers:
            axes.plot(
                numbers, [0.02] * len(numbers), mark, transform=axes.get_xaxis_transform(),
                color=hexed(colour), markersize=6, label=f"{WORDS[state]} ({len(numbers)})",
            )  # fmt: skip


def _best_so_far(axes: Axes, goal: Goal, place: int, done: Sequence[Trial], last: int) -> None:
    able = [trial for trial in done if trial.eligible] or list(done)
    better = max if goal.maximize else min
    values = [trial.values[place] for trial in able]
    steps = [better(values[: count + 1]) for count in range(len(values))]
    numbers = [trial.number for trial in able]
    axes.step(
        [*numbers, last], [*steps, steps[-1]], where="post", color=hexed(style.INK), linewidth=1.2,
        zorder=1, label="best so far",
    )  # fmt: skip
    winner = best(done, goal, place)
    assert winner is not None
    ring(axes, winner.number, winner.values[place])
    axes.set_title(
        f"best: trial {winner.number}, {winner.values[place]:.4g}",
        loc="right", fontsize=9, color=hexed(style.AMBER),
    )  # fmt: skip


def importances_figure(
    study: str, evaluator: str, meaning: str, groups: Mapping[str, Mapping[str, float]]
) -> Figure | None:
    """Shares in [0, 1] by setting, most important on top; a field per group, named by its key.

    evaluator and meaning stand in the heading: evaluators' shares mean different things.
    """
    groups = {name: shares for name, shares in groups.items() if shares}
    if not groups:
        return None
    rows = [len(shares) + 1.6 for shares in groups.values()]
    figure = new_figure(
        f"{study} · importance of settings ({evaluator})",
        8.4,
        0.9 + 0.3 * sum(rows),
    )
    grid = figure.add_gridspec(len(groups), 1, height_ratios=rows)
    most = max(share for shares in groups.values() for share in shares.values())
    for place, (name, shares) in enumerate(groups.items()):
        axes = dressed(figure.add_subplot(grid[place]))
        heights = list(range(len(shares)))[::-1]
        axes.barh(heights, list(shares.values()), 0.66, color=hexed(style.BLUE))
        axes.set_yticks(heights, [figure_text(setting, 60) for setting in shares])
        for height, share in zip(heights, shares.values(), strict=True):
            text = f"{share:.2f}"
            axes.text(share + 0.01 * most, height, text, va="center", fontsize=9)
        axes.set(xlim=(0, 1.08 * most), ylim=(-0.6, len(shares) - 0.4))
        axes.set_xticks([tick for tick in MaxNLocator(6).tick_values(0, most) if tick <= most])
        axes.grid(visible=False, axis="y")
        axes.set_title(name, loc="left", fontsize=9, color=hexed(style.MUTED))
    axes.set_xlabel(meaning)
    return figure


def curves_figure(study: str, goal: Goal, trials: Sequence[Trial]) -> Figure | None:
    """What trials reported by epoch; pruned ones broken off with a cross, the best one thick."""
    told = [trial for trial in trials if trial.curve]
    if not told:
        return None
    figure = new_figure(f"{study} · intermediate values", 8.4, 4.4)
    axes = dressed(figure.add_subplot())
    winner = best(told, goal, 0)
    strength = 0.75 if len(told) < 20 else 0.4
    seen: set[str] = set()
    for trial in told:
        colour = colours(trials)[trial.recipe]
        epochs, values = list(trial.curve), list(trial.curve.values())
        pruned = trial.state != "COMPLETE"
        label = f"{figure_text(trial.recipe)} {WORDS.get(trial.state, trial.state)}".strip()
        look: dict[str, Any] = {"color": colour, "linewidth": 1.1, "alpha": strength}
        if trial is winner:
            look = {"color": hexed(style.AMBER), "linewidth": 2.6, "zorder": 4}
            label = f"best: trial {trial.number}"
        elif pruned:
            look |= {"linestyle": (0, (3, 2))}
        label = "_" if label in seen else label
        seen.add(label)
        axes.plot(epochs, values, label=label, marker=None if len(epochs) > 1 else "o", **look)
        if pruned:
            axes.plot(epochs[-1], values[-1], "x", color=colour, markersize=6, zorder=5)
    axes.set(xlabel="epoch", ylabel=goal.label)
    axes.set_ylim(limits([value for trial in told for value in trial.curve.values()], goal))
    steps = sorted({epoch for trial in told for epoch in trial.curve})
    axes.xaxis.set_major_locator(
        FixedLocator(steps) if len(steps) < 12 else MaxNLocator(integer=True)
    )
    _legend(figure, axes)
    return figure


def pareto_figure(study: str, goals: Sequence[Goal], trials: Sequence[Trial]) -> Figure | None:
    """The first objective against each other one, the trials that none beats in all picked out."""
    done = [trial for trial in trials if trial.values]
    if len(goals) < 2 or not done:
        return None
    fields = len(goals) - 1
    figure = new_figure(f"{study} · Pareto front", 6.6 * fields if fields > 1 else 8.4, 5.2)
    for place in range(1, len(goals)):
        axes = dressed(figure.add_subplot(1, fields, place))
        _pareto(axes, goals, place, trials)
    _legend(figure, axes)
    return figure


def _pareto(axes: Axes, goals: Sequence[Goal], place: int, trials: Sequence[Trial]) -> None:
    done = [trial for trial in trials if trial.values]
    on_front = sorted(front(done, goals), key=lambda t: (t.values[place], t.values[0]))
    if len(goals) == 2:
        axes.plot(
            [t.values[1] for t in on_front], [t.values[0] for t in on_front],
            drawstyle="steps-pre" if goals[1].maximize else "steps-post", color=hexed(style.INK),
            linewidth=1.1, linestyle=(0, (4, 2)), zorder=1, label="no trial is better in all",
        )  # fmt: skip
    for recipe, colour in colours(trials).items():
        own = [t for t in done if t.recipe == recipe and t.eligible]
        beaten = [t for t in own if t not in on_front]
        for some, size, alpha, word in ((beaten, 22, 0.35, "beaten"), (own, 48, 1.0, "front")):
            kept = [t for t in some if (t in on_front) == (word == "front")]
            xy = np.array([(t.values[place], t.values[0]) for t in kept]).reshape(-1, 2)
            label = f"{figure_text(recipe)} {word}".strip() if len(kept) else None
            axes.scatter(
                xy[:, 0], xy[:, 1], size, color=colour, alpha=alpha, linewidths=0, label=label
            )
    odd = [t.values for t in done if not t.eligible]
    if odd:
        axes.scatter(
            [values[place] for values in odd], [values[0] for values in odd], 26, marker="x",
            color=FAINT, label=_ODD,
        )  # fmt: skip
    for trial in on_front[:: max(1, math.ceil(len(on_front) / 16))]:
        axes.annotate(
            str(trial.number), (trial.values[place], trial.values[0]), (5, 5),
            textcoords="offset points", fontsize=8, color=hexed(style.INK),
        )  # fmt: skip
    across = [t.values[place] for t in done]
    if min(across) > 0 and max(across) > 30 * min(across):
        axes.set_xscale("log")
    axes.set(xlabel=goals[place].label, ylabel=goals[0].label)
    axes.set_title("numbers are trials", loc="right", fontsize=9, color=hexed(style.MUTED))


def agreement_figure(
    study: str,
    pairs: Mapping[str, Sequence[tuple[int, float, float]]],
    why: Mapping[int, str] | None = None,
) -> Figure | None:
    """Validation value against test value, a field per metric; below the diagonal test is lower.

    pairs: by metric, (trial, validation value, test value) of every trial scored on test. why: for
    what each was; points of trials that were `on request` are hollow.
    """
    asked = {number for number, reason in (why or {}).items() if reason == ON_REQUEST}
    pairs = {name: [p for p in own if all(map(math.isfinite, p))] for name, own in pairs.items()}
    pairs = {name: own for name, own in pairs.items() if own}
    if not pairs:
        return None
    across = min(3, len(pairs))
    down = math.ceil(len(pairs) / across)
    figure = new_figure(f"{study} · validation and test", max(4.6, 3.6 * across), 0.4 + 3.5 * down)
    for place, (name, own) in enumerate(pairs.items()):
        axes = dressed(figure.add_subplot(down, across, place + 1))
        ends = [value for _, *both in own for value in both]
        low, high = _padded(ends, 0.12)
        room = max(0.0, _LEAST - (high - low)) / 2
        over = max(0.0, high + room - 1.005) if max(ends) <= 1 else 0.0  # shares end at 1
        low, high = low - room - over, high + room - over
        axes.plot([low, high], [low, high], color=hexed(style.MUTED), linewidth=1, zorder=1)
        for number, validation, test in own:
            inside = "none" if number in asked else hexed(style.BLUE)
            axes.plot(validation, test, "o", color=hexed(style.BLUE), mfc=inside, markersize=6)
            told = f": {validation:.3f} → {test:.3f}" if len(own) <= _TOLD else ""
            away = -1 if test < validation else 1  # from the diagonal
            axes.annotate(
                f"{number}{told}", (validation, test), (0, 7 * away), fontsize=8, ha="center",
                textcoords="offset points", va="bottom" if away > 0 else "top",
            )  # fmt: skip
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="validation", ylabel="test")
        axes.set_box_aspect(1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
        axes.set_title(name, loc="left", fontsize=10, color=hexed(style.INK))
        if asked and not place:
            words = f"hollow: {ON_REQUEST}"
            axes.set_title(words, loc="right", fontsize=9, color=hexed(style.MUTED))
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """What is what in `axes`, beneath the whole figure."""
    lines, words = axes.get_legend_handles_labels()
    figure.legend(
        lines, words, loc="outside lower left", ncols=min(len(words), 5), frameon=False, fontsize=8
    )


def best(trials: Sequence[Trial], goal: Goal, place: int) -> Trial | None:
    """The trial of best value, eligible ones before all others; the first of equals."""
    sign = -1 if goal.maximize else 1
    done = [trial for trial in trials if trial.values]
    return min(done, key=lambda t: (not t.eligible, sign * t.values[place]), default=None)


def front(trials: Sequence[Trial], goals: Sequence[Goal]) -> list[Trial]:
    """The eligible trials that no other eligible one beats: as good in all goals, better in one."""
    signs = np.array([-1.0 if goal.maximize else 1.0 for goal in goals])
    able = [trial for trial in trials if trial.values and trial.eligible]
    costs = np.array([t.values for t in able]).reshape(len(able), len(goals)) * signs
    beaten = [((costs <= own).all(1) & (costs < own).any(1)).any() for own in costs]
    return [trial for trial, is_beaten in zip(able, beaten, strict=True) if not is_beaten]


def colours(trials: Sequence[Trial]) -> dict[str, str]:
    """A colour for each recipe, in the order of their names."""
    names = sorted({trial.recipe for trial in trials})
    found = [style.BLUE, style.GREEN, *style.LINES[4:]]
    return {name: hexed(found[place % len(found)]) for place, name in enumerate(names)}


def limits(values: Sequence[float], goal: Goal) -> tuple[float, float]:
    """The range of an axis on which the better values can be told apart.

    Of many values, those far worse than the lower half are left outside.
    """
    sign = 1.0 if goal.maximize else -1.0
    goodness = sign * np.asarray(values, dtype=np.float64)
    floor, high = float(goodness.min()), float(goodness.max())
    if len(goodness) >= _MANY:
        quarter, middle = (float(q) for q in np.quantile(goodness, (0.25, 0.5)))
        fence = quarter - 3 * max(middle - quarter, (high - middle) / 2)
        floor = max(floor, fence) if high > middle else floor
    low, top = _padded([sign * floor, sign * high], 0.07)
    return low, top


def points(
    axes: Axes,
    xy: Sequence[tuple[float, float]],
    span: tuple[float, float],
    colour: str | Sequence[str],
    label: str | None = None,
) -> None:
    """Points of one colour or one each; those outside `span` as triangles at its edge."""
    if not xy:
        return
    x, y = np.array(xy, dtype=np.float64).T
    each = np.array([colour] * len(x) if isinstance(colour, str) else colour)
    low, high = span
    inside = (y >= low) & (y <= high)
    if inside.any():
        axes.scatter(x[inside], y[inside], 30, c=each[inside], linewidths=0, label=label)
    for beyond, mark, height in ((y < low, "v", 0.06), (y > high, "^", 0.94)):
        if beyond.any():
            axes.scatter(
                x[beyond], np.full(int(beyond.sum()), height), 30, marker=mark, c=each[beyond],
                linewidths=0, transform=axes.get_xaxis_transform(),
            )  # fmt: skip


def ring(axes: Axes, x: float, y: float) -> None:
    """Mark the best trial."""
    axes.scatter(
        [x], [y], 110, facecolors="none", edgecolors=hexed(style.AMBER), linewidths=2, zorder=5
    )


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = share * (high - low) or 0.05 * max(abs(high), 1e-9)
    return low - room, high + room
