"""Matplotlib figures of scores, curves and training metrics, without pyplot's global state."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqlab.fonts import drawable, families
from vqlab.metrics import FPR_LIMIT, Count, Curve, rate_interval
from vqlab.plots import style
from vqlab.text import shorten

if TYPE_CHECKING:  # matplotlib and scipy are slow to import
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Array = NDArray[Any]
Curves = Mapping[str, Curve]
Metrics = Mapping[str, float]
_HEADING_COLUMNS = 10
"""Characters of a heading per inch."""
NAME_WIDTH = 32
"""Maximum characters of a category or defect type."""
_LABELS = {"image": "images", "pixel": "pixels"}


def score_histogram(
    title: str, scores: Array, labels: Array, threshold: float, review: float | None = None
) -> Figure:
    """Return a histogram of image scores (N,) by label (0 normal, 1 anomalous).

    review: review threshold; None without review.
    """
    figure, (axes,) = _figure(title, "image scores")
    least = threshold if review is None else review
    low, high = float(min(scores.min(), least)), float(max(scores.max(), threshold))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 41).tolist()
    for label, name, colour in ((0, "normal", style.BLUE), (1, "anomalous", style.RED)):
        values = scores[labels == label]
        if len(values):
            axes.hist(
                values, edges, label=f"{name} ({len(values)})", color=colour, alpha=0.55,
                edgecolor=colour, linewidth=0.6,
            )  # fmt: skip
    rejected, rates = scores > threshold, []
    passed = scores <= least
    wrong = {"false rejects": rejected[labels == 0], "escapes": passed[labels == 1]}
    if review is not None:
        wrong["in review"] = ~rejected & ~passed
    for name, verdicts in wrong.items():
        if len(verdicts):
            count = Count(int(verdicts.sum()), len(verdicts))
            rates.append(f"{name} {count} ({rate_interval([count]).text()})")
    separator = ": " if review is None else "\n"
    _draw_threshold(axes, threshold, review, separator + ", ".join(rates))
    axes.set(xlabel="image score", ylabel="images")
    integer_ticks(axes.yaxis)
    axes.legend(frameon=False, loc="upper right")  # the search for the best place can be slow
    return figure


def _draw_threshold(
    axes: Axes, threshold: float, review: float | None = None, text: str = ""
) -> None:
    """Draw a line at each threshold, and write their values with `text` above the axes."""
    axes.axvline(threshold, color=style.INK, linewidth=1.5, linestyle=(0, (4, 3)))
    title = f"threshold {threshold:.4g}"
    if review is not None:
        axes.axvline(review, color=style.AMBER, linewidth=1.5, linestyle=(0, (2, 2)))
        title += f", review above {review:.4g}"
    title += text
    axes.set_title(title, loc="right", fontsize=9, color=style.MUTED)


def score_by_defect(
    title: str,
    scores: Array,
    labels: Array,
    kinds: Sequence[str],
    threshold: float,
    review: float | None = None,
) -> Figure:
    """Return image scores (N,) as points by defect type: normal first, then by median score.

    labels (N,): 0 normal, 1 anomalous; kinds: each image's defect type. Boxes (for at least four
    points) span the quartiles, lines the range. On the right: the number of misclassified images
    with the 95 % interval of their share. review: review threshold; images above it, and not above
    the threshold, are neither escaped nor rejected.
    """
    groups: dict[tuple[int, str], list[float]] = defaultdict(list)
    for label, kind, score in zip(labels.tolist(), kinds, scores.tolist(), strict=True):
        groups[label, kind].append(score)
    order = sorted(groups, key=lambda key: (key[0], float(np.median(groups[key])), key[1]))
    figure, (axes,) = _figure(title, "image scores by type", height=1.7 + 0.36 * len(order))
    for row, (label, _) in enumerate(order):
        bound = review if label and review is not None else threshold
        _draw_group(axes, row, np.sort(groups[order[row]]), label, bound)
    _draw_threshold(axes, threshold, review)
    names = [figure_text(kind.replace("_", " ")) for _, kind in order]
    axes.set_yticks(range(len(order)), names)
    axes.set(xlabel="image score", ylim=(len(order) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    if threshold > 0 and scores.min() > 0 and scores.max() > 30 * threshold:
        axes.set_xscale("log")
    return figure


def _draw_group(axes: Axes, row: int, values: Array, label: int, threshold: float) -> None:
    """Draw one row of `score_by_defect`: box, points and number of misclassified images, which are
    anomalous up to the threshold, or normal above it."""
    colour = style.RED if label else style.BLUE
    if len(values) >= 4:
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        axes.hlines(row, values[0], values[-1], color=colour, linewidth=1, alpha=0.6)
        axes.barh(row, high - low, 0.56, low, color=colour, alpha=0.18, edgecolor=colour)
        axes.vlines(middle, row - 0.28, row + 0.28, color=colour, linewidth=2)
    wrong = values <= threshold if label else values > threshold
    offsets = row + 0.36 * ((np.arange(len(values)) * 0.618034) % 1 - 0.5)
    for subset, dot in ((~wrong, style.MUTED), (wrong, style.RED if label else style.AMBER)):
        axes.scatter(values[subset], offsets[subset], 13, color=dot, linewidths=0, zorder=3)
    count = int(np.count_nonzero(wrong))
    interval = rate_interval([Count(count, len(values))]).text()
    axes.annotate(
        f"{count} of {len(values)} {'escaped' if label else 'rejected'}\n({interval})",
        (1.015, row), xycoords=("axes fraction", "data"), va="center", fontsize=9,
        color=(style.RED if label else style.AMBER) if count else style.MUTED,
        annotation_clip=False,
    )  # fmt: skip


def roc_figure(title: str, curves: Curves, metrics: Metrics) -> Figure:
    """Return the ROC curves `image_roc` and `pixel_roc`, if present."""
    figure, (axes,) = _figure(title, "ROC", square=True)
    axes.plot([0, 1], [0, 1], color=style.LINE, linewidth=1)
    _draw(axes, curves, "roc", {k: metrics.get(f"{k}_auroc") for k in _LABELS}, "AUROC")
    axes.set(xlabel="false-positive rate", ylabel="true-positive rate")
    return figure


def precision_recall_figure(title: str, curves: Curves, metrics: Metrics) -> Figure:
    """Return the precision-recall curves of images and pixels, if present."""
    figure, (axes,) = _figure(title, "precision and recall", square=True)
    averages = {k: metrics.get(f"{k}_ap") for k in _LABELS}
    _draw(axes, curves, "precision_recall", averages, "AP")
    axes.set(xlabel="recall", ylabel="precision")
    return figure


def pro_figure(title: str, curves: Curves, metrics: Metrics) -> Figure:
    """Return the per-region overlap up to the false-positive rate limit of AUPRO."""
    figure, (axes,) = _figure(title, "per-region overlap", square=True)
    curve = curves["pro"]
    axes.fill_between(curve.x, curve.y, color=style.BLUE, alpha=0.12, linewidth=0)
    label = f"AUPRO {metrics['aupro']:.3f}"
    axes.plot(curve.x, curve.y, color=style.BLUE, label=label, linewidth=2)
    axes.set(
        xlabel="false-positive rate (pixels)", ylabel="mean overlap per region",
        xlim=(0, FPR_LIMIT), ylim=(0, 1.02),
    )  # fmt: skip
    axes.legend(frameon=False, loc="lower right")
    return figure


def loss_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Return metrics per epoch, one plot per group: `train/loss` and `train/commitment` share one.

    history: metrics by name for every epoch from 1; names may be missing in some epochs. The axis
    is logarithmic if all values are positive and span more than a factor of 20.
    """
    names = dict.fromkeys(name for metrics in history for name in metrics)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_group(name), []).append(name)
    figure, fields = _figure("training", f"{len(history)} epochs", fields=max(1, len(groups)))
    for axes, (group, members) in zip(fields, groups.items(), strict=False):
        values: list[float] = []
        for name in members:
            points = [(e, m[name]) for e, m in enumerate(history, 1) if name in m]
            points = [(e, value) for e, value in points if math.isfinite(value)]
            marker = "o" if len(points) < 12 else None
            label = name.partition("/")[2] or name
            xy = np.array(points).reshape(-1, 2)
            axes.plot(xy[:, 0], xy[:, 1], label=label, marker=marker, markersize=3.5, linewidth=1.6)
            values += [value for _, value in points]
        if values and min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
        axes.set_title(group, loc="left", fontsize=10, color=style.MUTED)
        axes.set_xlabel("epoch")
        integer_ticks(axes.xaxis)
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def codebook_usage(counts: ArrayLike, title: str = "codebook", complete: bool = True) -> Figure:
    """Return the usage of K codes, most used first, compared with uniform use.

    counts (K,): number of uses per code. The heading states the perplexity and the number of unused
    codes; with `complete=False`, `counts` may lack unused codes, and it states the used ones.
    """
    from scipy.special import entr

    uses = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    share = uses / max(uses.sum(), 1.0)
    alive = np.count_nonzero(uses)
    perplexity = float(np.exp(entr(share).sum())) if alive else 0.0
    usage = f" of {len(uses)}, {len(uses) - alive} unused" if complete else f", {alive} codes used"
    figure, (axes,) = _figure(title, f"perplexity {perplexity:.1f}{usage}")
    axes.fill_between(np.arange(len(uses)), share, step="mid", color=style.BLUE, alpha=0.6)
    axes.axhline(1 / len(uses), color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(
        len(uses) - 1, 1 / len(uses), "uniform use", ha="right", va="bottom", fontsize=8,
        color=style.MUTED,
    )  # fmt: skip
    axes.set(xlabel="codes, most used first", ylabel="share of all", xlim=(-0.5, len(uses) - 0.5))
    axes.set_ylim(0, None)
    return figure


def save_figure(figure: Figure, path: Path | BinaryIO) -> None:
    """Write a figure as PNG; equal figures give equal bytes."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        names = families(text.get_text())
        if len(names) > 1:
            text.set_fontfamily(names)
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw(
    axes: Axes, curves: Curves, kind: str, areas: Mapping[str, float | None], name: str
) -> None:
    for level, colour in (("image", style.BLUE), ("pixel", style.AMBER)):
        curve = curves.get(f"{level}_{kind}")
        if curve is not None:
            label = f"{_LABELS[level]}: {name} {areas[level]:.3f}"
            axes.plot(curve.x, curve.y, color=colour, label=label, linewidth=2)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.legend(frameon=False, loc="lower right" if kind == "roc" else "lower left")


def _figure(
    title: str, subtitle: str, fields: int = 1, square: bool = False, height: float = 4.0
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a heading and `fields` axes side by side; height in inches."""
    width = 5.0 if square else 6.4 if fields == 1 else 4.4 * fields
    figure = new_figure(f"{title} · {subtitle}", width, 4.8 if square else height)
    return figure, [style_axes(figure.add_subplot(1, fields, n + 1)) for n in range(fields)]


def new_figure(heading: str, width: float, height: float) -> Figure:
    """Return an empty figure with a heading; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    text = figure_text(heading, int(_HEADING_COLUMNS * width))
    figure.suptitle(text, x=0.02, ha="left", size=12, color=style.INK, weight="bold")
    return figure


def integer_ticks(axis: Axis) -> None:
    """Place ticks at integers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def figure_text(text: str, width: int = NAME_WIDTH) -> str:
    """Return a text for matplotlib: shortened, with drawable characters, without math mode."""
    text = shorten(drawable(text), width).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # legends omit labels that start with _


def style_axes(axes: Axes) -> Axes:
    """Apply grid, colours and frame to axes; return them."""
    axes.grid(color=style.LINE, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)
    axes.set_prop_cycle(color=style.LINES)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(style.LINE)
    axes.tick_params(color=style.LINE, labelcolor=style.INK, labelsize=9)
    axes.xaxis.label.set_color(style.MUTED)
    axes.yaxis.label.set_color(style.MUTED)
    return axes


def _group(name: str) -> str:
    if name in ("train/gradient_norm", "train/clipped"):  # of another scale than losses
        return "gradient"
    if name.startswith(("train/unseen_", "train/seen_")):  # comparable with each other only
        return "unseen images"
    return name.partition("/")[0] if "/" in name else "metrics"
