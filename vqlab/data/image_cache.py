"""Images at network size, read from files or drawn, and cached in memory as uint8."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vqlab.data.area import Areas
from vqlab.data.images import read_mask
from vqlab.data.inspection import ImageProperties, MaskProperties, inspect_image, inspect_mask
from vqlab.data.resized_image import ResizedImage as ResizedImage
from vqlab.data.settings import DataSettings
from vqlab.data.synthetic_anomalies import SYNTHETIC_PREFIX, draw_anomaly
from vqlab.data.tiles import draw_in_window, tile_grid
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.bit_depth import BadFile
from vqlab.pixels.decoding import Pixels, read_image
from vqlab.pixels.resizing import (
    MIN_SIDE,
    Mask,
    box_for,
    brightness_gain,
    fit_image,
    fit_mask,
    frame_of,
    input_shape,
    resize_image,
    to_original,
    too_small,
)
from vqlab.types import ImageRecord, Tile

if TYPE_CHECKING:
    from vqlab.data.shifts import ShiftedImage

THREADS = 4
MIN_CANVAS = 256
"""Smallest side, in pixels, of the square on which synthetic anomalies are drawn."""
RECENT = 4
"""Number of images at tile resolution that stay in memory in addition to the budget."""
WholeImage: TypeAlias = "ImageFile | SyntheticAnomaly | ShiftedImage"
"""Source of an image, which is the same every time."""
ImageSource: TypeAlias = "WholeImage | TileOf"
"""Element of an image set: an image, or one of its tiles."""


class ImageCache:
    """Cache of resized images, up to a budget in bytes; further images are made on every access."""

    def __init__(self, settings: DataSettings, areas: Areas | None = None) -> None:
        self.settings = settings
        self.areas = {name: area for name, area in (areas or {}).items() if area is not None}
        """Inspected areas of categories that are only partly inspected."""
        self.outside: set[Path] = set()
        """Images whose defect mask lies wholly outside the inspected area."""
        self.image_properties: dict[Path, ImageProperties] = {}
        """Properties of each image file that was decoded."""
        self.mask_properties: dict[Path, MaskProperties] = {}
        self._bytes_left = settings.memory_mib * 2**20
        self._images: dict[ImageSource, ResizedImage] = {}
        self._recent: OrderedDict[ImageSource, ResizedImage] = OrderedDict()
        self._digests: dict[ImageSource, bytes] = {}
        self._lock = threading.Lock()

    def __contains__(self, source: ImageSource) -> bool:
        return _whole(source) in self._images

    def area(self, record: ImageRecord) -> InspectedArea | None:
        """Return the inspected area of an image; None: all pixels."""
        return self.areas.get(record.category)

    def filled(self, record: ImageRecord, pixels: Pixels) -> Pixels:
        """Return an image (H, W, 3) filled outside its inspected area, as the network sees it."""
        area = self.area(record)
        return pixels if area is None else area.fill(pixels)

    def inspected(self, record: ImageRecord, size: tuple[int, int]) -> Mask | None:
        """Return the inspected pixels (S, S) of an image of `size` (H, W) at network size: those
        that overlap its inspected area, or all but padding; None: no category has an area."""
        area = self.area(record)
        if area is not None:
            return area.fitted(size, self.settings)
        if not self.areas:
            return None
        geometry = box_for(size, self.settings)
        mask = np.zeros(frame_of(geometry, self.settings), np.bool_)
        mask[geometry.window] = True
        return mask

    def get(self, source: ImageSource) -> ResizedImage:
        """Return the resized image of `source`, as read-only arrays."""
        if isinstance(source, TileOf):
            return source.cut(self.get(source.whole))
        cached = self._images.get(source) or self._recent.get(source)
        if cached is not None:
            return cached
        image = source.make(self)
        if self.settings.tiles.size is not None:
            inspected = self.inspected(source.record, image.geometry.original)
            gain = brightness_gain(image.image, image.geometry, self.settings, inspected)
            image = replace(image, gain=gain)
        image.image.flags.writeable = image.mask.flags.writeable = False
        with self._lock:
            if source not in self._images and image.nbytes <= self._bytes_left:
                self._bytes_left -= image.nbytes
                self._images[source] = image
            elif self.settings.tiles.size is not None:
                self._recent[source] = image
                while len(self._recent) > RECENT:
                    self._recent.popitem(last=False)
        return image

    def get_all(self, sources: Sequence[ImageSource]) -> list[ResizedImage]:
        """Return the images of `sources`, decoded by several threads unless all are cached."""
        if all(source in self for source in sources):
            return [self.get(source) for source in sources]
        wholes = list(dict.fromkeys(map(_whole, sources)))
        with ThreadPoolExecutor(THREADS) as pool:
            images = dict(zip(wholes, pool.map(self.get, wholes), strict=True))
        return [
            source.cut(images[source.whole]) if isinstance(source, TileOf) else images[source]
            for source in sources
        ]

    def input_shape(self, source: ImageSource) -> tuple[int, int]:
        """Return the shape (H, W) of an image, or of a tile, in a batch."""
        if self.settings.resize != "aspect" or isinstance(source, TileOf):
            return input_shape((1, 1), self.settings)
        return input_shape(self.original_size(source), self.settings)

    def original_size(self, source: WholeImage) -> tuple[int, int]:
        """Return the size (H, W) of the file of an image, in pixels."""
        properties = self.image_properties.get(source.record.path)
        return properties.size if properties is not None else self.get(source).geometry.original

    def tiles(self, source: WholeImage) -> list[TileOf]:
        """Return the tiles of an image."""
        size = self.original_size(source)
        box = box_for(size, self.settings).box
        inspected = self.inspected(source.record, size)
        grid = tile_grid((box[2], box[3]), self.settings, inspected)
        return [TileOf(source, tile) for tile in grid]

    def fingerprint(self, sources: Sequence[ImageSource]) -> str:
        """Return the sha256 (hex) of the images, in order; each is hashed once."""
        wholes = dict.fromkeys(map(_whole, sources))
        new = [source for source in wholes if source not in self._digests]
        if new:
            with ThreadPoolExecutor(THREADS) as pool:
                self._digests.update(zip(new, pool.map(self._digest, new), strict=True))
        bits = "" if self.settings.bits is None else f" {self.settings.bits} bits"
        digests = [f"{self.settings.brightness}{bits}".encode()]
        for source in sources:
            digests.append(self._digests[_whole(source)])
            if isinstance(source, TileOf):
                digests.append(repr((source.tile.top, source.tile.left)).encode())
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def _digest(self, source: ImageSource) -> bytes:
        """Return the sha256 of the pixels and the box of an image."""
        image = self.get(source)
        sha = hashlib.sha256(f"{image.image.shape} {image.geometry.box}\n".encode())
        sha.update(np.ascontiguousarray(image.image).data)
        return sha.digest()


@dataclass(frozen=True)
class ImageFile:
    """An image file, with its mask if it is anomalous."""

    record: ImageRecord

    def make(self, cache: ImageCache) -> ResizedImage:
        path, settings = self.record.path, cache.settings
        pixels, cache.image_properties[path] = inspect_image(path, settings.bits)
        area, size = cache.area(self.record), (pixels.shape[0], pixels.shape[1])
        if area is not None and not area.fits(size):
            raise BadFile(path, area.mismatch(size), "use a mask for images of this shape")
        small = too_small(size, settings)
        if small:
            tiled = settings.tiles.size is not None
            remedy = "use a smaller data.tiles.size, or null" if tiled else "replace or remove it"
            raise BadFile(path, small, remedy)
        image, geometry = fit_image(cache.filled(self.record, pixels), settings)
        if min(geometry.box[2:]) < MIN_SIDE:
            raise BadFile(
                path,
                f"with data.resize={settings.resize} it is {geometry.box[3]}x{geometry.box[2]} "
                "pixels at network size",
                f"it must be at least {MIN_SIDE} on each side: use data.resize=stretch or a "
                "larger data.image_size",
            )
        if self.record.mask is None:
            return ResizedImage(image, np.zeros(image.shape[:2], np.bool_), geometry)
        mask = self.read_mask(size, cache)
        return ResizedImage(image, fit_mask(mask, settings), geometry)

    def original(self, cache: ImageCache) -> Pixels:
        return read_image(self.record.path, cache.settings.bits)

    def original_mask(self, cache: ImageCache) -> Mask:
        return self.read_mask(cache.get(self).geometry.original, cache)

    def read_mask(self, size: tuple[int, int], cache: ImageCache | None = None) -> Mask:
        """Return the mask, (H, W) bool, within the inspected area in `cache`. Raises BadFile if its
        size is not that of the image."""
        if self.record.mask is None:
            return np.zeros(size, np.bool_)
        properties = None if cache is None else cache.mask_properties.get(self.record.mask)
        if properties is None:
            mask, properties = inspect_mask(self.record.mask)
        else:
            mask = read_mask(self.record.mask)  # inspected before, which takes longer
        if mask.shape != size:
            raise BadFile(
                self.record.mask,
                f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels and its image "
                f"{self.record.path.name} {size[1]}x{size[0]}",
                "they must have the same size",
            )
        if cache is None:
            return mask
        cache.mask_properties[self.record.mask] = properties
        area = cache.area(self.record)
        inside = mask if area is None else mask & area.at(size)
        if mask.any() and not inside.any():
            cache.outside.add(self.record.path)
        return inside


@dataclass(frozen=True)
class SyntheticAnomaly:
    """A normal image with an anomaly drawn at network size, the same one every time.

    size, contrast: see `draw_anomaly`.
    """

    normal: ImageFile
    texture: ImageFile
    kind: str
    seed: tuple[int, ...]
    size: float | None = None
    contrast: float | None = None

    @property
    def record(self) -> ImageRecord:
        return ImageRecord(
            self.normal.record.path, self.normal.record.category, f"{SYNTHETIC_PREFIX}{self.kind}"
        )

    def make(self, cache: ImageCache) -> ResizedImage:
        """Draw at `MIN_CANVAS` or more and shrink, as a camera does with a real defect: a thin one
        fades at a small network size, and settings of any size see the same anomalies."""
        clean, settings = cache.get(self.normal), cache.settings
        if settings.tiles.size is not None:
            return self._make_in_window(clean, cache)
        canvas = settings.model_copy(update={"image_size": max(MIN_CANVAS, settings.image_size)})
        image, texture = (_content(file, canvas, cache) for file in (self.normal, self.texture))
        texture = resize_image(texture, image.shape[0], image.shape[1])
        rng = np.random.default_rng(self.seed)
        area, inside = cache.area(self.record), None
        if area is not None:
            original = clean.geometry.original
            inside = area.fitted(original, canvas)[box_for(original, canvas).window]
        anomalous, marked, _ = draw_anomaly(
            image, texture, rng, self.kind, self.size, self.contrast, inside
        )
        box, (height, width) = clean.geometry.window, clean.geometry.box[2:]
        change = resize_image(anomalous.astype(np.float32) - image, height, width)
        result, mask = clean.image.copy(), np.zeros_like(clean.mask)
        result[box] = np.clip(np.rint(result[box] + change), 0, 255).astype(np.uint8)
        mask[box] = resize_image(marked.astype(np.float32), height, width) > 0
        if area is not None:
            mask &= area.fitted(clean.geometry.original, settings)
        return ResizedImage(result, mask, clean.geometry)

    def _make_in_window(self, clean: ResizedImage, cache: ImageCache) -> ResizedImage:
        """Draw in a random square of a tiled image, so that sizes are relative to a tile."""
        image, mask = draw_in_window(
            clean.image, cache.get(self.texture).image,
            max(MIN_CANVAS, cache.settings.image_size), np.random.default_rng(self.seed),
            (self.kind, self.size, self.contrast),
            cache.inspected(self.record, clean.geometry.original),
        )  # fmt: skip
        return ResizedImage(image, mask, clean.geometry)

    def original(self, cache: ImageCache) -> Pixels:
        normal = read_image(self.normal.record.path, cache.settings.bits)
        resized = cache.get(self)
        enlarged = np.clip(np.round(to_original(resized.image, resized.geometry)), 0, 255)
        return np.where(self.original_mask(cache)[..., None], enlarged.astype(np.uint8), normal)

    def original_mask(self, cache: ImageCache) -> Mask:
        resized = cache.get(self)
        mask = np.asarray(to_original(resized.mask, resized.geometry) > 0)
        area = cache.area(self.record)
        return mask if area is None else mask & area.at(resized.geometry.original)


@dataclass(frozen=True)
class TileOf:
    """A tile of an image."""

    whole: WholeImage
    tile: Tile

    @property
    def record(self) -> ImageRecord:
        return self.whole.record

    def cut(self, image: ResizedImage) -> ResizedImage:
        """Return the tile of the whole image, without a copy."""
        window = self.tile.window
        part = image.image[window], image.mask[window]
        return ResizedImage(*part, image.geometry, image.gain, self.tile)

    def original(self, cache: ImageCache) -> Pixels:
        """Return the whole image."""
        return self.whole.original(cache)

    def original_mask(self, cache: ImageCache) -> Mask:
        """Return the mask of the whole image."""
        return self.whole.original_mask(cache)


def _whole(source: ImageSource) -> WholeImage:
    """Return the image that a tile belongs to, or the image itself."""
    return source.whole if isinstance(source, TileOf) else source


def _content(file: ImageFile, settings: DataSettings, cache: ImageCache) -> Pixels:
    """Return the image at the size of `settings`, without padding; cached at network size."""
    if settings == cache.settings:
        resized = cache.get(file)
    else:
        pixels = cache.filled(file.record, read_image(file.record.path, settings.bits))
        image, geometry = fit_image(pixels, settings)
        resized = ResizedImage(image, np.zeros(image.shape[:2], np.bool_), geometry)
    return resized.image[resized.geometry.window]
