"""Which image has which prototype, where they lie, and how likely the images are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from vqlab.evaluation import FoundConcepts
from vqlab.plots import style
from vqlab.plots.curves import dressed, figure_text, hexed, new_figure

Array = NDArray[Any]
MOST_COLUMNS = 64
"""Prototypes at most in the usage matrix."""
MOST_SHOWN = 24
"""Prototypes at most that are numbered in the map and have a picture."""
_THUMBNAIL = 96
_SETS = {
    "training": style.BLUE,
    "held-out": style.LINES[4],
    "test normal": style.GREEN,
    "test defects": style.RED,
}


def usage_figure(concepts: FoundConcepts) -> Figure:
    """How many images of each category have each prototype; of one category: bars.

    Prototypes stand by their main category, then by how often they are used.
    """
    counts = concepts.counts
    used = _most_used(concepts, MOST_COLUMNS)
    if len(concepts.categories) == 1:
        return _usage_bars(concepts, used)
    used = _by_category(concepts, used)
    shares = counts[:, used] / counts.sum(1, keepdims=True)
    size = min(14.0, max(8.0, 2.2 + 0.34 * len(used))), 1.7 + 0.36 * len(counts)
    figure = new_figure(f"categories by prototype · {_told(concepts, used)}", *size)
    axes = dressed(figure.add_subplot())
    paper = LinearSegmentedColormap.from_list("share", [hexed(style.PAPER), hexed(style.BLUE)])
    axes.imshow(shares, cmap=paper, vmin=0, vmax=float(shares.max()), aspect="auto")
    axes.grid(visible=False)
    for row, column in np.argwhere(counts[:, used] > 0) if len(used) <= 32 else ():
        light = shares[row, column] > 0.6 * shares.max()
        axes.text(
            column, row, str(counts[row, used[column]]), ha="center", va="center", fontsize=8,
            color=hexed(style.PAPER if light else style.INK),
        )  # fmt: skip
    axes.hlines(np.arange(len(counts) - 1) + 0.5, -0.5, len(used) - 0.5, hexed(style.LINE), lw=0.5)
    axes.set_yticks(range(len(counts)), [_named(concepts, n) for n in range(len(counts))])
    axes.set_xticks(range(len(used)), [str(code) for code in used])
    axes.tick_params(axis="x", labelsize=8 if len(used) <= 32 else 6)
    axes.tick_params(axis="x", labelrotation=90 if max(used, default=0) > 99 else 0)
    axes.set_xlabel("prototype; colour: share of the category's images")
    return figure


def _usage_bars(concepts: FoundConcepts, used: list[int]) -> Figure:
    figure = new_figure(
        f"{concepts.categories[0]} by prototype · {_told(concepts, used)}", 6.4, 3.6
    )
    axes = dressed(figure.add_subplot())
    axes.bar(range(len(used)), concepts.counts[0, used], color=hexed(style.BLUE), alpha=0.75)
    axes.set_xticks(range(len(used)), [str(code) for code in used])
    axes.tick_params(axis="x", labelsize=8 if len(used) <= 32 else 6)
    axes.tick_params(axis="x", labelrotation=90 if max(used, default=0) > 99 else 0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="prototype, most used first", ylabel="images")
    axes.grid(visible=False, axis="x")
    return figure


def map_figure(concepts: FoundConcepts, picture: Callable[[int], Array]) -> Figure:
    """The images' vectors on their two main axes, the prototypes among them, and beside it, for
    the `MOST_SHOWN` most used ones, the nearest image of those that have it.

    picture: of the image at an index, (h, w, 3) uint8.
    """
    shown = _by_category(concepts, _most_used(concepts, MOST_SHOWN))
    across = min(4, max(1, int(np.ceil(np.sqrt(len(shown))))))
    down = int(np.ceil(len(shown) / across))
    side = 1.25 if across > 2 else 1.8
    figure = new_figure(
        f"prototypes and images · {_told(concepts)}",
        7.2 + side * across, max(5.4, 0.7 + (side + 0.25) * down),
    )  # fmt: skip
    grid = GridSpec(1, 2, figure, width_ratios=[7.2, side * across])
    _draw_map(dressed(figure.add_subplot(grid[0])), concepts, shown)
    figure.legend(
        loc="outside lower left", ncols=6, frameon=False, fontsize=8, handletextpad=0.2,
        columnspacing=1.2,
    )  # fmt: skip
    fields = grid[1].subgridspec(down, across, hspace=0.02, wspace=0.02)
    for place, code in enumerate(shown):
        axes = figure.add_subplot(fields[place // across, place % across])
        _draw_nearest(axes, concepts, code, picture)
    return figure


def _draw_map(axes: Axes, concepts: FoundConcepts, shown: Sequence[int]) -> None:
    mean, main, explained = _main_axes(concepts.vectors)
    points, codes = ((rows - mean) @ main for rows in (concepts.vectors, concepts.codebook))
    for number, colour in enumerate(_colours(len(concepts.categories))):
        own = points[concepts.of_category == number]
        axes.scatter(
            own[:, 0], own[:, 1], 16, color=hexed(colour), alpha=0.55, linewidths=0,
            label=_named(concepts, number),
        )  # fmt: skip
    used = concepts.counts.sum(0)
    live, dead = codes[used > 0], codes[used == 0]
    axes.scatter(
        live[:, 0], live[:, 1], 30, marker="D", color=hexed(style.INK), linewidths=0.6,
        edgecolors="white", label="prototype",
    )  # fmt: skip
    low, high = axes.get_xlim(), axes.get_ylim()
    if len(dead):
        axes.scatter(
            dead[:, 0], dead[:, 1], 26, marker="x", color=hexed(style.MUTED), linewidths=1,
            label="unused one",
        )  # fmt: skip
    axes.set(xlim=low, ylim=high)  # an unused prototype may lie anywhere
    axes.margins(0.08)
    _draw_numbers(axes, concepts, codes[list(shown)], shown)
    first, second = (f"{name} axis: {share:.0%} of the variance" for name, share in explained)
    axes.set(xlabel=first, ylabel=second)


def _draw_numbers(axes: Axes, concepts: FoundConcepts, codes: Array, shown: Sequence[int]) -> None:
    """The prototypes' numbers beside them (n, 2), none upon another."""
    low = np.array([axes.get_xlim()[0], axes.get_ylim()[0]])
    reach = np.array([np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())])
    places = _apart((codes - low) / reach, least=0.045) * reach + low
    colours = _colours(len(concepts.categories))
    for code, point, place in zip(shown, codes, places, strict=True):
        colour = hexed(colours[concepts.counts[:, code].argmax()])
        axes.annotate(
            str(code), point, place, fontsize=8, ha="center", va="center", fontweight="bold",
            color=hexed(style.INK), zorder=5, annotation_clip=True,
            bbox={"boxstyle": "round,pad=0.18", "fc": "white", "ec": colour, "lw": 0.8},
            arrowprops={"arrowstyle": "-", "color": hexed(style.MUTED), "lw": 0.7},
        )  # fmt: skip


def _draw_nearest(
    axes: Axes, concepts: FoundConcepts, code: int, picture: Callable[[int], Array]
) -> None:
    """The image nearest to a prototype of those that have it, framed in its category's colour."""
    own = np.flatnonzero(concepts.indices == code)
    far = np.square(concepts.vectors[own] - concepts.codebook[code]).sum(1)
    nearest = int(own[far.argmin()])
    category = int(concepts.of_category[nearest])
    colour = hexed(_colours(len(concepts.categories))[category])
    image = Image.fromarray(picture(nearest))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=3.0)
    axes.imshow(np.asarray(image))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2)
    told = f"{code} · {len(own)} image{'s' * (len(own) != 1)}"
    if len(concepts.categories) > 1:
        told += f"\n{figure_text(concepts.categories[category], 24)}"
    axes.set_title(told, fontsize=8, pad=3, color=hexed(style.INK), linespacing=1.1)


def likelihood_figure(
    scores: Mapping[str, Mapping[str, Array]], threshold: float, name: str = "image score"
) -> Figure:
    """Histograms of image scores by category and set, a row of heights for each set.

    scores: of a category, of each of `training`, `held-out`, `test normal` and `test defects`
    there is, the image scores (N,). Where defects reach far, the last bin holds what is beyond.
    """
    across = len(scores) if len(scores) < 3 else 2 if len(scores) == 4 else 3
    down = int(np.ceil(len(scores) / across))
    width = 6.4 if across == 1 else 4.4 * across
    figure = new_figure(
        f"how likely the images are · threshold {threshold:.4g}", width, 0.8 + 2.5 * down
    )
    for number, (category, by_set) in enumerate(scores.items()):
        axes = dressed(figure.add_subplot(down, across, number + 1))
        _draw_likelihood(axes, {n: by_set[n] for n in _SETS if len(by_set.get(n, ()))}, threshold)
        axes.set_title(figure_text(category), loc="left", fontsize=10, color=hexed(style.MUTED))
        axes.set_xlabel(f"{name}: higher is less likely")
    return figure


def _draw_likelihood(axes: Axes, by_set: Mapping[str, Array], threshold: float) -> None:
    normals = [values for name, values in by_set.items() if name != "test defects"]
    everything = np.concatenate([*by_set.values(), [threshold]])
    low, high = float(everything.min()), float(everything.max())
    usual = max(float(np.concatenate([*normals, [threshold]]).max()), threshold)
    cut = min(high, usual + 1.5 * (usual - low)) if usual > low else high
    edges = np.linspace(low, cut if cut > low else low + 1, 37)
    for row, (name, values) in enumerate(by_set.items()):
        heights, _ = np.histogram(np.minimum(values, edges[-1]), edges)
        tops = row - 0.86 * heights / heights.max()
        colour = hexed(_SETS[name])
        axes.stairs(tops, edges, baseline=row, fill=True, color=colour, alpha=0.45)
        axes.stairs(tops, edges, baseline=row, color=colour, linewidth=1)
        beyond = int(np.count_nonzero(values > edges[-1]))
        if beyond:
            axes.annotate(
                f"{beyond} beyond", (1.01, row - 0.3), xycoords=("axes fraction", "data"),
                fontsize=8, color=colour, annotation_clip=False,
            )  # fmt: skip
    axes.axvline(threshold, color=hexed(style.INK), linewidth=1.3, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(by_set)), [f"{n} ({len(v)})" for n, v in by_set.items()])
    axes.set_ylim(len(by_set) - 0.9, -1.15)
    axes.grid(visible=False, axis="y")


def _most_used(concepts: FoundConcepts, most: int) -> list[int]:
    """The prototypes that images have, most used first, at most `most`."""
    used = concepts.counts.sum(0)
    return [int(code) for code in np.argsort(-used, kind="stable")[:most] if used[code]]


def _by_category(concepts: FoundConcepts, codes: Sequence[int]) -> list[int]:
    """Prototypes by their main category, then by how many images have them."""
    counts = concepts.counts
    return sorted(codes, key=lambda code: (counts[:, code].argmax(), -counts[:, code].sum()))


def _told(concepts: FoundConcepts, shown: Sequence[int] = ()) -> str:
    """How many prototypes live, and what they tell of the category."""
    metrics = concepts.metrics()
    live = int(metrics["concept_live"])
    told = f"{live} of {len(concepts.codebook)} live"
    if 0 < len(shown) < live:
        told += f", the {len(shown)} most used"
    if "concept_information" in metrics:
        told += f" · they tell {metrics['concept_information']:.0%} of the category"
    return told


def _named(concepts: FoundConcepts, category: int) -> str:
    count = int(np.count_nonzero(concepts.of_category == category))
    return f"{figure_text(concepts.categories[category])} ({count})"


def _colours(count: int) -> list[style.Colour]:
    """One colour per category, the same for the same place in their order."""
    if count <= len(style.LINES):
        return list(style.LINES[:count])
    table = style.lookup("turbo")[np.linspace(16, 239, count).astype(int)]
    ordered = table[np.argsort(np.arange(count) * 0.618034 % 1, kind="stable")]
    red, green, blue = ordered.T.tolist()
    return list(zip(red, green, blue, strict=True))


def _main_axes(vectors: Array) -> tuple[Array, Array, list[tuple[str, float]]]:
    """Mean (D,), the two main axes (D, 2), their names and shares of the variance.

    Signs are fixed, so that the same vectors give the same map.
    """
    mean = vectors.mean(0)
    _, strengths, rows = np.linalg.svd(vectors - mean, full_matrices=False)
    main = np.zeros((vectors.shape[1], 2))
    main[:, : len(rows[:2])] = rows[:2].T
    main *= np.where(main[np.abs(main).argmax(0), [0, 1]] < 0, -1.0, 1.0)
    powers = np.concatenate([np.square(strengths), [0.0, 0.0]])
    shares = powers[:2] / max(float(powers.sum()), 1e-300)
    return mean, main, [("first", float(shares[0])), ("second", float(shares[1]))]


def _apart(points: Array, least: float) -> Array:
    """Points (n, 2) in the unit square, pushed until none is nearer to another than `least`, nor
    to its own old place than two thirds of it."""
    angles = np.arange(len(points)) * 2.399963  # the golden angle: no two pushed the same way
    places = points + 0.7 * least * np.stack([np.cos(angles), np.sin(angles)], 1)
    for _ in range(200):
        gap = places[:, None] - places[None]
        far = np.sqrt(np.square(gap).sum(2)) + np.eye(len(points))
        push = np.maximum(least - far, 0)
        own = places - points
        near = np.sqrt(np.square(own).sum(1, keepdims=True))
        places = places + 0.5 * (gap * (push / np.maximum(far, 1e-9))[:, :, None]).sum(1)
        places = places + own * np.maximum(0.67 * least - near, 0) / np.maximum(near, 1e-9)
        places = places.clip(0.02, 0.98)
    return places
