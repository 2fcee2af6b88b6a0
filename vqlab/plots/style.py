"""Style of figures: colours, fonts and small anti-aliased shapes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vqlab.fonts import draw_text, drawable, fit_text, text_width
from vqlab.fonts import font as font

Array = NDArray[Any]
PAPER = "#ffffff"
INK = "#1f2933"
MUTED = "#6b7785"
LINE = "#cdd3da"
GREEN = "#197f48"
AMBER = "#c46a00"
RED = "#c81e2c"
BLUE = "#2b63ad"
LINES = (BLUE, AMBER, GREEN, RED, "#7448a8", "#0c858f", MUTED)
"""Colours of several lines in one plot, in order."""
ANOMALY = (255, 24, 40)
"""Predicted regions in overlays."""
BELOW = (255, 190, 40)
"""Outline, in overlays, of pixels above the pixel threshold in an image that passed."""
TRUTH = (60, 230, 255)
"""Outline of the ground truth in overlays."""
OUTSIDE = (225, 229, 234)
"""Pixels that are not inspected."""
_OVERSAMPLING = 4


@lru_cache
def lookup(name: str = "inferno") -> Array:
    """Return a matplotlib colour map as a table (256, 3) uint8."""
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)
    return np.ascontiguousarray(table[:, :3])


@lru_cache
def code_colours(count: int) -> Array:
    """Return colours (count, 3) uint8, one per code; those of neighbouring indices differ clearly.

    Hue, lightness and saturation advance by irrational steps, so that thousands of codes cover the
    colour space evenly.
    """
    hue, light, pale = np.arange(count) * np.array([[0.61803398875], [0.7548776662], [0.569840291]])
    wheel = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    floor = 0.1 + 0.5 * (pale[:, None] % 1)
    colours = 255 * (0.45 + 0.5 * (light[:, None] % 1)) * (floor + (1 - floor) * wheel.clip(0, 1))
    return np.asarray(colours, np.uint8)


@lru_cache
def badge(text: str, colour: str) -> Image.Image:
    """Return white bold text on a rounded rectangle of `colour`."""
    s = _OVERSAMPLING
    letters = font(17 * s, bold=True)
    width = int(letters.getlength(text)) + 28 * s
    image = Image.new("RGB", (width, 34 * s), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, width - 1, 34 * s - 1), radius=9 * s, fill=colour)
    draw.text((width // 2, 17 * s), text, font=letters, fill=PAPER, anchor="mm")
    return image.resize((width // s, 34), Image.Resampling.LANCZOS)


@lru_cache
def dot(colour: str) -> Image.Image:
    """Return a disc of `colour` with a white rim, RGBA."""
    s, size = _OVERSAMPLING, 15
    image = Image.new("RGBA", (size * s, size * s), f"{PAPER}00")
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 0, size * s - 1, size * s - 1), fill=PAPER)
    draw.ellipse((2 * s, 2 * s, size * s - 1 - 2 * s, size * s - 1 - 2 * s), fill=colour)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def draw_title(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    texts: tuple[str, str],
    width: float,
    sizes: tuple[int, int],
) -> None:
    """Draw a bold title and a muted subtitle next to it in `width` pixels; long ones are shortened.

    sizes: font sizes. A subtitle gets at least two fifths of the width if it needs it.
    """
    gap = sizes[0] * 2 // 3
    title, subtitle = map(drawable, texts)
    reserved = min(text_width(subtitle, sizes[1]) + gap, 0.4 * width) if subtitle else 0
    title = fit_text(title, width - reserved, sizes[0], True)
    draw_text(draw, at, title, sizes[0], INK, bold=True, anchor="lm")
    used = text_width(title, sizes[0], True) + gap
    if subtitle:
        subtitle = fit_text(subtitle, width - used, sizes[1])
        draw_text(draw, (at[0] + int(used), at[1]), subtitle, sizes[1], MUTED, anchor="lm")


def edge(mask: Array) -> Array:
    """Return the outermost pixels of a mask's regions, one pixel wide: (H, W) bool."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    outline: Array = mask & ~inner
    return outline


def percent(share: float) -> str:
    """Return a share as a percentage, with enough digits for a small one."""
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{100 * share:.1g}%"


def distinct_texts(first: float, second: float) -> tuple[str, str]:
    """Return two numbers as short texts, with as many digits as needed to distinguish them."""
    for digits in range(4, 17):
        texts = f"{first:.{digits}g}", f"{second:.{digits}g}"
        if first == second or texts[0] != texts[1]:
            break
    return texts
