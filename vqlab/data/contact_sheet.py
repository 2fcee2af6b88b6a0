"""Write contact sheets of datasets and validation sets, and image sets as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vqlab.data.category import Category
from vqlab.data.datasets import Layout
from vqlab.data.image_cache import ImageFile
from vqlab.data.image_set import ImageSet
from vqlab.data.layouts import detect_layout, read_category, require_categories
from vqlab.data.png import write_png
from vqlab.fonts import draw_text, fit_text
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.bit_depth import BadFile
from vqlab.pixels.decoding import Pixels, read_image
from vqlab.pixels.resizing import Mask
from vqlab.text import folder_name
from vqlab.types import ImageRecord

TILE = 160
CAPTION = 18
TRAIN_TILES = 4
"""Tiles of train/good per category."""
DEFECT_TILES = 2
"""Tiles per defect type."""
COLUMNS = 8
MAX_TILES = 24
"""Tiles in a sheet of an image set."""
RED = (255, 40, 40)
T = TypeVar("T")


def contact_sheet(
    root: Path | Layout,
    categories: Sequence[str] | None,
    path: Path,
    areas: Mapping[str, InspectedArea | None] | None = None,
) -> Path:
    """Write a PNG of some images of train/good and of each defect type, with outlined masks.

    areas: inspected areas by category; everything else is pale. Returns `path`. Raises UserError if
    `root` or a category is missing, or if a file is bad or does not fit its area.
    """
    layout = root if isinstance(root, Layout) else detect_layout(root)
    names = sorted(layout.folders) if categories is None else list(categories)
    require_categories(layout, names)
    areas = areas or {}
    rows = [row for name in names for row in _rows(read_category(layout, name), areas.get(name))]
    write_png(np.concatenate(rows), path)
    return path


def write_image_set(images: ImageSet, folder: Path) -> Path:
    """Write a set as PNG files in original size: `<category>_<index>_<defect>.png`, and
    `…_mask.png` for anomalous images. Returns `folder`."""
    for index, record in enumerate(images.records):
        name = f"{folder_name(record.category)}_{index:03d}_{folder_name(record.defect)}"
        write_png(images.original(index), folder / f"{name}.png")
        if record.label:
            mask = images.original_mask(index)
            write_png(mask.astype(np.uint8) * 255, folder / f"{name}_mask.png")
    return folder


def image_set_sheet(images: ImageSet) -> Pixels:
    """Return a contact sheet of a set, (height, COLUMNS * TILE, 3), with outlined masks.

    At most `MAX_TILES` images at network size, about equally many of each category and defect type.
    """

    def key(index: int) -> tuple[str, str]:
        return images.records[index].category, images.records[index].defect

    order = sorted(range(len(images)), key=key)
    groups = [list(group) for _, group in groupby(order, key=key)]
    each = max(1, MAX_TILES // max(1, len(groups)))
    tiles = []
    for index in _spread([index for group in groups for index in _spread(group, each)], MAX_TILES):
        resized, record = images.resized(index), images.records[index]
        window = resized.geometry.window
        caption = f"{record.defect}/{record.path.stem}"
        tiles.append(_tile(resized.image[window], resized.mask[window], caption))
    names = ", ".join(dict.fromkeys(record.category for record in images.records))
    heading = f"{names}: {len(tiles)} of {len(images)} images"
    return np.concatenate([_text(heading, COLUMNS * TILE, 26, 18), *_grid(tiles)])


def outline(image: Pixels, mask: Mask) -> Pixels:
    """Return the image with a red line around each marked region, outside it where possible."""
    outlined = image.copy()
    dilated = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(dilated, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(outlined, contours, -1, RED)
    return np.asarray(outlined, np.uint8)


def _rows(category: Category, area: InspectedArea | None) -> list[Pixels]:
    """Return a heading and rows of COLUMNS tiles, each (height, COLUMNS * TILE, 3)."""
    tiles = [_file_tile(record, "train", area) for record in _spread(category.train, TRAIN_TILES)]
    for _, group in groupby(category.test, key=lambda record: record.defect):
        records = _spread(list(group), DEFECT_TILES)
        tiles += [_file_tile(record, record.defect, area) for record in records]
    heading = f"{category.name}: {len(category.train)} train, {len(category.test)} test"
    return [_text(heading, COLUMNS * TILE, 26, 18), *_grid(tiles)]


def _grid(tiles: Sequence[Pixels]) -> list[Pixels]:
    """Return rows of COLUMNS tiles; the last one is padded with white."""
    blank = np.full((TILE + CAPTION, TILE, 3), 255, np.uint8)
    padded = [*tiles, *[blank] * (-len(tiles) % COLUMNS)]
    return [np.concatenate(padded[i : i + COLUMNS], axis=1) for i in range(0, len(padded), COLUMNS)]


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, evenly spaced."""
    indices = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[round(index)] for index in indices]


def _file_tile(record: ImageRecord, defect: str, area: InspectedArea | None) -> Pixels:
    image = read_image(record.path)
    size = (image.shape[0], image.shape[1])
    mask = ImageFile(record).read_mask(size)
    if area is not None:
        if not area.fits(size):
            raise BadFile(record.path, area.mismatch(size), "use a mask for images of this shape")
        image = np.where(area.at(size)[..., None], image, image // 4 + np.uint8(168))
    return _tile(image, mask, f"{defect}/{record.path.stem}")


def _tile(image: Pixels, mask: Mask, caption: str) -> Pixels:
    """Return image, outlined mask and caption as a tile, (TILE + CAPTION, TILE, 3)."""
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


def _text(text: str, width: int, height: int, size: int) -> Pixels:
    strip = Image.new("RGB", (width, height), "white")
    text = fit_text(text, width - 8, size)
    draw_text(ImageDraw.Draw(strip), (4, height // 2), text, size, "black", anchor="lm")
    return np.asarray(strip, np.uint8)
