"""Figures of a study's settings: slices and parallel coordinates, for each recipe its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from vqlab.plots import style
from vqlab.plots.curves import dressed, figure_text, hexed, new_figure
from vqlab.plots.trials import FAINT, Goal, Trial, best, colours, limits, points, ring

_ACROSS = 5
_SIZE = 2.5, 2.2
"""Width and height of a slice in inches, its margins included."""
_TALL = 3.8
"""Height in inches of a recipe's parallel coordinates, its margins included."""
_HALO = [withStroke(linewidth=3, foreground="white")]


@dataclass(frozen=True)
class Setting:
    """The values that one setting may have."""

    name: str
    """Its short name."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()
    """Their words, where it is no number."""
    found: bool = False
    """Searched within each trial, on what it had trained, rather than drawn for it."""

    @property
    def title(self) -> str:
        """The name, and that it was found where it was."""
        return f"{self.name}\n(found in each trial)" if self.found else self.name

    def place(self, value: float | str) -> float:
        """Where a value lies between the lowest (0) and the highest (1)."""
        if self.choices:
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        return float(self._between(float(value)))

    def _between(self, value: float) -> float:
        scale = math.log if self.log else float
        low, high = scale(self.low), scale(self.high)
        return (scale(value) - low) / (high - low) if high > low else 0.5

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places from 0 to 1 and what stands there: choices, or low, middle and high."""
        if self.choices:
            return [(self.place(choice), choice) for choice in self.choices]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if float(self.low).is_integer() and float(self.high).is_integer() and self.high > 3:
            middle = round(middle)
        values = sorted({self.low, float(f"{middle:.2g}"), self.high})
        return [(self.place(v), f"{v:g}" if float(v).is_integer() else f"{v:.3g}") for v in values]


def slices_figure(
    study: str,
    goals: Sequence[Goal],
    trials: Sequence[Trial],
    settings: Mapping[str, Sequence[Setting]],
) -> Figure | None:
    """Each objective over each setting, a block of fields per objective and recipe.

    settings: of each recipe, those that vary. Later trials are drawn stronger, the best is ringed,
    a line is the median of a choice.
    """
    blocks = []
    for place in range(len(goals)):
        for recipe, own in settings.items():
            done = [t for t in trials if t.values and t.recipe == recipe]
            if own and len(done) > 1:
                blocks.append((place, recipe, list(own), done))
    if not blocks:
        return None
    most = max(len(own) for _, _, own, _ in blocks)
    across = math.ceil(most / math.ceil(most / _ACROSS))
    rows = [math.ceil(len(own) / across) for _, _, own, _ in blocks]
    width = max(6.0, _SIZE[0] * across + 0.5)
    height = 0.55 + _SIZE[1] * sum(rows) + 0.3 * len(blocks)
    figure = new_figure(f"{study} · slices", width, height, arranged=False)
    top = height - 0.45
    for (place, recipe, own, done), count in zip(blocks, rows, strict=True):
        colour = colours(trials)[recipe]
        words = (figure_text(recipe), goals[place].label)
        heading = " · ".join(word for word in words if word)
        figure.text(
            0.25 / width, (top - 0.1) / height, heading, fontsize=10, va="center",
            color=colour, fontweight="bold",
        )  # fmt: skip
        top -= 0.3
        for index, setting in enumerate(own):
            left = 0.75 + _SIZE[0] * (index % across)
            bottom = top - _SIZE[1] * (index // across + 1) + 0.5
            box = (left, bottom, _SIZE[0] - 0.35, _SIZE[1] - 0.9)
            axes = figure.add_axes(
                (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
            )
            _slice(dressed(axes), setting, goals[place], place, done, colour)
            axes.tick_params(labelleft=index % across == 0)
        top -= _SIZE[1] * count
    return figure


def _slice(
    axes: Axes, setting: Setting, goal: Goal, place: int, done: Sequence[Trial], colour: str
) -> None:
    span = limits([t.values[place] for t in done], goal)
    own = [t for t in done if setting.name in t.settings]
    spread = 0.5 / len(setting.choices) if setting.choices else 0.0
    shifts = spread * ((0.618034 * np.arange(len(own))) % 1 - 0.5)  # equal choices side by side
    where = {
        t.number: setting.place(t.settings[setting.name]) + shift
        for t, shift in zip(own, shifts.tolist(), strict=True)
    }
    shades = [
        _lighter(colour if t.eligible else FAINT, 0.35 + 0.6 * (count + 1) / len(own))
        for count, t in enumerate(own)
    ]
    points(axes, [(where[t.number], t.values[place]) for t in own], span, shades)
    for choice in setting.choices:
        same = [t.values[place] for t in own if str(t.settings[setting.name]) == choice]
        if len(same) > 2:
            axes.hlines(
                float(np.median(same)), setting.place(choice) - spread / 2,
                setting.place(choice) + spread / 2, color=hexed(style.INK), linewidth=1.5,
            )  # fmt: skip
    winner = best(own, goal, place)
    if winner is not None:
        ring(axes, where[winner.number], winner.values[place])
    ticks = setting.ticks
    long = max(len(text) for _, text in ticks) > 9
    axes.set_xticks(
        [at for at, _ in ticks],
        [_lines(text, 12) for _, text in ticks],
        fontsize=6.5 if long else 8,
    )
    axes.set(xlim=(-0.06, 1.06), ylim=span)
    axes.set_title(setting.title, fontsize=8.5, color=hexed(style.INK), pad=4)


def parallel_figure(
    study: str,
    goals: Sequence[Goal],
    trials: Sequence[Trial],
    settings: Mapping[str, Sequence[Setting]],
) -> Figure | None:
    """Every complete trial as a line through its settings to its values, a field per recipe.

    The darker a line the better its first objective; the best one is thick.
    """
    groups = {}
    for recipe, own in settings.items():
        done = [t for t in trials if t.values and t.recipe == recipe]
        if own and len(done) > 1:
            groups[recipe] = done
    if not groups:
        return None
    across = max(len(settings[recipe]) for recipe in groups) + len(goals)
    width, height = max(7.0, 1.35 * across + 0.6), 0.45 + _TALL * len(groups)
    figure = new_figure(f"{study} · parallel coordinates", width, height, arranged=False)
    for place, (recipe, done) in enumerate(groups.items()):
        bottom = height - 0.45 - _TALL * (place + 1) + 0.2
        axes = figure.add_axes((0.02, bottom / height, 0.96, 2.8 / height))
        _parallel(axes, recipe, goals, done, list(settings[recipe]))
    return figure


def _parallel(
    axes: Axes, recipe: str, goals: Sequence[Goal], done: Sequence[Trial], own: list[Setting]
) -> None:
    spans = [limits([t.values[i] for t in done], goal) for i, goal in enumerate(goals)]
    first, winner = goals[0], best(done, goals[0], 0)
    order = sorted(done, key=lambda t: t.values[0], reverse=not first.maximize)
    paint = matplotlib.colormaps["Blues"]
    for trial in order:
        heights = [
            setting.place(trial.settings[setting.name])
            if setting.name in trial.settings
            else np.nan
            for setting in own
        ]
        for value, (low, high) in zip(trial.values, spans, strict=True):
            heights.append(min(1.0, max(0.0, (value - low) / (high - low))))
        good = heights[len(own)] if first.maximize else 1 - heights[len(own)]
        look: dict[str, Any] = {"color": paint(0.2 + 0.75 * good), "linewidth": 1.3, "alpha": 0.85}
        if trial is winner:
            look = {"color": hexed(style.AMBER), "linewidth": 2.8, "zorder": 4}
        axes.plot(range(len(heights)), heights, **look)
    for at, setting in enumerate(own):
        _upright(axes, at, setting.title, setting.ticks)
    for at, (goal, (low, high)) in enumerate(zip(goals, spans, strict=True), len(own)):
        ticks = [(f, f"{low + f * (high - low):.4g}") for f in (0.0, 0.5, 1.0)]
        _upright(axes, at, goal.name, ticks)
    axes.set(xlim=(-0.5, len(own) + len(goals) - 0.45), ylim=(-0.04, 1.04))
    axes.axis("off")
    assert winner is not None
    darker = "higher" if first.maximize else "lower"
    prefix = f"{figure_text(recipe)}: " if recipe else ""
    heading = f"{len(done)} complete trials; darker is {darker} {first.name}; "
    axes.set_title(
        f"{prefix}{heading}orange is the best, trial {winner.number}",
        loc="left", fontsize=9, color=hexed(style.MUTED), y=1.21,
    )  # fmt: skip


def _upright(axes: Axes, at: int, title: str, ticks: Sequence[tuple[float, str]]) -> None:
    """One axis of parallel coordinates: a line, its name above, what stands where beside it."""
    axes.vlines(at, 0, 1, color=hexed(style.INK), linewidth=1, zorder=3)
    axes.text(
        at, 1.05, _lines(title, 15), ha="center", va="bottom", fontsize=8, color=hexed(style.INK)
    )
    for height, text in ticks:
        axes.text(
            at + 0.04, height, _lines(text, 15), va="center", fontsize=7, zorder=6,
            color=hexed(style.INK), path_effects=_HALO, linespacing=0.95,
        )  # fmt: skip


def _lines(text: str, length: int) -> str:
    """`text` on lines of at most about `length` letters, broken after `_`, `+`, `.`, `/`, ` `."""
    lines = [""]
    text = "\n".join(figure_text(line, 80) for line in text.split("\n"))
    for part in re.findall(r"\n|[^_+./ \n]*[_+./ ]?", text):
        if part == "\n" or (lines[-1] and len(lines[-1]) + len(part) > length):
            lines.append("")
        lines[-1] += part.strip("\n")
    return "\n".join(line.strip() for line in lines)


def _lighter(colour: str, strength: float) -> str:
    """`colour` mixed with white; strength 1 leaves it as it is."""
    mixed = 1 - strength * (1 - np.array(matplotlib.colors.to_rgb(colour)))
    return to_hex(tuple(mixed))
