"""Defects drawn on normal images, with exact masks: settings are chosen by how well they show.

Nothing here imitates a particular product. No kind ranks settings best on every product: thin ones
agree with real cracks, patches of texture with real stains and breaks. So all are drawn, from
specks to a tenth of the image and more (docs/validation.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vqlab.data.synthetic.surface import Array, clouds

SHARES = {
    "scratch": 0.27,
    "blob": 0.27,
    "cut_paste": 0.15,
    "scar": 0.12,
    "missing": 0.12,
    "noise": 0.07,
}
"""How often each kind is drawn where none is asked for."""
KINDS = tuple(SHARES)
VISIBLE = 10
"""Grey levels (of 255, in any channel) by which a pixel must differ to be in the mask."""
TRIES = 8
Box = tuple[slice, slice]


@dataclass(frozen=True)
class Scene:
    """What a defect is drawn from."""

    image: Array
    """(H, W, 3) uint8."""
    texture: Array
    """(H, W, 3) uint8, another normal image."""
    interest: Array
    """(h, w), coarse; sums to 1: where there is something that can be broken."""
    backdrop: Array | None
    """(3,) colour of a plain background; None where there is none."""
    side: int
    boost: float
    """Factor on contrast; 1, and more for every try that came out invisible."""
    size: float | None
    contrast: float | None
    """Places in [0, 1] in a kind's ranges, small to large and faint to strong; None: by chance."""


def draw_defect(
    image: NDArray[np.uint8],
    texture: NDArray[np.uint8],
    rng: np.random.Generator,
    kind: str | None = None,
    size: float | None = None,
    contrast: float | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], str]:
    """The image with a defect on it, its mask (H, W) bool, and its kind.

    image, texture: (H, W, 3) uint8 of one size, at least 3 pixels a side; the texture is another
    normal image, from which patches are taken. kind: one of `KINDS`; None draws one by `SHARES`.
    size, contrast: places in [0, 1] in the ranges of the kind, 0 the smallest or faintest (but as
    large and strong as it takes to be visible); None leaves them to chance. The mask holds the
    pixels that differ visibly, and the gaps of a pixel or two among them; it is never empty. The
    arguments are left as they are; the same generator state gives the same. Raises ValueError for
    other shapes, kinds or places.
    """
    _require(image, texture, kind, size, contrast)
    if kind is None:
        kind = KINDS[int(rng.choice(len(KINDS), p=list(SHARES.values())))]
    interest, backdrop = _interest(image)
    side = min(image.shape[:2])
    for attempt in range(TRIES):
        larger = None if size is None else size + (1 - size) * attempt / TRIES
        boost = 1 + attempt / 2
        scene = Scene(image, texture, interest, backdrop, side, boost, larger, contrast)
        drawn = image.copy()
        _DRAW[kind](drawn, scene, rng)
        if backdrop is not None and kind in _ON_OBJECT and rng.random() < 0.8:
            drawn = np.where(_object(image, backdrop)[..., None], drawn, image)
        mask = _changed(image, drawn)
        if mask.sum() >= max(4, side * side // 8192) and mask.mean() < 0.5:
            return drawn, mask, kind
    drawn = image.copy()
    _spot(drawn, scene, rng)
    return drawn, _changed(image, drawn), kind


def _require(image: Array, texture: Array, kind: str | None, *places: float | None) -> None:
    for name, array in (("image", image), ("texture", texture)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{name} must be (H, W, 3) uint8; got {array.shape} {array.dtype}.")
    if image.shape != texture.shape or min(image.shape[:2]) < 3:
        raise ValueError(
            "image and texture must have one size of at least 3 x 3 pixels; "
            f"got {image.shape} and {texture.shape}."
        )
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    for place in places:
        if place is not None and not 0 <= place <= 1:
            raise ValueError(f"size and contrast must be within 0 and 1; got {place}.")


def _changed(before: Array, after: Array) -> NDArray[np.bool_]:
    """Mask (H, W) of the visible difference, its pinholes closed."""
    seen = (cv2.absdiff(before, after).max(axis=2) >= VISIBLE).astype(np.uint8)
    reach = max(1, round(min(before.shape[:2]) / 256))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    room = cv2.copyMakeBorder(seen, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(room, cv2.MORPH_CLOSE, kernel)
    return np.asarray(closed[reach:-reach, reach:-reach] > 0)


def _interest(image: Array) -> tuple[Array, Array | None]:
    """Chance of every coarse cell (h, w) to carry a defect, and a plain background's colour.

    Where the image's border is of one colour, places that look like it get little of it;
    elsewhere every place is alike.
    """
    height, width = image.shape[:2]
    scale = 64 / max(height, width)
    size = (max(4, round(width * scale)), max(4, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    rim = np.concatenate([small[:2].reshape(-1, 3), small[-2:].reshape(-1, 3)])
    rim = np.concatenate([rim, small[:, :2].reshape(-1, 3), small[:, -2:].reshape(-1, 3)])
    colour = np.median(rim, axis=0)
    plain = np.abs(rim - colour).max(axis=1)
    unlike = np.abs(small - colour).max(axis=2)
    if np.quantile(plain, 0.8) > 18 or (unlike > 25).mean() < 0.02:
        return np.full(size[::-1], 1 / (size[0] * size[1])), None
    weight = cv2.GaussianBlur((unlike > 25).astype(np.float32), (0, 0), 1.0) + 0.02
    return weight / weight.sum(dtype=np.float64), colour


def _object(image: Array, backdrop: Array) -> Array:
    """Pixels (H, W) bool of the object before a plain background, its shiny places included."""
    unlike = np.abs(image - backdrop.astype(np.float32)).max(axis=2) > 20
    reach = max(3, min(image.shape[:2]) // 20) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return np.asarray(cv2.morphologyEx(unlike.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0)


def _place(scene: Scene, rng: np.random.Generator) -> tuple[float, float]:
    """(x, y) in pixels, by interest."""
    rows, columns = scene.interest.shape
    cell = int(rng.choice(rows * columns, p=scene.interest.ravel().astype(np.float64)))
    height, width = scene.image.shape[:2]
    x = (cell % columns + rng.random()) / columns * width
    return x, (cell // columns + rng.random()) / rows * height


def _box(scene: Scene, x: float, y: float, reach: float) -> Box:
    """The square of `reach` (pixels) round a point, cut to the image; never empty."""
    height, width = scene.image.shape[:2]
    top, left = min(max(0, int(y - reach)), height - 2), min(max(0, int(x - reach)), width - 2)
    bottom, right = max(top + 2, int(y + reach) + 2), max(left + 2, int(x + reach) + 2)
    return slice(top, min(height, bottom)), slice(left, min(width, right))


def _grid(box: Box) -> tuple[Array, Array]:
    """(x, y) of the pixels' centres in a box, shapes (1, w) and (h, 1)."""
    rows, columns = box
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5
    return x, np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5


def _rough(box: Box, cells: int, rng: np.random.Generator) -> Array:
    """Smooth noise (h, w) over a box, with `cells` bumps and finer ones on them."""
    height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
    side = max(height, width, 4 * cells)
    noise = clouds(rng, cells, side) + 0.5 * clouds(rng, 2 * cells, side)
    return np.asarray(noise[:height, :width])


def _blend(drawn: Array, box: Box, cover: Array, colour: Array | float) -> None:
    """Lay `colour` (h, w, 3) or (3,) over a box of the image; `cover` (h, w) in [0, 1]."""
    below = drawn[box].astype(np.float32)
    mixed = below + np.clip(cover, 0, 1)[..., None] * (colour - below)
    drawn[box] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _size(scene: Scene, rng: np.random.Generator, low: float, high: float) -> float:
    """The defect's length in pixels, between two shares of the image's side, even in its log."""
    place = rng.random() if scene.size is None else scene.size
    return math.exp(math.log(low) + place * math.log(high / low)) * scene.side


def _width(scene: Scene, rng: np.random.Generator, low: float, high: float) -> float:
    """The same of a thin one's other side, always by chance."""
    return _size(replace(scene, size=None), rng, low, high)


def _contrast(scene: Scene, rng: np.random.Generator, low: float, high: float) -> float:
    """A difference in light between two limits, times the scene's boost."""
    place = rng.random() if scene.contrast is None else scene.contrast
    return (low + place * (high - low)) * scene.boost


def _tone(local: Array, scene: Scene, rng: np.random.Generator) -> Array:
    """A colour (3,) that differs from `local` (3,): darker or brighter, seldom tinted."""
    shift = _contrast(scene, rng, 28, 95)
    grey = float(local.mean())
    up = rng.random() < 1 / (1 + math.exp((grey - 115) / 25))
    tint = rng.normal(0, 1, 3) * (14 if rng.random() < 0.4 else 2)
    colour: Array = np.clip(local + (shift if up else -shift) + tint, 0, 255)
    return colour


def _scratch(drawn: Array, scene: Scene, rng: np.random.Generator) -> None:
    """One to three thin curved lines, brighter or darker, fading along their way."""
    heading = rng.uniform(0, 2 * math.pi)
    width = max(0.7, _width(scene, rng, 0.0035, 0.02))
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        x, y = _place(scene, rng)
        length = _size(scene, rng, 0.10, 0.70)
        turn, bend = heading + rng.normal(0, 0.3), rng.normal(0, 0.06)
        box = _box(scene, x, y, length / 2 + 4 * width)
        u, v = _grid(box)
        nearest = np.full((v.shape[0], u.shape[1]), np.inf, np.float32)
        fade = np.zeros_like(nearest)
        strength = np.clip(rng.normal(0.85, 0.25, 13), 0.15, 1)
        px = x - 0.5 * length * math.cos(turn)
        py = y - 0.5 * length * math.sin(turn)
        for step in range(12):
            dx, dy = length / 12 * math.cos(turn), length / 12 * math.sin(turn)
            share = np.clip(((u - px) * dx + (v - py) * dy) / (dx * dx + dy * dy), 0, 1)
            away = np.hypot(u - px - share * dx, v - py - share * dy)
            here = away < nearest
            nearest = np.where(here, away, nearest)
            along = strength[step] + share * (strength[step + 1] - strength[step])
            fade = np.where(here, along.astype(np.float32), fade)
            px, py = px + dx, py + dy
            turn += bend + rng.normal(0, 0.12)
        local = drawn[box].reshape(-1, 3).mean(0)
        cover = np.clip(1 + width - nearest, 0, 1) * fade * min(1.0, 0.85 * scene.boost)
        _blend(drawn, box, cover, _tone(local, scene, rng))


def _blob(drawn: Array, scene: Scene, rng: np.random.Generator) -> None:
    """One to three stains or specks with an uneven, more or less soft edge."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        size = max(1.2, _size(scene, rng, 0.015, 0.18))
        x, y = _place(scene, rng)
        box = _box(scene, x, y, 2.2 * size)
        soft = size * rng.uniform(0.1, 0.6) + 0.7
        cover = np.clip(0.5 - _oval(box, x, y, size, rng) / soft, 0, 1) * rng.uniform(0.55, 1)
        local = drawn[_box(scene, x, y, 0.7 * size)].reshape(-1, 3).mean(0)
        colour = _tone(local, scene, rng)
        if rng.random() < 0.5:  # a stain that what lies below shines through
            colour = np.clip(drawn[box] * (colour / np.maximum(local, 1)), 0, 255)
        _blend(drawn, box, cover, colour)


def _oval(
    box: Box, x: float, y: float, size: float, rng: np.random.Generator, stretch: float = 0.0
) -> Array:
    """Distance in pixels (h, w), about, to an uneven oval of radius `size`; negative inside.

    stretch: 0 as round as chance has it, else how many times longer than wide.
    """
    u, v = _grid(box)
    turn = rng.uniform(0, math.pi)
    ratio = stretch or float(np.exp(rng.uniform(0, 0.8)))
    along = ((u - x) * math.cos(turn) + (v - y) * math.sin(turn)) / ratio**0.5
    across = ((v - y) * math.cos(turn) - (u - x) * math.sin(turn)) * ratio**0.5
    uneven = 0 if size < 2 else 0.16 * _rough(box, 4, rng)
    away: Array = np.hypot(along, across) - size * (1 + uneven)
    return away


def _taken(box: Box, scene: Scene, rng: np.random.Generator) -> Array:
    """A piece (h, w, 3) float32 of the texture, from elsewhere, turned over and relit."""
    height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
    rows, columns = scene.texture.shape[:2]
    x, y = _place(scene, rng)
    top = min(max(0, int(y - height / 2)), rows - height)
    left = min(max(0, int(x - width / 2)), columns - width)
    piece = scene.texture[top : top + height, left : left + width].astype(np.float32)
    piece = piece[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
    # Each further try relights more, so that a patch of an even surface shows at last.
    light = 1 + rng.choice([-1, 1]) * _contrast(scene, rng, 0.05, 0.25)
    piece = piece * light + rng.choice([-1, 1]) * rng.uniform(0, 20) * (scene.boost - 0.5)
    return np.asarray(np.clip(piece, 0, 255))


def _cut_paste(drawn: Array, scene: Scene, rng: np.random.Generator) -> None:
    """A turned rectangle of the texture (Li et al., CutPaste, CVPR 2021), its edge uneven."""
    x, y = _place(scene, rng)
    size = max(2.0, _size(scene, rng, 0.03, 0.22))
    _paste(drawn, scene, rng, x, y, size, float(np.exp(rng.uniform(0, 1.0))))


def _scar(drawn: Array, scene: Scene, rng: np.random.Generator) -> None:
    """A long thin piece of the texture, turned (as above, "scar")."""
    for _ in range(int(rng.integers(1, 3))):
        x, y = _place(scene, rng)
        long, wide = _size(scene, rng, 0.06, 0.30), max(1.0, _width(scene, rng, 0.008, 0.04))
        _paste(drawn, scene, rng, x, y, (long * wide) ** 0.5, max(1.0, long / wide))


def _paste(
    drawn: Array,
    scene: Scene,
    rng: np.random.Generator,
    x: float,
    y: float,
    size: float,
    ratio: float,
) -> None:
    """Lay a piece of texture on a turned rectangle of half sides size * ratio^±½ at (x, y)."""
    box = _box(scene, x, y, size * ratio**0.5 * 1.5 + 2)
    u, v = _grid(box)
    turn = rng.uniform(0, math.pi)
    along = np.abs((u - x) * math.cos(turn) + (v - y) * math.sin(turn)) - size * ratio**0.5
    across = np.abs((v - y) * math.cos(turn) - (u - x) * math.sin(turn)) - size / ratio**0.5
    uneven = min(0.12 * size, 3.0) * _rough(box, 5, rng) if size > 4 else 0
    cover = np.clip(0.5 - (np.maximum(along, across) + uneven) / 1.5, 0, 1)
    _blend(drawn, box, cover, _taken(box, scene, rng))


def _noise(drawn: Array, scene: Scene, rng: np.random.Generator) -> None:
    """Texture blended in where a fractal noise is high (Zavrtanik et al., DRAEM, ICCV 2021)."""
    x, y = _place(scene, rng)
    size = max(3.0, _size(scene, rng, 0.06, 0.28))
    box = _box(scene, x, y, 2 * size)
    noise = _rough(box, int(rng.integers(4, 9)), rng)
    u, v = _grid(box)
    near = np.clip(1.6 - np.hypot(u - x, v - y) / size, -1, 1)
    cover = np.clip((noise + 1.5 * near - 1.2) * rng.uniform(2, 6), 0, 1) * rng.uniform(0.6, 1)
    _blend(drawn, box, cover, _taken(box, scene, rng))


def _missing(drawn: Array, scene: Scene, rng: np.random.Generator) -> None:
    """Something gone: the background where there is one, else what its surroundings look like."""
    x, y = _place(scene, rng)
    size = max(2.0, _size(scene, rng, 0.03, 0.20))
    box = _box(scene, x, y, 2.2 * size + 3)
    away = _oval(box, x, y, size, rng)
    fill = _surroundings(drawn[box], away)
    if scene.backdrop is not None and rng.random() < 0.5:
        fill = np.broadcast_to(scene.backdrop.astype(np.float32), fill.shape)
    grain = rng.normal(0, 2, fill.shape[:2]).astype(np.float32)[..., None]
    shade = scene.boost - 1  # flat surroundings hide a hole: later tries darken it
    local = float(fill.mean())
    fill = fill + grain + (-40 if local > 110 else 40) * shade
    _blend(drawn, box, np.clip(0.5 - away / 1.5, 0, 1), np.clip(fill, 0, 255))


def _surroundings(piece: Array, away: Array) -> Array:
    """What the pixels round a hole (away < 0) make of it (h, w, 3) float32, without detail."""
    height, width = away.shape
    scale = min(1.0, 48 / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = cv2.resize(piece, size, interpolation=cv2.INTER_AREA)
    hole = cv2.resize((away < 1.5).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    filled = cv2.inpaint(small, hole, 3, cv2.INPAINT_TELEA)
    smooth: Array = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth.astype(np.float32)


def _spot(drawn: Array, scene: Scene, rng: np.random.Generator) -> None:
    """A plain spot that shows on any image: the last resort."""
    x, y = _place(scene, rng)
    size = max(2.0, 0.03 * scene.side)
    box = _box(scene, x, y, size + 2)
    u, v = _grid(box)
    cover = np.clip(0.5 - (np.hypot(u - x, v - y) - size), 0, 1)
    local = float(drawn[box].mean())
    _blend(drawn, box, cover, 20.0 if local > 128 else 235.0)


_DRAW: dict[str, Callable[[Array, Scene, np.random.Generator], None]] = {
    "scratch": _scratch,
    "blob": _blob,
    "cut_paste": _cut_paste,
    "scar": _scar,
    "missing": _missing,
    "noise": _noise,
}
_ON_OBJECT = ("scratch", "blob", "scar", "noise")
"""Kinds that mostly end where the object ends."""
