"""Figure of false-reject and escape rates by image threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vqlab.evaluation import OperatingPoint
from vqlab.plots import style
from vqlab.plots.curves import new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = ((0, (4, 3)), "-")


def operating_curve(
    title: str, points: Sequence[OperatingPoint], names: tuple[str, str], marks: Mapping[str, float]
) -> Figure:
    """Return false-reject and escape rate by threshold, with 95 % intervals as bands.

    points: by ascending threshold. names: of the normal and the anomalous images. marks: thresholds
    to mark, by name.
    """
    figure = new_figure(f"{title} · error rates by image threshold", 7.2, 4.6)
    axes = style_axes(figure.add_subplot())
    inner = points[1:] if len(points) > 1 else points  # the first rejects everything
    thresholds = [point.threshold for point in inner]
    kinds = (
        ("rejected", names[0], style.BLUE, [(p.rejects, p.reject_interval) for p in inner]),
        ("escaped", names[1], style.RED, [(p.escapes, p.escape_interval) for p in inner]),
    )
    for word, name, colour, errors in kinds:
        values = [(c.hits / c.total, i) for c, i in errors if c is not None and i is not None]
        if len(values) != len(inner) or errors[0][0] is None:
            continue
        label = f"{word}: {errors[0][0].total} {name}"
        rates = [rate for rate, _ in values]
        lows, highs = [i.low for _, i in values], [i.high for _, i in values]
        axes.fill_between(thresholds, lows, highs, color=colour, alpha=0.15, step="pre")
        axes.step(thresholds, rates, color=colour, label=label, linewidth=1.8)
    for (name, threshold), line in zip(marks.items(), _LINES, strict=False):
        text = f"{name}: {threshold:.4g}"
        axes.axvline(threshold, color=style.INK, linewidth=1.3, linestyle=line, label=text)
    axes.set(xlabel="image threshold", ylabel="share of the images", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
