"""Figures of concepts: use of prototypes, map of images and prototypes, likelihoods of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqlab.evaluation import Concepts
from vqlab.plots import style
from vqlab.plots.curves import figure_text, integer_ticks, new_figure, style_axes

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
MAX_COLUMNS = 64
"""Maximum number of prototypes in the usage matrix."""
MAX_NUMBERED = 24
"""Maximum number of prototypes that are numbered in the map and have an image."""
_THUMBNAIL = 96
_SETS = {
    "training": style.BLUE,
    "held-out": style.LINES[4],
    "test normal": style.GREEN,
    "test defects": style.RED,
}


def usage_figure(concepts: Concepts) -> Figure:
    """Return the number of images per category and prototype, as a matrix; bars for one category.

    Prototypes are sorted by their main category, then by use.
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts = concepts.counts
    used = _most_used(concepts, MAX_COLUMNS)
    if len(concepts.categories) == 1:
        return _usage_bars(concepts, used)
    used = _by_category(concepts, used)
    shares = counts[:, used] / counts.sum(1, keepdims=True)
    size = min(14.0, max(8.0, 2.2 + 0.34 * len(used))), 1.7 + 0.36 * len(counts)
    figure = new_figure(f"categories by prototype · {_summary(concepts, used)}", *size)
    axes = style_axes(figure.add_subplot())
    paper = LinearSegmentedColormap.from_list("share", [style.PAPER, style.BLUE])
    axes.imshow(shares, cmap=paper, vmin=0, vmax=float(shares.max()), aspect="auto")
    axes.grid(visible=False)
    for row, column in np.argwhere(counts[:, used] > 0) if len(used) <= 32 else ():
        light = shares[row, column] > 0.6 * shares.max()
        axes.text(
            column, row, str(counts[row, used[column]]), ha="center", va="center", fontsize=8,
            color=style.PAPER if light else style.INK,
        )  # fmt: skip
    axes.hlines(np.arange(len(counts) - 1) + 0.5, -0.5, len(used) - 0.5, style.LINE, lw=0.5)
    axes.set_yticks(range(len(counts)), [_label(concepts, n) for n in range(len(counts))])
    _number_prototypes(axes, used)
    axes.set_xlabel("prototype; colour: share of the category's images")
    return figure


def _usage_bars(concepts: Concepts, used: list[int]) -> Figure:
    heading = f"{concepts.categories[0]} by prototype · {_summary(concepts, used)}"
    figure = new_figure(heading, 6.4, 3.6)
    axes = style_axes(figure.add_subplot())
    axes.bar(range(len(used)), concepts.counts[0, used], color=style.BLUE, alpha=0.75)
    _number_prototypes(axes, used)
    integer_ticks(axes.yaxis)
    axes.set(xlabel="prototype, most used first", ylabel="images")
    axes.grid(visible=False, axis="x")
    return figure


def _number_prototypes(axes: Axes, used: list[int]) -> None:
    """Label the x axis with the numbers of the prototypes."""
    axes.set_xticks(range(len(used)), [str(code) for code in used])
    axes.tick_params(axis="x", labelsize=8 if len(used) <= 32 else 6)
    axes.tick_params(axis="x", labelrotation=90 if max(used, default=0) > 99 else 0)


def map_figure(concepts: Concepts, image: Callable[[int], Array]) -> Figure:
    """Return images and prototypes on the first two principal axes, and for the `MAX_NUMBERED` most
    used prototypes the nearest image that has it.

    image: returns the image at an index, (h, w, 3) uint8.
    """
    codes = _by_category(concepts, _most_used(concepts, MAX_NUMBERED))
    across = min(4, max(1, int(np.ceil(np.sqrt(len(codes))))))
    down = int(np.ceil(len(codes) / across))
    side = 1.25 if across > 2 else 1.8
    figure = new_figure(
        f"prototypes and images · {_summary(concepts)}",
        7.2 + side * across, max(5.4, 0.7 + (side + 0.25) * down),
    )  # fmt: skip
    grid = figure.add_gridspec(1, 2, width_ratios=[7.2, side * across])
    _draw_map(style_axes(figure.add_subplot(grid[0])), concepts, codes)
    figure.legend(
        loc="outside lower left", ncols=6, frameon=False, fontsize=8, handletextpad=0.2,
        columnspacing=1.2,
    )  # fmt: skip
    grid_images = grid[1].subgridspec(down, across, hspace=0.02, wspace=0.02)
    for number, code in enumerate(codes):
        axes = figure.add_subplot(grid_images[number // across, number % across])
        _draw_nearest(axes, concepts, code, image)
    return figure


def _draw_map(axes: Axes, concepts: Concepts, prototypes: Sequence[int]) -> None:
    mean, axes_matrix, explained = _principal_axes(concepts.vectors)
    points, codes = ((rows - mean) @ axes_matrix for rows in (concepts.vectors, concepts.codebook))
    for number, colour in enumerate(_colours(len(concepts.categories))):
        members = points[concepts.of_category == number]
        axes.scatter(
            members[:, 0], members[:, 1], 16, color=colour, alpha=0.55, linewidths=0,
            label=_label(concepts, number),
        )  # fmt: skip
    used = concepts.counts.sum(0)
    live, dead = codes[used > 0], codes[used == 0]
    axes.scatter(
        live[:, 0], live[:, 1], 30, marker="D", color=style.INK, linewidths=0.6,
        edgecolors="white", label="prototype",
    )  # fmt: skip
    low, high = axes.get_xlim(), axes.get_ylim()
    if len(dead):
        axes.scatter(
            dead[:, 0], dead[:, 1], 26, marker="x", color=style.MUTED, linewidths=1,
            label="unused",
        )  # fmt: skip
    axes.set(xlim=low, ylim=high)  # unused prototypes may be far away
    axes.margins(0.08)
    _draw_numbers(axes, concepts, codes[list(prototypes)], prototypes)
    first, second = (f"{name} axis: {share:.0%} of the variance" for name, share in explained)
    axes.set(xlabel=first, ylabel=second)


def _draw_numbers(axes: Axes, concepts: Concepts, points: Array, prototypes: Sequence[int]) -> None:
    """Draw the prototypes' numbers next to their points (n, 2) without overlaps."""
    low = np.array([axes.get_xlim()[0], axes.get_ylim()[0]])
    reach = np.array([np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())])
    positions = _spread((points - low) / reach, gap=0.045) * reach + low
    colours = _colours(len(concepts.categories))
    for code, point, position in zip(prototypes, points, positions, strict=True):
        colour = colours[concepts.counts[:, code].argmax()]
        axes.annotate(
            str(code), point, position, fontsize=8, ha="center", va="center", fontweight="bold",
            color=style.INK, zorder=5, annotation_clip=True,
            bbox={"boxstyle": "round,pad=0.18", "fc": "white", "ec": colour, "lw": 0.8},
            arrowprops={"arrowstyle": "-", "color": style.MUTED, "lw": 0.7},
        )  # fmt: skip


def _draw_nearest(axes: Axes, concepts: Concepts, code: int, image: Callable[[int], Array]) -> None:
    """Draw the nearest image that has a prototype, framed in its category's colour."""
    members = np.flatnonzero(concepts.indices == code)
    distances = np.square(concepts.vectors[members] - concepts.codebook[code]).sum(1)
    nearest = int(members[distances.argmin()])
    category = int(concepts.of_category[nearest])
    colour = _colours(len(concepts.categories))[category]
    thumbnail = Image.fromarray(image(nearest))
    thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=3.0)
    axes.imshow(np.asarray(thumbnail))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2)
    title = f"{code} · {len(members)} image{'s' * (len(members) != 1)}"
    if len(concepts.categories) > 1:
        title += f"\n{figure_text(concepts.categories[category], 24)}"
    axes.set_title(title, fontsize=8, pad=3, color=style.INK, linespacing=1.1)


def likelihood_figure(scores: Mapping[str, Mapping[str, Array]], threshold: float) -> Figure:
    """Return histograms of image scores by category and set.

    scores: image scores (N,) by category and set (`training`, `held-out`, `test normal`,
    `test defects`; each optional). The last bin contains all higher scores.
    """
    across = len(scores) if len(scores) < 3 else 2 if len(scores) == 4 else 3
    down = int(np.ceil(len(scores) / across))
    width = 6.4 if across == 1 else 4.4 * across
    heading = f"likelihood of the images · threshold {threshold:.4g}"
    figure = new_figure(heading, width, 0.8 + 2.5 * down)
    for number, (category, by_set) in enumerate(scores.items()):
        axes = style_axes(figure.add_subplot(down, across, number + 1))
        _draw_likelihood(axes, {n: by_set[n] for n in _SETS if len(by_set.get(n, ()))}, threshold)
        axes.set_title(figure_text(category), loc="left", fontsize=10, color=style.MUTED)
        axes.set_xlabel("image score: higher is less likely")
    return figure


def _draw_likelihood(axes: Axes, by_set: Mapping[str, Array], threshold: float) -> None:
    normal = [values for name, values in by_set.items() if name != "test defects"]
    everything = np.concatenate([*by_set.values(), [threshold]])
    low, high = float(everything.min()), float(everything.max())
    usual = max(float(np.concatenate([*normal, [threshold]]).max()), threshold)
    cut = min(high, usual + 1.5 * (usual - low)) if usual > low else high
    edges = np.linspace(low, cut if cut > low else low + 1, 37)
    for row, (name, values) in enumerate(by_set.items()):
        heights, _ = np.histogram(np.minimum(values, edges[-1]), edges)
        tops = row - 0.86 * heights / heights.max()
        colour = _SETS[name]
        axes.stairs(tops, edges, baseline=row, fill=True, color=colour, alpha=0.45)
        axes.stairs(tops, edges, baseline=row, color=colour, linewidth=1)
        above = int(np.count_nonzero(values > edges[-1]))
        if above:
            axes.annotate(
                f"{above} above", (1.01, row - 0.3), xycoords=("axes fraction", "data"),
                fontsize=8, color=colour, annotation_clip=False,
            )  # fmt: skip
    axes.axvline(threshold, color=style.INK, linewidth=1.3, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(by_set)), [f"{n} ({len(v)})" for n, v in by_set.items()])
    axes.set_ylim(len(by_set) - 0.9, -1.15)
    axes.grid(visible=False, axis="y")


def _most_used(concepts: Concepts, count: int) -> list[int]:
    """Return the used prototypes, most used first, at most `limit`."""
    used = concepts.counts.sum(0)
    return [int(code) for code in np.argsort(-used, kind="stable")[:count] if used[code]]


def _by_category(concepts: Concepts, codes: Sequence[int]) -> list[int]:
    """Sort prototypes by their main category, then by use."""
    counts = concepts.counts
    return sorted(codes, key=lambda code: (counts[:, code].argmax(), -counts[:, code].sum()))


def _summary(concepts: Concepts, prototypes: Sequence[int] = ()) -> str:
    """Return the number of live prototypes and their information about the category."""
    metrics = concepts.metrics()
    live = int(metrics["concept_live"])
    text = f"{live} of {len(concepts.codebook)} live"
    if 0 < len(prototypes) < live:
        text += f", the {len(prototypes)} most used"
    if "concept_information" in metrics:
        text += f" · {metrics['concept_information']:.0%} of the category's entropy"
    return text


def _label(concepts: Concepts, category: int) -> str:
    count = int(np.count_nonzero(concepts.of_category == category))
    return f"{figure_text(concepts.categories[category])} ({count})"


def _colours(count: int) -> list[str]:
    """Return one colour per category, in order."""
    if count <= len(style.LINES):
        return list(style.LINES[:count])
    table = style.lookup("turbo")[np.linspace(16, 239, count).astype(int)]
    ordered = table[np.argsort(np.arange(count) * 0.618034 % 1, kind="stable")]
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in ordered.tolist()]


def _principal_axes(vectors: Array) -> tuple[Array, Array, list[tuple[str, float]]]:
    """Return mean (D,), first two principal axes (D, 2), and their names and shares of variance.

    Signs are fixed, so that equal vectors give equal maps.
    """
    mean = vectors.mean(0)
    _, singular_values, rows = np.linalg.svd(vectors - mean, full_matrices=False)
    principal = np.zeros((vectors.shape[1], 2))
    principal[:, : len(rows[:2])] = rows[:2].T
    principal *= np.where(principal[np.abs(principal).argmax(0), [0, 1]] < 0, -1.0, 1.0)
    powers = np.concatenate([np.square(singular_values), [0.0, 0.0]])
    shares = powers[:2] / max(float(powers.sum()), 1e-300)
    return mean, principal, [("first", float(shares[0])), ("second", float(shares[1]))]


def _spread(points: Array, gap: float) -> Array:
    """Move points (n, 2) in the unit square until they are at least `gap` from each other and two
    thirds of it from their original positions."""
    angles = np.arange(len(points)) * 2.399963  # golden angle: all directions differ
    positions = points + 0.7 * gap * np.stack([np.cos(angles), np.sin(angles)], 1)
    for _ in range(200):
        difference = positions[:, None] - positions[None]
        distance = np.linalg.norm(difference, axis=2) + np.eye(len(points))
        push = np.maximum(gap - distance, 0) / np.maximum(distance, 1e-9)
        offset = positions - points
        length = np.linalg.norm(offset, axis=1, keepdims=True)
        pull = np.maximum(0.67 * gap - length, 0) / np.maximum(length, 1e-9)
        positions = positions + 0.5 * (difference * push[:, :, None]).sum(1) + offset * pull
        positions = positions.clip(0.02, 0.98)
    return positions
