"""One image's row of six panels, composed as an array: fast, and the same size within a set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vqlab.data import to_original
from vqlab.evaluation import REJECT, Verdict, predicted_mask, verdict_of
from vqlab.plots import style
from vqlab.types import Geometry

Array = NDArray[Any]
SIDE = 256
"""Width of a panel; one of a tall image is narrower, and at most half as high again."""
_GAP, _MARGIN, _HEADER, _TITLE, _CAPTION = 12, 18, 62, 28, 26
_GAUGE = 300
_TITLE_ENDS = 600
"""Pixels of a header's left part, with the title; gauge, score and verdict are right of it."""


@dataclass(frozen=True)
class Scale:
    """What the heat map's colours mean: the same for every picture of a set.

    The threshold lies at the middle of the colours, whatever the scores' unit; values below `low`
    and above `high` take the end colours.
    """

    low: float
    threshold: float
    high: float
    scores: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest image score of the set: the ends of the gauge."""

    @classmethod
    def of(cls, maps: list[Array], threshold: float, scores: Array) -> Scale:
        """From the 1 % quantile of all values to their 99.9 % quantile, around the threshold."""
        step = max(1, int((sum(m.size for m in maps) / 2_000_000) ** 0.5))
        sampled = np.concatenate([m[::step, ::step].ravel() for m in maps]).astype(np.float64)
        low, high = (float(q) for q in np.quantile(sampled, (0.01, 0.999)))
        reach = max(high - low, abs(threshold) * 1e-6, 1e-12)
        low, high = min(low, threshold - 0.05 * reach), max(high, threshold + 0.25 * reach)
        return cls(low, threshold, high, (float(np.min(scores)), float(np.max(scores))))

    def colours(self, values: Array) -> Array:
        """Colours (..., 3) uint8 of values (...)."""
        share = np.interp(values, (self.low, self.threshold, self.high), (0.0, 0.5, 1.0))
        picture: Array = style.lookup()[(share * 255).astype(np.uint8)]
        return picture


@dataclass(frozen=True)
class Row:
    """What one picture shows. Maps and masks (h, w) are at any resolution of the same image."""

    title: str
    """Bold, e.g. `bottle 005`."""
    subtitle: str
    """Beside it, e.g. the defect type."""
    image: Array
    """(H, W, 3) uint8, the original."""
    anomaly_map: Array
    score: float
    threshold: float
    """The image threshold, which the verdict comes from."""
    scale: Scale
    """Its `threshold` is the pixel threshold."""
    defect: bool | None = None
    """Whether the image is defective; none where that is not known."""
    mask: Array | None = None
    """The ground truth; none where it is not known."""
    second: Array | None = None
    """Second panel: a picture (h, w, 3) uint8, or codes (h, w) of integers."""
    second_title: str = "no reconstruction"
    calibrated: float | None = None
    """The score in [0, 1], 0.5 at the threshold; none where it is not shown."""

    @property
    def told(self) -> str:
        """Score and threshold in words, and the score on its scale from 0 to 1."""
        score, threshold = style.apart(self.score, self.threshold)
        sign = ">" if self.verdict == REJECT else "≤"
        text = f"score {score}  {sign}  image threshold {threshold}"
        return text if self.calibrated is None else f"{text}  ·  calibrated {self.calibrated:.3f}"

    @property
    def verdict(self) -> Verdict:
        """`pass` or `reject`."""
        return verdict_of(self.score, self.threshold)

    @property
    def correct(self) -> bool:
        """Whether the verdict is known to be right."""
        return self.defect is not None and self.defect == (self.verdict == REJECT)

    @property
    def badge(self) -> tuple[str, style.Colour]:
        """The verdict, and where the truth is known whether it is right, in words and colour."""
        rejected, word = self.verdict == REJECT, self.verdict.upper()
        if self.defect is None:
            return word, style.RED if rejected else style.GREEN
        if self.correct:
            return f"{word} · correct", style.GREEN
        return (
            (f"{word} · false alarm", style.AMBER) if rejected else (f"{word} · missed", style.RED)
        )


def draw_row(row: Row) -> Array:
    """The picture (height, width, 3) uint8: header, six titled panels, captions."""
    height, width = _fit(row.image.shape[:2], SIDE)
    canvas = Image.new(
        "RGB", (2 * _MARGIN + 6 * SIDE + 5 * _GAP, _HEADER + _TITLE + height + _CAPTION + _MARGIN),
        style.PAPER,
    )  # fmt: skip
    draw = ImageDraw.Draw(canvas)
    _draw_header(canvas, draw, row)
    for place, (title, caption, panel) in enumerate(panels_of(row)):
        left = _MARGIN + place * (SIDE + _GAP)
        centre, top = left + SIDE // 2, _HEADER + _TITLE
        draw.text((centre, top - 9), title, font=style.font(15), fill=style.INK, anchor="ms")
        corner = left + (SIDE - width) // 2, top
        canvas.paste(Image.fromarray(panel), corner)
        draw.rectangle(
            (corner[0] - 1, top - 1, corner[0] + width, top + height), outline=style.LINE
        )
        draw.text(
            (centre, top + height + 17), caption, font=style.font(12), fill=style.MUTED,
            anchor="ms",
        )  # fmt: skip
    _draw_scale(canvas, draw, row.scale, _HEADER + _TITLE + height + 7)
    return np.asarray(canvas)


def in_two_rows(picture: Array) -> Array:
    """A picture of `draw_row` as two rows of three panels, nearly square: for a small place."""
    half = picture.shape[1] // 2
    title, verdict = picture[:_HEADER, :_TITLE_ENDS], picture[:_HEADER, _TITLE_ENDS:]
    size = half, round(_HEADER * half / verdict.shape[1])
    verdict = np.asarray(Image.fromarray(verdict).resize(size, Image.Resampling.LANCZOS))
    left, right = picture[_HEADER:, :half], picture[_HEADER:, half:-_GAP]
    return np.concatenate([_padded(title, 0, half), verdict, left, _padded(right, _GAP, half)])


def _padded(picture: Array, before: int, width: int) -> Array:
    """The picture `before` pixels from the left on paper of this width."""
    after = width - before - picture.shape[1]
    return np.pad(picture, ((0, 0), (before, after), (0, 0)), constant_values=style.PAPER[0])


def panels_of(row: Row, side: int = SIDE) -> list[tuple[str, str, Array]]:
    """Title, caption and picture (height, width, 3) uint8 of each of the six panels.

    side: their largest width, pixels.
    """
    size = _fit(row.image.shape[:2], side)
    own_height, own_width = row.image.shape[:2]
    original = _resize(row.image, size)
    heat = _to_size(row.anomaly_map, size)
    smaller = row.anomaly_map.shape[0] > size[0]
    values = row.anomaly_map if smaller else heat
    above = values > row.scale.threshold
    predicted = predicted_mask(values, row.scale.threshold, row.verdict)
    if smaller:
        above, predicted = _mask_to_size(above, size), _mask_to_size(predicted, size)
    below = above & ~predicted
    truth = None if row.mask is None else _mask_to_size(row.mask, size)
    return [
        ("original", f"{own_width} × {own_height} px", original),
        (row.second_title, _second_caption(row), _second(row, size)),
        ("ground truth", *_truth(row, truth, size)),
        ("error heat map", "", row.scale.colours(heat)),
        ("predicted mask", _predicted_caption(row), _as_grey(predicted, below)),
        (
            "overlay",
            _overlay_caption(row, bool(below.any()), truth),
            _overlay(original, predicted, below, truth),
        ),
    ]


def _truth(row: Row, truth: Array | None, size: tuple[int, int]) -> tuple[str, Array]:
    if truth is None or row.mask is None or (row.defect and not row.mask.any()):
        return "not known", _empty(size, "not known")
    share = float(row.mask.mean())
    return (f"{style.percent(share)} of the image" if share else "no defect"), _as_grey(truth)


def _second(row: Row, size: tuple[int, int]) -> Array:
    if row.second is None:
        return _empty(size, "none offered\nby this detector")
    if row.second.ndim == 2:
        return _nearest(style.code_colours(int(row.second.max()) + 1)[row.second], size)
    return _resize(row.second, size)


def _second_caption(row: Row) -> str:
    if row.second is None or row.second.ndim == 3:
        return ""
    return f"{len(np.unique(row.second))} different codes"


def _predicted_caption(row: Row) -> str:
    above = row.anomaly_map > row.scale.threshold
    if row.verdict == REJECT:
        covered = f"{style.percent(float(above.mean()))} of the image above threshold"
        return covered if above.any() else "none above threshold: peak marked"
    return (
        f"passed{' · grey: above pixel threshold' if above.any() else ': no pixel above threshold'}"
    )


def _overlay_caption(row: Row, below: bool, truth: Array | None) -> str:
    """What the colours in the overlay are."""
    colours = ["red: predicted"] if row.verdict == REJECT else []
    colours += ["amber: not rejected"] if below else []
    colours += ["cyan: truth"] if truth is not None and truth.any() else []
    return " · ".join(colours)


def _overlay(original: Array, predicted: Array, below: Array, truth: Array | None) -> Array:
    """The original, greyed a little, with predicted regions in red and the truth outlined.

    below (h, w): pixels above the pixel threshold in an image that passed, outlined in amber.
    """
    grey = original.mean(axis=2, keepdims=True)
    picture = 0.45 * original + 0.55 * (0.8 * grey + 40)
    tinted = 0.5 * picture + 0.5 * np.array(style.ANOMALY)
    picture = np.where(predicted[:, :, None], tinted, picture)
    inner = predicted & ~style.edge(predicted)
    picture[style.edge(predicted) | style.edge(inner)] = style.ANOMALY
    picture[style.edge(below)] = style.BELOW
    if truth is not None:
        picture[style.edge(truth)] = style.TRUTH
    result: Array = picture.clip(0, 255).astype(np.uint8)
    return result


def _draw_header(canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row) -> None:
    """Score and verdict at the right, at their full width; title and subtitle in what is left."""
    middle = _HEADER // 2
    words, colour = row.badge
    badge = style.badge(words, colour)
    right = canvas.width - _MARGIN - badge.width
    canvas.paste(badge, (right, middle - badge.height // 2))
    text = row.told
    right -= 20
    draw.text((right, middle), text, font=style.font(17), fill=style.INK, anchor="rm")
    right -= int(style.font(17).getlength(text)) + 28
    _draw_gauge(canvas, draw, row, (right - _GAUGE, middle))
    room = min(right - _GAUGE - 16, _TITLE_ENDS) - _MARGIN
    style.draw_title(draw, (_MARGIN, middle), (row.title, row.subtitle), room, (24, 20))


def _draw_gauge(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, at: tuple[int, int]
) -> None:
    """The score as a dot on a line from the set's lowest to its highest, the threshold a tick."""
    left, y = at
    low = min(row.scale.scores[0], row.threshold, row.score)
    high = max(row.scale.scores[1], row.threshold, row.score)
    if not high > low:
        return

    def place(value: float) -> int:
        return left + round(_GAUGE * (value / 2 - low / 2) / (high / 2 - low / 2))

    tick = place(row.threshold)
    draw.line((left, y, tick, y), fill=style.LINE, width=4)
    draw.line((tick, y, left + _GAUGE, y), fill=(233, 178, 178), width=4)
    draw.line((tick, y - 11, tick, y + 11), fill=style.INK, width=2)
    disc = style.dot(row.badge[1])
    canvas.paste(disc, (place(row.score) - disc.width // 2, y - disc.height // 2), disc)


def _draw_scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, scale: Scale, top: int) -> None:
    """The heat map's colours under it, from low over the threshold (a tick) to high."""
    left = _MARGIN + 3 * (SIDE + _GAP)
    bar = np.linspace(0, 255, SIDE).astype(np.uint8)
    canvas.paste(Image.fromarray(np.repeat(style.lookup()[bar][None], 7, axis=0)), (left, top))
    centre = left + SIDE // 2
    draw.line((centre, top - 3, centre, top + 9), fill=style.INK, width=2)
    small = style.font(11)
    below = top + 20
    draw.text((left, below), f"{scale.low:.3g}", font=small, fill=style.MUTED, anchor="ls")
    draw.text(
        (centre, below), f"pixel threshold {scale.threshold:.3g}", font=small, fill=style.MUTED,
        anchor="ms",
    )  # fmt: skip
    draw.text((left + SIDE, below), f"{scale.high:.3g}", font=small, fill=style.MUTED, anchor="rs")


def _fit(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """The largest (height, width) of an image's own proportions within a panel."""
    height, width = shape[0], shape[1]
    factor = min(side / width, 1.5 * side / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resize(picture: Array, size: tuple[int, int]) -> Array:
    image = Image.fromarray(picture)
    factor = max(1, min(picture.shape[0] // (2 * size[0]), picture.shape[1] // (2 * size[1])))
    if factor > 1:
        image = image.reduce(factor)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))


def _nearest(picture: Array, size: tuple[int, int]) -> Array:
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.NEAREST))


def _to_size(values: Array, size: tuple[int, int]) -> Array:
    """A map (h, w) that fills the image, as the image's own geometry at `size` shows it."""
    height, width = values.shape
    return to_original(values.astype(np.float32), Geometry(size, (0, 0, height, width)))


def _mask_to_size(mask: Array, size: tuple[int, int]) -> Array:
    """A mask at `size`; a pixel is set where any of it is covered, so nothing small is lost."""
    if mask.shape[0] <= size[0]:
        return _to_size(mask, size) >= 0.5
    image = Image.fromarray(mask.astype(np.uint8) * 255).convert("F")
    return np.asarray(image.resize(size[::-1], Image.Resampling.BOX)) > 0


def _as_grey(mask: Array, below: Array | None = None) -> Array:
    """A mask in white on black; `below` (h, w) in dark grey."""
    values = np.where(mask, 255, 20).astype(np.uint8)
    if below is not None:
        values[below] = 90
    return np.repeat(values[:, :, None], 3, axis=2)


def _empty(size: tuple[int, int], words: str) -> Array:
    image = Image.new("RGB", size[::-1], (238, 241, 244))
    ImageDraw.Draw(image).multiline_text(
        (size[1] // 2, size[0] // 2), words, font=style.font(13), fill=style.MUTED, anchor="mm",
        align="center",
    )  # fmt: skip
    return np.asarray(image)
