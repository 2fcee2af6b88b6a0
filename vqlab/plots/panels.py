"""Content of a row of pictures, and its six panels: original, heat map, masks, overlay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from vqlab.data import Region, to_original
from vqlab.evaluation import PASS, REJECT, REVIEW, Thresholds, Verdict, predicted_mask
from vqlab.pixels.resizing import Geometry
from vqlab.plots import style

Array = NDArray[Any]
SIDE = 256
"""Maximum width of a panel; panels of tall images are narrower, at most 1.5 times as high."""
MAX_RANKS = 9
"""Number of regions whose boxes are drawn: those with the highest peaks."""


@dataclass(frozen=True)
class Scale:
    """Colour scale of heat maps, the same for all images of a set.

    The threshold has the middle colour, whatever the scores' unit; values below `low` and above
    `high` have the end colours.
    """

    low: float
    threshold: float
    high: float
    scores: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest image score of the set: the ends of the gauge."""

    @classmethod
    def of(cls, maps: list[Array], threshold: float, scores: ArrayLike) -> Scale:
        """Return a scale from the 1 % to the 99.9 % quantile of all values."""
        step = max(1, int((sum(m.size for m in maps) / 2_000_000) ** 0.5))
        sampled = np.concatenate([m[::step, ::step].ravel() for m in maps]).astype(np.float64)
        low, high = (float(q) for q in np.quantile(sampled, (0.01, 0.999)))
        reach = max(high - low, abs(threshold) * 1e-6, 1e-12)
        low, high = min(low, threshold - 0.05 * reach), max(high, threshold + 0.25 * reach)
        return cls(low, threshold, high, (float(np.min(scores)), float(np.max(scores))))

    def colours(self, values: Array) -> Array:
        """Return colours (..., 3) uint8 of values (...)."""
        share = np.interp(values, (self.low, self.threshold, self.high), (0.0, 0.5, 1.0))
        picture: Array = style.lookup()[(share * 255).astype(np.uint8)]
        return picture


@dataclass(frozen=True)
class Row:
    """Content of one row. Maps and masks (h, w) may have any resolution."""

    title: str
    """Bold, e.g. `bottle 005`."""
    subtitle: str
    """Beside the title, e.g. the defect type."""
    image: Array
    """(H, W, 3) uint8, the original."""
    anomaly_map: Array
    score: float
    thresholds: Thresholds
    scale: Scale
    """Its `threshold` is the pixel threshold."""
    anomalous: bool | None = None
    """Label of the image; None if unknown."""
    mask: Array | None = None
    """Ground truth; None if unknown."""
    panel: Array | None = None
    """Second panel: an image (h, w, 3) uint8, or integer codes (h, w)."""
    panel_title: str = "no reconstruction"
    calibrated: float | None = None
    """Calibrated score in [0, 1], 0.5 at the threshold; None to omit it."""
    inspected: Array | None = None
    """Inspected pixels (h, w) bool; None: all."""
    regions: tuple[Region, ...] = ()
    """Regions of the predicted mask at the size of the map, which the overlay numbers."""

    @property
    def score_text(self) -> str:
        """Score, the threshold that decides the verdict, and calibrated score as text."""
        decisive, name = self.thresholds.image, "image threshold"
        if self.thresholds.review is not None and self.verdict != REJECT:
            decisive, name = self.thresholds.review, "review threshold"
        score, threshold = style.distinct_texts(self.score, decisive)
        text = f"score {score}  {'≤' if self.verdict == PASS else '>'}  {name} {threshold}"
        return text if self.calibrated is None else f"{text}  ·  calibrated {self.calibrated:.3f}"

    @property
    def verdict(self) -> Verdict:
        """`pass`, `review` or `reject`."""
        return self.thresholds.verdict(self.score)

    @property
    def correct(self) -> bool:
        """Whether the label is known and the verdict matches it; False for `review`."""
        if self.anomalous is None or self.verdict == REVIEW:
            return False
        return self.anomalous == (self.verdict == REJECT)

    @property
    def badge(self) -> tuple[str, str]:
        """Text and colour of the verdict, with its correctness if the label is known."""
        rejected, text = self.verdict == REJECT, self.verdict.upper()
        if self.verdict == REVIEW:
            labels = {None: "", False: " · normal", True: " · anomalous"}
            return text + labels[self.anomalous], style.AMBER
        if self.anomalous is None:
            return text, style.RED if rejected else style.GREEN
        if self.correct:
            return f"{text} · correct", style.GREEN
        wrong = ("false alarm", style.AMBER) if rejected else ("missed", style.RED)
        return f"{text} · {wrong[0]}", wrong[1]


def second_panel(panels: Mapping[str, Array]) -> tuple[str, Array | None]:
    """Return title and content of the second panel: the reconstruction if there is one, else the
    first of a detector's panels."""
    for name in ("reconstruction", *panels):
        if name in panels:
            return readable(name), panels[name]
    return "no reconstruction", None


def readable(name: str) -> str:
    """Return the name of a panel as a title."""
    return name.replace("_", " ")


def panels_of(row: Row, side: int = SIDE) -> list[tuple[str, str, Array]]:
    """Return title, caption and image (height, width, 3) uint8 of each of the six panels.

    side: their maximum width in pixels.
    """
    size = fit_within(row.image.shape[:2], side)
    height, width = row.image.shape[:2]
    original = _resize(row.image, size)
    heat = _to_size(row.anomaly_map, size)
    smaller = row.anomaly_map.shape[0] > size[0]
    values = row.anomaly_map if smaller else heat
    above = _above(row, values)
    predicted = predicted_mask(values, row.thresholds, row.verdict, _inspected(row, values))
    if smaller:
        above, predicted = _mask_to_size(above, size), _mask_to_size(predicted, size)
    below = above if row.verdict == PASS else np.zeros_like(above)
    truth = None if row.mask is None else _mask_to_size(row.mask, size)
    overlay = _numbered(_overlay(original, predicted, below, truth), row)
    colours, grey = row.scale.colours(heat), _as_grey(predicted, below)
    inspected = _inspected(row, heat)
    if inspected is not None:
        overlay = _paled(overlay, inspected)
        colours[~inspected] = grey[~inspected] = style.OUTSIDE
    return [
        ("original", f"{width} × {height} px{_inspected_text(row)}", original),
        (row.panel_title, _panel_caption(row), _panel(row, size)),
        ("ground truth", *_truth(row, truth, size)),
        ("error heat map", "", colours),
        ("predicted mask", _predicted_caption(row, predicted), grey),
        ("overlay", _overlay_caption(row, below, truth), overlay),
    ]


def _inspected(row: Row, values: Array) -> Array | None:
    """Return the inspected pixels at the size of `values` (h, w); None: all."""
    if row.inspected is None or row.inspected.shape == values.shape:
        return row.inspected
    return _mask_to_size(row.inspected, values.shape)


def _inspected_text(row: Row) -> str:
    """Return the inspected share of the image as text; the rest is pale."""
    if row.inspected is None:
        return ""
    return f" · {style.percent(float(row.inspected.mean()))} inspected"


def _above(row: Row, values: Array) -> Array:
    """Return which of `values` (h, w) exceed the pixel threshold and are inspected."""
    inspected, above = _inspected(row, values), values > row.scale.threshold
    return above if inspected is None else above & inspected


def _truth(row: Row, truth: Array | None, size: tuple[int, int]) -> tuple[str, Array]:
    if truth is None or row.mask is None or (row.anomalous and not row.mask.any()):
        return "unknown", _empty(size, "unknown")
    share = float(row.mask.mean())
    return (f"{style.percent(share)} of the image" if share else "no defect"), _as_grey(truth)


def _panel(row: Row, size: tuple[int, int]) -> Array:
    if row.panel is None:
        return _empty(size, "not available\nfor this detector")
    if row.panel.ndim == 2:
        colours = Image.fromarray(style.code_colours(int(row.panel.max()) + 1)[row.panel])
        return np.asarray(colours.resize(size[::-1], Image.Resampling.NEAREST))
    return _resize(row.panel, size)


def _panel_caption(row: Row) -> str:
    if row.panel is None or row.panel.ndim == 3:
        return ""
    return f"{len(np.unique(row.panel))} different codes"


def _predicted_caption(row: Row, predicted: Array) -> str:
    above = _above(row, row.anomaly_map)
    if row.verdict != PASS:
        marked = f"{style.percent(float(predicted.mean()))} of the image"
        return marked if above.any() else "none above threshold: peak marked"
    return "passed" + (
        " · grey: above pixel threshold" if above.any() else ": no pixel above threshold"
    )


def _overlay_caption(row: Row, below: Array, truth: Array | None) -> str:
    """Return a legend of the colours in the overlay."""
    numbers = ", numbered by peak" if len(row.regions) > 1 else ""
    colours = [f"red: predicted{numbers}"] if row.verdict != PASS else []
    colours += ["amber: not rejected"] if below.any() else []
    colours += ["cyan: truth"] if truth is not None and truth.any() else []
    return " · ".join(colours)


def _overlay(original: Array, predicted: Array, below: Array, truth: Array | None) -> Array:
    """Return the desaturated original with predicted regions in red and the truth outlined.

    below (h, w): pixels above the pixel threshold in an image that passed, outlined in amber.
    """
    grey = original.sum(axis=2, dtype=np.float32) / 3
    picture = np.float32(0.45) * original + (0.44 * grey + 22)[..., None]
    picture[predicted] = 0.5 * picture[predicted] + 0.5 * np.array(style.ANOMALY, np.float32)
    inner = predicted & ~style.edge(predicted)
    picture[style.edge(predicted) | style.edge(inner)] = style.ANOMALY
    picture[style.edge(below)] = style.BELOW
    if truth is not None:
        picture[style.edge(truth)] = style.TRUTH
    result: Array = picture.astype(np.uint8)
    return result


def overlay_picture(
    image: Array, mask: Array, size: tuple[int, int], inspected: Array | None = None
) -> Array:
    """Return the overlay of an image (H, W, 3) and its predicted mask (H, W) at `size` (h, w).

    inspected (H, W): other pixels are pale; None: all.
    """
    predicted = _mask_to_size(mask, size)
    overlay = _overlay(_resize(image, size), predicted, np.zeros_like(predicted), None)
    return overlay if inspected is None else _paled(overlay, _mask_to_size(inspected, size))


def _numbered(picture: Array, row: Row) -> Array:
    """Return an overlay (h, w, 3) with the boxes and ranks of the first regions, if there are
    several."""
    if len(row.regions) < 2:
        return picture
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    scale = picture.shape[1] / row.anomaly_map.shape[1]
    font = style.font(10)
    for region in reversed(row.regions[:MAX_RANKS]):  # rank 1 on top
        left, top, width, height = (round(value * scale) for value in region.box)
        box = (left - 3, top - 3, left + width + 2, top + height + 2)
        draw.rectangle(box, outline=style.PAPER)
        text = str(region.rank)
        right, low = left - 3 + int(font.getlength(text)) + 4, max(top - 3, 12)
        draw.rectangle((left - 3, low - 12, right, low), fill=style.PAPER)
        draw.text((left - 1, low - 2), text, font=font, fill=style.INK, anchor="ls")
    return np.asarray(canvas)


def _paled(picture: Array, inspected: Array) -> Array:
    """Return a picture (h, w, 3) that is pale where it is not inspected (h, w)."""
    pale = picture // 4 + np.array(style.OUTSIDE, np.uint8) // 4 * 3
    return np.where(inspected[..., None], picture, pale).astype(np.uint8)


def fit_within(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return the largest (height, width) with the image's aspect ratio within a panel."""
    height, width = shape[0], shape[1]
    factor = min(side / width, 1.5 * side / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resize(picture: Array, size: tuple[int, int]) -> Array:
    image = Image.fromarray(picture)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, reducing_gap=2.0))


def _to_size(values: Array, size: tuple[int, int]) -> Array:
    """Resize a map (h, w) to `size`, bilinear."""
    height, width = values.shape
    return to_original(values.astype(np.float32), Geometry(size, (0, 0, height, width)))


def _mask_to_size(mask: Array, size: tuple[int, int]) -> Array:
    """Resize a mask; shrinking sets every pixel that overlaps it, so small regions are kept."""
    if mask.shape[0] <= size[0]:
        return _to_size(mask, size) >= 0.5
    image = Image.fromarray(mask.astype(np.uint8) * 255).convert("F")
    return np.asarray(image.resize(size[::-1], Image.Resampling.BOX)) > 0


def _as_grey(mask: Array, below: Array | None = None) -> Array:
    """Return a mask in white on black, with `below` (h, w) in dark grey."""
    values = np.where(mask, 255, 20).astype(np.uint8)
    if below is not None:
        values[below] = 90
    return np.repeat(values[:, :, None], 3, axis=2)


def _empty(size: tuple[int, int], text: str) -> Array:
    image = Image.new("RGB", size[::-1], (238, 241, 244))
    ImageDraw.Draw(image).multiline_text(
        (size[1] // 2, size[0] // 2), text, font=style.font(13), fill=style.MUTED, anchor="mm",
        align="center",
    )  # fmt: skip
    return np.asarray(image)
