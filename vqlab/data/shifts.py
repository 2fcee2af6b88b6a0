"""Capture shifts: how images of the same product differ between cameras, lamps and file formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vqlab.data.image_cache import ImageCache, ImageFile, ResizedImage
from vqlab.pixels.decoding import Pixels
from vqlab.pixels.resizing import Mask, fit_image, fit_mask
from vqlab.types import ImageRecord

if TYPE_CHECKING:
    from vqlab.data.image_set import ImageSet

Generator = np.random.Generator


@dataclass(frozen=True)
class Shift:
    """A kind of capture shift."""

    title: str
    unit: str
    """Of the strength."""
    none: float
    """Strength that (almost) does not change an image."""
    strong: float
    """Strength of the strong shift; that of the mild one is halfway between `none` and this."""
    apply: Callable[[Pixels, float, Generator], Pixels]
    """Maps an image (H, W, 3) uint8, a strength and a generator to the shifted image."""
    moves: bool = False
    """Whether the mask of a defect moves with the image."""

    def strength(self, severity: float) -> float:
        """Return the strength of a severity in [0, 1]."""
        return self.none + severity * (self.strong - self.none)


def _jpeg(image: Pixels, quality: float, _: Generator) -> Pixels:
    parameters = [cv2.IMWRITE_JPEG_QUALITY, round(quality)]
    encoded = cv2.imencode(".jpg", image[..., ::-1], parameters)[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def _noise(image: Pixels, deviation: float, rng: Generator) -> Pixels:
    noise = rng.standard_normal(image.shape, np.float32)
    return _rounded(image + np.float32(deviation) * noise)


def _gain(image: Pixels, change: float, rng: Generator) -> Pixels:
    return _rounded(image.astype(np.float32) * (1 + _sign(rng) * change))


def _white_balance(image: Pixels, change: float, rng: Generator) -> Pixels:
    """Warmer or cooler: red and blue change in opposite directions."""
    warm = _sign(rng) * change
    return _rounded(image * np.array([1 + warm, 1, 1 - warm], np.float32))


def _blur(image: Pixels, share: float, _: Generator) -> Pixels:
    deviation = max(share * max(image.shape[:2]), 1e-3)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), deviation))


def _translation(image: Pixels, share: float, rng: Generator) -> Pixels:
    angle = rng.uniform(0, 2 * np.pi)
    offset = share * max(image.shape[:2]) * np.array([np.cos(angle), np.sin(angle)])
    return _warped(image, 0, 1, offset)


def _rotation(image: Pixels, degrees: float, rng: Generator) -> Pixels:
    return _warped(image, _sign(rng) * degrees, 1, np.zeros(2))


def _scale(image: Pixels, change: float, rng: Generator) -> Pixels:
    return _warped(image, 0, 1 + _sign(rng) * change, np.zeros(2))


def _warped(image: Pixels, degrees: float, scale: float, offset: NDArray[np.float64]) -> Pixels:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    matrix[:, 2] += offset
    return np.asarray(
        cv2.warpAffine(
            image,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    )


def _rounded(values: NDArray[Any]) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _sign(rng: Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


SHIFTS: dict[str, Shift] = {
    "jpeg": Shift("JPEG compression", "quality", 100, 50, _jpeg),
    "noise": Shift("sensor noise", "grey levels (sd)", 0, 6, _noise),
    "gain": Shift("gain", "relative change", 0, 0.2, _gain),
    "white_balance": Shift("white balance", "relative change", 0, 0.1, _white_balance),
    "blur": Shift("blur", "of the longer side (sd)", 0, 0.002, _blur),
    "translation": Shift("translation", "of the longer side", 0, 0.03, _translation, moves=True),
    "rotation": Shift("rotation", "degrees", 0, 1, _rotation, moves=True),
    "scale": Shift("scale", "relative change", 0, 0.02, _scale, moves=True),
}
SEVERITIES = {"mild": 0.5, "strong": 1.0}


@dataclass(frozen=True)
class ShiftedImage:
    """An image file under a capture shift, the same every time."""

    file: ImageFile
    shift: str
    severity: float
    """Fraction of the way from the unchanged image to the strong shift, in [0, 1]."""
    seed: tuple[int, ...]

    @property
    def record(self) -> ImageRecord:
        return self.file.record

    def make(self, cache: ImageCache) -> ResizedImage:
        pixels = self.original(cache)
        image, geometry = fit_image(cache.filled(self.record, pixels), cache.settings)
        if self.record.mask is None:
            return ResizedImage(image, np.zeros(image.shape[:2], np.bool_), geometry)
        mask = self.original_mask(cache, (pixels.shape[0], pixels.shape[1]))
        return ResizedImage(image, fit_mask(mask, cache.settings), geometry)

    def original(self, cache: ImageCache) -> Pixels:
        return self._apply(self.file.original(cache))

    def original_mask(self, cache: ImageCache, size: tuple[int, int] | None = None) -> Mask:
        mask = self.file.read_mask(size or self.original(cache).shape[:2], cache)
        if not SHIFTS[self.shift].moves:
            return mask
        grey = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        return np.asarray(self._apply(grey)[..., 0] > 127, np.bool_)

    def _apply(self, image: Pixels) -> Pixels:
        shift = SHIFTS[self.shift]
        rng = np.random.default_rng(self.seed)
        return shift.apply(image, shift.strength(self.severity), rng)


def shifted(images: ImageSet, shift: str, severity: float, seed: int = 0) -> ImageSet:
    """Return the image files of a set under a capture shift (a key of `SHIFTS`).

    They are decoded at every access, not cached.
    """
    number = list(SHIFTS).index(shift)
    return images.derived(
        lambda index, file: ShiftedImage(file, shift, severity, (seed, number, index))
    )


def with_shifted_copies(
    files: Sequence[ImageFile], shifts: Sequence[str], seed: int
) -> list[ImageFile | ShiftedImage]:
    """Return each file, followed by a copy under one of the shifts in turn, of a random severity up
    to strong; the files alone without shifts."""
    if not shifts:
        return list(files)
    severities = np.random.default_rng((seed, 2)).random(len(files))
    images: list[ImageFile | ShiftedImage] = []
    for index, (file, severity) in enumerate(zip(files, severities.tolist(), strict=True)):
        shift = shifts[index % len(shifts)]
        images += [file, ShiftedImage(file, shift, severity, (seed, 2, index))]
    return images
