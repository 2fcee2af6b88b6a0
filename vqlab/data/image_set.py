"""Sets of images at network size: decoded once, kept in memory as uint8 up to a budget."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from vqlab.data.defects import draw_defect
from vqlab.data.facts import MaskFacts, PictureFacts, examine, examine_mask
from vqlab.data.images import (
    BadFile,
    Mask,
    Pixels,
    fit_image,
    fit_mask,
    read_image,
    scaled,
    to_original,
    to_tensor,
)
from vqlab.data.settings import DataSettings
from vqlab.types import Batch, Geometry, Sample, UserError

THREADS = 4
CANVAS = 256
"""Pixels; the least side of the square on which defects are drawn."""
NARROWEST = 8
"""Pixels; the shorter side of an image at network size."""
Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Picture:
    """image (S, S, 3) uint8, mask (S, S) bool, and how they came to that size."""

    image: Pixels
    mask: Mask
    geometry: Geometry

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.mask.nbytes


class Item(Protocol):
    """What an image set holds: something that yields a picture, the same one every time."""

    @property
    def sample(self) -> Sample: ...

    def picture(self, memory: Memory) -> Picture: ...

    def original(self, memory: Memory) -> Pixels: ...

    def original_mask(self, memory: Memory) -> Mask: ...


class Memory:
    """Pictures already made, up to a budget in bytes; beyond it they are made again when asked."""

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings
        self.facts: dict[Path, PictureFacts] = {}
        """What was seen of each image file when it was decoded."""
        self.mask_facts: dict[Path, MaskFacts] = {}
        self._left = settings.memory_mib * 2**20
        self._pictures: dict[Item, Picture] = {}
        self._digests: dict[Item, bytes] = {}
        self._lock = threading.Lock()

    def __contains__(self, item: Item) -> bool:
        return item in self._pictures

    def picture(self, item: Item) -> Picture:
        """The item's picture; read-only arrays."""
        kept = self._pictures.get(item)
        if kept is not None:
            return kept
        picture = item.picture(self)
        picture.image.flags.writeable = picture.mask.flags.writeable = False
        with self._lock:
            if item not in self._pictures and picture.nbytes <= self._left:
                self._left -= picture.nbytes
                self._pictures[item] = picture
        return picture

    def fingerprint(self, items: Sequence[Item]) -> str:
        """sha256 (hex) of the items' pictures, in their order; each is looked at once."""
        new = [item for item in dict.fromkeys(items) if item not in self._digests]
        if new:
            with ThreadPoolExecutor(THREADS) as pool:
                self._digests.update(zip(new, pool.map(self._digest, new), strict=True))
        bits = "" if self.settings.bits is None else f" {self.settings.bits} bits"
        whole = f"{self.settings.brightness}{bits}".encode() + b"".join(
            map(self._digests.__getitem__, items)
        )
        return hashlib.sha256(whole).hexdigest()

    def _digest(self, item: Item) -> bytes:
        """sha256 of the item's picture: its pixels and the box they fill."""
        picture = self.picture(item)
        sha = hashlib.sha256(f"{picture.image.shape} {picture.geometry.box}\n".encode())
        sha.update(np.ascontiguousarray(picture.image).data)
        return sha.digest()


@dataclass(frozen=True)
class Photo:
    """An image file, with its mask where it shows a defect."""

    sample: Sample

    def picture(self, memory: Memory) -> Picture:
        whole, memory.facts[self.sample.path] = examine(self.sample.path, memory.settings.bits)
        image, geometry = fit_image(whole, memory.settings)
        if min(geometry.box[2:]) < NARROWEST:
            raise BadFile(
                self.sample.path,
                f"letterboxed it is {geometry.box[3]}x{geometry.box[2]} pixels",
                f"it must be {NARROWEST} or more: choose data.resize=stretch, or a larger "
                "data.image_size",
            )
        if self.sample.mask is None:
            return Picture(image, np.zeros(image.shape[:2], np.bool_), geometry)
        mask = self.mask((whole.shape[0], whole.shape[1]), memory)
        return Picture(image, fit_mask(mask, memory.settings), geometry)

    def original(self, memory: Memory) -> Pixels:
        return read_image(self.sample.path, memory.settings.bits)

    def original_mask(self, memory: Memory) -> Mask:
        return self.mask(memory.picture(self).geometry.original, memory)

    def mask(self, size: tuple[int, int], memory: Memory | None = None) -> Mask:
        """Its mask, (H, W) bool; raises BadFile where it is not of `size`, that of the image."""
        if self.sample.mask is None:
            return np.zeros(size, np.bool_)
        mask, facts = examine_mask(self.sample.mask)
        if memory is not None:
            memory.mask_facts[self.sample.mask] = facts
        if mask.shape != size:
            raise BadFile(
                self.sample.mask,
                f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels and its image "
                f"{self.sample.path.name} {size[1]}x{size[0]}",
                "they must have the same size",
            )
        return mask


@dataclass(frozen=True)
class Drawn:
    """A normal photo with a defect drawn on it at network size, the same one every time."""

    photo: Photo
    texture: Photo
    kind: str
    seed: tuple[int, ...]
    size: float | None = None
    contrast: float | None = None
    """How large and how strong, see `draw_defect`."""

    @property
    def sample(self) -> Sample:
        return Sample(self.photo.sample.path, self.photo.sample.category, f"drawn_{self.kind}")

    def picture(self, memory: Memory) -> Picture:
        """Drawn at `CANVAS` at least and then made smaller, as a photographed defect is: a thin one
        fades where the network's size is small, and settings of any size see the same defects."""
        clean, settings = memory.picture(self.photo), memory.settings
        canvas = settings.model_copy(update={"image_size": max(CANVAS, settings.image_size)})
        whole, texture = (_inside(_fitted(p, canvas, memory)) for p in (self.photo, self.texture))
        texture = scaled(texture, whole.shape[0], whole.shape[1])
        rng = np.random.default_rng(self.seed)
        drawn, marked, _ = draw_defect(whole, texture, rng, self.kind, self.size, self.contrast)
        top, left, height, width = clean.geometry.box
        box = (slice(top, top + height), slice(left, left + width))
        change = scaled(drawn.astype(np.float32) - whole, height, width)
        image, mask = clean.image.copy(), np.zeros_like(clean.mask)
        image[box] = np.clip(np.rint(image[box] + change), 0, 255).astype(np.uint8)
        mask[box] = scaled(marked.astype(np.float32), height, width) > 0
        return Picture(image, mask, clean.geometry)

    def original(self, memory: Memory) -> Pixels:
        whole = read_image(self.photo.sample.path, memory.settings.bits)
        picture = memory.picture(self)
        drawn = np.clip(np.round(to_original(picture.image, picture.geometry)), 0, 255)
        return np.where(self.original_mask(memory)[..., None], drawn.astype(np.uint8), whole)

    def original_mask(self, memory: Memory) -> Mask:
        picture = memory.picture(self)
        return np.asarray(to_original(picture.mask, picture.geometry) > 0)


def _fitted(photo: Photo, settings: DataSettings, memory: Memory) -> Picture:
    """The photo at the size of `settings`, from memory where that is the network's."""
    if settings == memory.settings:
        return memory.picture(photo)
    image, geometry = fit_image(read_image(photo.sample.path, settings.bits), settings)
    return Picture(image, np.zeros(image.shape[:2], np.bool_), geometry)


def _inside(picture: Picture) -> Pixels:
    top, left, height, width = picture.geometry.box
    return picture.image[top : top + height, left : left + width]


class ImageSet:
    """An immutable, indexable set of images; subsets share the pictures in memory."""

    def __init__(self, items: Iterable[Item], memory: Memory) -> None:
        self._items = tuple(items)
        self._memory = memory
        self._origin: tuple[ImageSet, Sequence[int]] | None = None
        self.samples: tuple[Sample, ...] = tuple(item.sample for item in self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def settings(self) -> DataSettings:
        """How its images come to network size."""
        return self._memory.settings

    def batch(self, indices: Sequence[int]) -> Batch:
        """The images of `indices`, in that order: images (B, 3, S, S), masks (B, S, S)."""
        items = [self._items[index] for index in indices]
        pictures = _pictures(items, self._memory)
        images = [to_tensor(p.image, p.geometry, self.settings) for p in pictures]
        return Batch(
            torch.stack(images),
            torch.from_numpy(np.stack([picture.mask for picture in pictures])),
            torch.tensor([item.sample.label for item in items], dtype=torch.int64),
            tuple(item.sample for item in items),
            tuple(picture.geometry for picture in pictures),
        )

    def batches(self, size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of at most `size` over all images, or over the indices of `order`.

        While one is used the next is made, where its images are not in memory.
        """
        order = range(len(self)) if order is None else order
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        if all(self._items[index] in self._memory for index in order):
            yield from map(self.batch, chunks)
            return
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.batch, chunks[0])
            for chunk in chunks[1:]:
                batch = coming.result()
                coming = ahead.submit(self.batch, chunk)
                yield batch
            yield coming.result()

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """Some of the images, in the order of `indices`."""
        chosen = list(indices)
        images = ImageSet([self._items[index] for index in chosen], self._memory)
        whole, places = self.origin
        images._origin = whole, [places[index] for index in chosen]
        return images

    @property
    def origin(self) -> tuple[ImageSet, Sequence[int]]:
        """The set this one was taken from by `subset`, once or more often, and the places of its
        images there; else itself and all of its places."""
        return self._origin or (self, range(len(self)))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of all that a network sees of the images, in their order.

        Taken of the pictures at network size, so that a change of a file, of a setting or of the
        way they are resized or drawn changes it, and a change of place or name does not.
        """
        return self._memory.fingerprint(self._items)

    def of_category(self, category: str) -> ImageSet:
        """The images of one category, in their order."""
        here = [i for i, sample in enumerate(self.samples) if sample.category == category]
        return self.subset(here)

    def picture(self, index: int) -> Picture:
        """One image at network size, as uint8, brightness untouched."""
        return self._memory.picture(self._items[index])

    def original(self, index: int) -> Pixels:
        """One image in its own size, (H, W, 3) uint8, for pictures."""
        return self._items[index].original(self._memory)

    def original_mask(self, index: int) -> Mask:
        """Its mask in its own size, (H, W) bool."""
        return self._items[index].original_mask(self._memory)

    def load(self, progress: Progress | None = None) -> None:
        """Make every picture once, keeping what fits; raises UserError that lists all bad files."""
        bad: list[BadFile] = []

        def attempt(item: Item) -> None:
            try:
                self._memory.picture(item)
            except BadFile as error:
                bad.append(error)

        with ThreadPoolExecutor(THREADS) as pool:
            for done, _ in enumerate(pool.map(attempt, self._items), start=1):
                if progress is not None:
                    progress(done, len(self))
        if bad:
            raise bad_files(bad)


def bad_files(bad: Sequence[BadFile], most: int = 10) -> UserError:
    """One error for all of them: the one itself, or a list of the first ten and a count."""
    bad = sorted(bad, key=lambda error: error.path)
    if len(bad) == 1:
        return bad[0]
    named = "; ".join(f"{error.path} ({error.reason})" for error in bad[:most])
    more = f"; and {len(bad) - most} more" if len(bad) > most else ""
    return UserError(f"{len(bad)} files cannot be used, replace or remove them: {named}{more}.")


def _pictures(items: Sequence[Item], memory: Memory) -> list[Picture]:
    """The pictures of `items`; several threads decode where any is not in memory."""
    if all(item in memory for item in items):
        return [memory.picture(item) for item in items]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(memory.picture, items))
