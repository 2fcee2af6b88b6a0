"""Contact sheet of the worst misses and false alarms of one category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vqlab.plots import style
from vqlab.plots.panels import Row, panels_of

Array = NDArray[Any]
MAX_SHOWN = 4
"""Maximum number of misses, and of false alarms."""
_SIDE, _GAP, _MARGIN, _LABEL = 184, 8, 20, 46
_TOP = 84
_WIDTH = 3 * _SIDE + 2 * _GAP
"""Width of one tile: image, heat map and overlay."""
_PANELS = ("original", "error heat map", "overlay")
_MISSES = "Anomalous images that score lowest"
_ALARMS = "Normal images that score highest"


def worst_of(scores: Array, labels: Array) -> tuple[list[int], list[int]]:
    """Return indices of the lowest-scoring anomalous and the highest-scoring normal images, worst
    first.

    scores, labels (N,): image scores; 0 normal, 1 anomalous.
    """
    order = np.argsort(scores, kind="stable")
    misses = [int(i) for i in order if labels[i] == 1]
    alarms = [int(i) for i in order[::-1] if labels[i] == 0]
    return misses[:MAX_SHOWN], alarms[:MAX_SHOWN]


def draw_worst(title: str, misses: Sequence[Row], alarms: Sequence[Row]) -> Array:
    """Return the sheet (height, width, 3) uint8: two columns of image, heat map and overlay.

    misses: anomalous images, alarms: normal images, both worst first.
    """
    columns = [[_tile(row) for row in rows] for rows in (misses, alarms)]
    height = _TOP + max(1, *(sum(tile.height + 12 for tile in tiles) for tiles in columns))
    sheet = Image.new("RGB", (2 * _WIDTH + 2 * _MARGIN + 40, height + _MARGIN), style.PAPER)
    draw = ImageDraw.Draw(sheet)
    legend = (
        "heat map: middle colour = pixel threshold · overlay: red predicted (review, reject), "
        "amber above the pixel threshold but passed, cyan ground truth"
    )
    corner = sheet.width - _MARGIN, 24
    draw.text(corner, legend, font=style.font(13), fill=style.MUTED, anchor="rm")
    width = corner[0] - int(style.font(13).getlength(legend)) - 2 * _MARGIN
    style.draw_title(draw, (_MARGIN, 24), (title, ""), width, (22, 14))
    for column, (heading, rows, tiles) in enumerate(
        zip((_MISSES, _ALARMS), (misses, alarms), columns, strict=True)
    ):
        left, top = _MARGIN + column * (_WIDTH + 40), _TOP
        text = heading if rows else f"{heading}: none in this set"
        draw.text((left, 62), text, font=style.font(16, True), fill=style.INK, anchor="lm")
        if rows and all(row.correct for row in rows):
            corner = left + _WIDTH, 62
            draw.text(corner, "all correct", font=style.font(14), fill=style.GREEN, anchor="rm")
        for tile in tiles:
            sheet.paste(tile, (left, top))
            top += tile.height + 12
    return np.asarray(sheet)


def _tile(row: Row) -> Image.Image:
    """Return one tile: name, verdict and score above image, heat map and overlay."""
    panels = [panel for name, _, panel in panels_of(row, _SIDE) if name in _PANELS]
    height = panels[0].shape[0]
    tile = Image.new("RGB", (_WIDTH, _LABEL + height + 1), style.PAPER)
    draw = ImageDraw.Draw(tile)
    bold = style.font(14, True)
    text, colour = row.badge
    width = _WIDTH - 1 - int(bold.getlength(text)) - 10
    style.draw_title(draw, (0, 11), (row.title, row.subtitle), width, (14, 14))
    draw.text((_WIDTH - 1, 11), text, font=bold, fill=colour, anchor="rm")
    draw.text((0, 31), row.score_text, font=style.font(13), fill=style.INK, anchor="lm")
    for column, panel in enumerate(panels):
        left = column * (_SIDE + _GAP) + (_SIDE - panel.shape[1]) // 2
        tile.paste(Image.fromarray(panel), (left, _LABEL))
    return tile
