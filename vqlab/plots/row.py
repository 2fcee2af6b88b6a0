"""Row of six panels of one image as an array; its size is the same for all images of a set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vqlab.plots import style
from vqlab.plots.panels import SIDE, Row, Scale, fit_within, panels_of

Array = NDArray[Any]
_GAP, _MARGIN, _HEADER, _TITLE, _CAPTION = 12, 18, 62, 28, 26
_GAUGE = 300
_TITLE_END = 600
"""Width of the title in the header; gauge, score and verdict are right of it."""


def draw_row(row: Row) -> Array:
    """Return the row (height, width, 3) uint8: header, six titled panels, captions."""
    height, width = fit_within(row.image.shape[:2], SIDE)
    canvas = Image.new(
        "RGB", (2 * _MARGIN + 6 * SIDE + 5 * _GAP, _HEADER + _TITLE + height + _CAPTION + _MARGIN),
        style.PAPER,
    )  # fmt: skip
    draw = ImageDraw.Draw(canvas)
    _draw_header(canvas, draw, row)
    for column, (title, caption, panel) in enumerate(panels_of(row)):
        left = _MARGIN + column * (SIDE + _GAP)
        centre, top = left + SIDE // 2, _HEADER + _TITLE
        draw.text((centre, top - 9), title, font=style.font(15), fill=style.INK, anchor="ms")
        left += (SIDE - width) // 2
        canvas.paste(Image.fromarray(panel), (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=style.LINE)
        below = centre, top + height + 17
        draw.text(below, caption, font=style.font(12), fill=style.MUTED, anchor="ms")
    _draw_scale(canvas, draw, row.scale, _HEADER + _TITLE + height + 7)
    return np.asarray(canvas)


def in_two_rows(picture: Array) -> Array:
    """Rearrange the result of `draw_row` as two rows of three panels, for a narrow space."""
    half = picture.shape[1] // 2
    end = _end_of_title(picture[:_HEADER])
    title, verdict = picture[:_HEADER, :end], picture[:_HEADER, end:]
    size = half, round(_HEADER * half / verdict.shape[1])
    verdict = np.asarray(Image.fromarray(verdict).resize(size, Image.Resampling.LANCZOS))
    left, right = picture[_HEADER:, :half], picture[_HEADER:, half:-_GAP]
    return np.concatenate([_padded(title, 0, half), verdict, left, _padded(right, _GAP, half)])


def _padded(picture: Array, before: int, width: int) -> Array:
    """Pad an image to this width, `before` pixels on the left."""
    after = width - before - picture.shape[1]
    return np.pad(picture, ((0, 0), (before, after), (0, 0)), constant_values=255)


def _end_of_title(header: Array) -> int:
    """Return where to cut a header: before the gauge if that begins left of `_TITLE_END`."""
    empty = (header == 255).all(axis=(0, 2))
    gap = 14  # `_draw_header` leaves 16 between them
    if empty[_TITLE_END - 1 : _TITLE_END + 1].all():
        return _TITLE_END
    runs = np.convolve(empty[:_TITLE_END], np.ones(gap), "valid") == gap
    ends = np.flatnonzero(runs) + gap
    return int(ends[-1]) if len(ends) else _TITLE_END


def _draw_header(canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row) -> None:
    """Draw score and verdict on the right, title and subtitle in the remaining space."""
    middle = _HEADER // 2
    badge = style.badge(*row.badge)
    right = canvas.width - _MARGIN - badge.width
    canvas.paste(badge, (right, middle - badge.height // 2))
    text = row.score_text
    right -= 20
    draw.text((right, middle), text, font=style.font(17), fill=style.INK, anchor="rm")
    right -= int(style.font(17).getlength(text)) + 28
    _draw_gauge(canvas, draw, row, (right - _GAUGE, middle))
    width = min(right - _GAUGE - 16, _TITLE_END) - _MARGIN
    style.draw_title(draw, (_MARGIN, middle), (row.title, row.subtitle), width, (24, 20))


def _draw_gauge(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, at: tuple[int, int]
) -> None:
    """Draw the score as a dot between the set's extremes, and each threshold as a tick."""
    left, y = at
    threshold, review = row.thresholds.image, row.thresholds.review
    review = threshold if review is None else review
    low = min(row.scale.scores[0], review, row.score)
    high = max(row.scale.scores[1], threshold, row.score)
    if not high > low:
        return

    def to_x(value: float) -> int:
        return left + round(_GAUGE * (value / 2 - low / 2) / (high / 2 - low / 2))

    tick, first = to_x(threshold), to_x(review)
    draw.line((left, y, first, y), fill=style.LINE, width=4)
    if first < tick:
        draw.line((first, y, tick, y), fill=(240, 205, 150), width=4)
        draw.line((first, y - 7, first, y + 7), fill=style.AMBER, width=2)
    draw.line((tick, y, left + _GAUGE, y), fill=(233, 178, 178), width=4)
    draw.line((tick, y - 11, tick, y + 11), fill=style.INK, width=2)
    disc = style.dot(row.badge[1])
    canvas.paste(disc, (to_x(row.score) - disc.width // 2, y - disc.height // 2), disc)


def _draw_scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, scale: Scale, top: int) -> None:
    """Draw the colour scale below the heat map, with a tick at the threshold."""
    left = _MARGIN + 3 * (SIDE + _GAP)
    bar = np.linspace(0, 255, SIDE).astype(np.uint8)
    canvas.paste(Image.fromarray(np.repeat(style.lookup()[bar][None], 7, axis=0)), (left, top))
    centre = left + SIDE // 2
    draw.line((centre, top - 3, centre, top + 9), fill=style.INK, width=2)
    small = style.font(11)
    below = top + 20
    threshold = f"pixel threshold {scale.threshold:.3g}"
    draw.text((left, below), f"{scale.low:.3g}", font=small, fill=style.MUTED, anchor="ls")
    draw.text((centre, below), threshold, font=small, fill=style.MUTED, anchor="ms")
    draw.text((left + SIDE, below), f"{scale.high:.3g}", font=small, fill=style.MUTED, anchor="rs")
