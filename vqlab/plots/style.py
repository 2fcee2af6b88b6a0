"""How vqlab's pictures look: colours, fonts, and small drawn things with smooth edges."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vqlab.fonts import draw_text, drawable, fitted, text_width
from vqlab.fonts import font as font

Array = NDArray[Any]
Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (31, 41, 51)
MUTED: Colour = (107, 119, 133)
LINE: Colour = (205, 211, 218)
GREEN: Colour = (25, 127, 72)
AMBER: Colour = (196, 106, 0)
RED: Colour = (200, 30, 44)
BLUE: Colour = (43, 99, 173)
LINES: tuple[Colour, ...] = (BLUE, AMBER, GREEN, RED, (116, 72, 168), (12, 133, 143), MUTED)
"""Colours of several lines in one field, in order."""
ANOMALY: Colour = (255, 24, 40)
"""The red of anomalies in overlays."""
BELOW: Colour = (255, 190, 40)
"""The outline, in overlays, of what exceeds the pixel threshold in an image that passed."""
TRUTH: Colour = (60, 230, 255)
"""The outline of the ground truth in overlays."""
_SMOOTH = 4


@lru_cache
def lookup(name: str = "inferno") -> Array:
    """A matplotlib colour map as a table (256, 3) uint8."""
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)
    return np.ascontiguousarray(table[:, :3])


@lru_cache
def code_colours(count: int) -> Array:
    """Colours (count, 3) uint8, one per code whatever the count; those of near indices differ well.

    Hue, lightness and paleness each advance by an irrational step, so that thousands of codes fill
    the colours evenly.
    """
    hue, light, pale = np.arange(count) * np.array([[0.61803398875], [0.7548776662], [0.569840291]])
    wheel = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    floor = 0.1 + 0.5 * (pale[:, None] % 1)
    colours = 255 * (0.45 + 0.5 * (light[:, None] % 1)) * (floor + (1 - floor) * wheel.clip(0, 1))
    return np.asarray(colours, np.uint8)


@lru_cache
def badge(text: str, colour: Colour) -> Image.Image:
    """White bold text on a rounded field of `colour`, on paper."""
    s = _SMOOTH
    letters = font(17 * s, bold=True)
    width = int(letters.getlength(text)) + 28 * s
    image = Image.new("RGB", (width, 34 * s), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, width - 1, 34 * s - 1), radius=9 * s, fill=colour)
    draw.text((width // 2, 17 * s), text, font=letters, fill=PAPER, anchor="mm")
    return image.resize((width // s, 34), Image.Resampling.LANCZOS)


@lru_cache
def dot(colour: Colour, size: int = 15) -> Image.Image:
    """A disc of `colour` with a white rim, RGBA."""
    s = _SMOOTH
    image = Image.new("RGBA", (size * s, size * s), (*PAPER, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 0, size * s - 1, size * s - 1), fill=(*PAPER, 255))
    draw.ellipse((2 * s, 2 * s, size * s - 1 - 2 * s, size * s - 1 - 2 * s), fill=(*colour, 255))
    return image.resize((size, size), Image.Resampling.LANCZOS)


def draw_title(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    words: tuple[str, str],
    room: float,
    sizes: tuple[int, int],
) -> None:
    """Draw a bold title and a muted subtitle beside it in `room` pixels; long ones are shortened.

    sizes: of the letters. A subtitle gets at least two fifths of the room, or what it takes.
    """
    gap = sizes[0] * 2 // 3
    title, subtitle = map(drawable, words)
    second = text_width(subtitle, sizes[1])
    kept = min(second + gap, 0.4 * room) if subtitle else 0
    title = fitted(title, room - kept, sizes[0], True)
    draw_text(draw, at, title, sizes[0], INK, bold=True, anchor="lm")
    used = text_width(title, sizes[0], True) + gap
    if subtitle:
        subtitle = fitted(subtitle, room - used, sizes[1])
        draw_text(draw, (at[0] + int(used), at[1]), subtitle, sizes[1], MUTED, anchor="lm")


def edge(mask: Array) -> Array:
    """The outermost pixels of a mask's regions, one wide; bool like `mask` (H, W)."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    outline: Array = mask & ~inner
    return outline


def percent(share: float) -> str:
    """A share as a percentage, with digits enough for a small one."""
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{100 * share:.1g}%"


def apart(first: float, second: float) -> tuple[str, str]:
    """Two numbers as short texts, with as many digits as it takes to tell them apart."""
    for digits in range(4, 17):
        texts = f"{first:.{digits}g}", f"{second:.{digits}g}"
        if first == second or texts[0] != texts[1]:
            break
    return texts
