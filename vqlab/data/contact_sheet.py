"""`vqlab data show`: pictures of a data set, and of what validation sees, for people to look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vqlab.data.category import Category
from vqlab.data.image_set import ImageSet, Photo
from vqlab.data.images import Mask, Pixels, read_image
from vqlab.data.layouts import Layout, read_category, recognise, require_categories
from vqlab.fonts import draw_text, fitted
from vqlab.text import folder_name
from vqlab.types import Sample, UserError

TILE = 160
CAPTION = 18
GOOD = 4
"""Tiles of train/good per category; of each defect there are two."""
EACH = 2
COLUMNS = 8
MOST = 24
"""Tiles of a sheet of an image set."""
RED = (255, 40, 40)
T = TypeVar("T")


def contact_sheet(root: Path | Layout, categories: Sequence[str] | None, path: Path) -> Path:
    """Write a PNG of each category: some of train/good, then each defect with its mask outlined.

    Returns `path`. Raises UserError where `root` or a category is missing, or a file is bad.
    """
    layout = root if isinstance(root, Layout) else recognise(root)
    names = sorted(layout.folders) if categories is None else list(categories)
    require_categories(layout, names)
    rows = [row for name in names for row in _rows(read_category(layout, name))]
    write_picture(np.concatenate(rows), path)
    return path


def write_pictures(images: ImageSet, folder: Path) -> Path:
    """Write a set as PNG files: `<category>_<index>_<defect>.png`, and `…_mask.png` for defects.

    In their original size, drawn defects included. Returns `folder`.
    """
    for index, sample in enumerate(images.samples):
        kinds = folder_name(sample.category), folder_name(sample.defect)
        name = f"{kinds[0]}_{index:03d}_{kinds[1]}"
        write_picture(images.original(index), folder / f"{name}.png")
        if sample.label:
            mask = images.original_mask(index)
            write_picture(mask.astype(np.uint8) * 255, folder / f"{name}_mask.png")
    return folder


def set_sheet(images: ImageSet, most: int = MOST) -> Pixels:
    """Some of a set as one picture, (height, COLUMNS * TILE, 3), masks outlined, kinds below.

    At most `most` images, of each category's kinds about as many; at network size, in the colours
    of the files, as drawn on.
    """

    def kind(index: int) -> tuple[str, str]:
        return images.samples[index].category, images.samples[index].defect

    order = sorted(range(len(images)), key=kind)
    groups = [list(group) for _, group in groupby(order, key=kind)]
    each = max(1, most // max(1, len(groups)))
    tiles = []
    for index in _spread([index for group in groups for index in _spread(group, each)], most):
        picture, sample = images.picture(index), images.samples[index]
        top, left, height, width = picture.geometry.box
        box = (slice(top, top + height), slice(left, left + width))
        tiles.append(_tile(picture.image[box], picture.mask[box], _caption(sample, sample.defect)))
    names = ", ".join(dict.fromkeys(sample.category for sample in images.samples))
    heading = f"{names}: {len(tiles)} of {len(images)} images"
    return np.concatenate([_text(heading, COLUMNS * TILE, 26, 18), *_grid(tiles)])


def outline(image: Pixels, mask: Mask, thickness: int = 1) -> Pixels:
    """The image with a red line around each marked region, outside of it where there is room."""
    drawn = image.copy()
    room = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(room, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, RED, thickness)
    return np.asarray(drawn, np.uint8)


def _rows(category: Category) -> list[Pixels]:
    """A heading and rows of COLUMNS tiles, each (height, COLUMNS * TILE, 3)."""
    tiles = [_file_tile(sample, "train") for sample in _spread(category.train, GOOD)]
    for _, group in groupby(category.test, key=lambda sample: sample.defect):
        tiles += [_file_tile(sample, sample.defect) for sample in _spread(list(group), EACH)]
    heading = f"{category.name}: {len(category.train)} train, {len(category.test)} test"
    return [_text(heading, COLUMNS * TILE, 26, 18), *_grid(tiles)]


def _grid(tiles: Sequence[Pixels]) -> list[Pixels]:
    """Rows of COLUMNS tiles, the last one filled up with white."""
    blank = np.full((TILE + CAPTION, TILE, 3), 255, np.uint8)
    full = [*tiles, *[blank] * (-len(tiles) % COLUMNS)]
    return [np.concatenate(full[i : i + COLUMNS], axis=1) for i in range(0, len(full), COLUMNS)]


def _spread(things: Sequence[T], count: int) -> list[T]:
    """`count` of the things, evenly spread over their order."""
    places = np.linspace(0, len(things) - 1, min(count, len(things)))
    return [things[round(place)] for place in places]


def _file_tile(sample: Sample, kind: str) -> Pixels:
    image = read_image(sample.path)
    mask = Photo(sample).mask((image.shape[0], image.shape[1]))
    return _tile(image, mask, _caption(sample, kind))


def _caption(sample: Sample, kind: str) -> str:
    return f"{kind}/{sample.path.stem}"


def _tile(image: Pixels, mask: Mask, caption: str) -> Pixels:
    """(TILE + CAPTION, TILE, 3): the image inside a square, its mask outlined, and its name."""
    scale = (TILE - 4) / max(image.shape[:2])
    width, height = (max(1, round(length * scale)) for length in (image.shape[1], image.shape[0]))
    small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    if mask.any():
        shrunk = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        small = outline(small, shrunk > 0)
    square = np.full((TILE, TILE, 3), 255, np.uint8)
    top, left = (TILE - height) // 2, (TILE - width) // 2
    square[top : top + height, left : left + width] = small
    return np.concatenate([square, _text(caption, TILE, CAPTION, 11)])


def _text(words: str, width: int, height: int, size: int) -> Pixels:
    strip = Image.new("RGB", (width, height), "white")
    shown = fitted(words, width - 8, size)
    draw_text(ImageDraw.Draw(strip), (4, height // 2), shown, size, "black", anchor="lm")
    return np.asarray(strip, np.uint8)


def write_picture(pixels: Pixels, path: Path) -> None:
    """Write (H, W, 3) or (H, W) uint8 as a PNG, beside its place and then renamed.

    Raises UserError where it cannot be.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(beside, format="PNG")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise UserError(f"picture {path} cannot be written: {error.strerror or error}.") from None
