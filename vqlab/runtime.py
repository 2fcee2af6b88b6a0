"""Score images with a model that `vqlab export` wrote, without torch and without the rest of vqlab.

Needs NumPy, onnxruntime, Pillow and OpenCV (`opencv-python-headless`), which resizes images exactly
as in training. The file may be copied anywhere; `python runtime.py model.onnx IMAGE ...` prints a
JSON line for each image.
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Array = NDArray[Any]
Box = tuple[int, int, int, int]
"""(top, left, height, width) of an image inside the network input."""
FILL = 128
"""Grey level of pixels that are not inspected."""
KEY = "vqlab"
"""Key of the description in the metadata of the ONNX file."""


class Result(NamedTuple):
    """What a model says of one image."""

    score: float
    """Image score; higher is more anomalous."""
    verdict: str
    """`reject` if the score exceeds the image threshold, else `review` if the model has a review
    threshold and the score exceeds it, else `pass`."""
    map: Array
    """Anomaly map (H, W) of the image's size, float32; the lowest value where not inspected."""


class Model:
    """An exported model. `description` holds its thresholds, preprocessing and origin.

    threads: number of threads of onnxruntime; None: one for each core.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        properties = self._session.get_modelmeta().custom_metadata_map
        if KEY not in properties:
            raise ValueError(f"{path} must be written by vqlab export; it has no description.")
        self.description: dict[str, Any] = json.loads(properties[KEY])

    def inspected(self, size: tuple[int, int]) -> Array | None:
        """Return the inspected pixels (H, W) of images of this size, bool; None: all."""
        text = self.description["preprocessing"].get("inspected")
        return inspected_pixels(text, size) if text else None

    def run(self, images: Array) -> tuple[Array, Array]:
        """Return anomaly maps (B, S, S) and image scores (B,) of network inputs (B, 3, S, S)."""
        maps, scores = self._session.run(None, {"image": images})
        return maps, scores

    def score(self, image: str | Path | Array) -> Result:
        """Score an image file, or an RGB array (H, W, 3) of uint8."""
        settings = self.description["preprocessing"]
        pixels = image if isinstance(image, np.ndarray) else read_image(image, settings["bits"])
        inspected = self.inspected((pixels.shape[0], pixels.shape[1]))
        values, (top, left, height, width) = preprocess(pixels, settings, inspected)
        maps, scores = self.run(values[None])
        inside = np.ascontiguousarray(maps[0, top : top + height, left : left + width])
        full = cv2.resize(inside, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        if inspected is not None:
            full = np.where(inspected, full, full[inspected].min())
        score = float(scores[0])
        return Result(score, self.verdict(score), full)

    def verdict(self, score: float) -> str:
        """Return the verdict of an image score, see `Result`."""
        thresholds = self.description["thresholds"]
        if score > thresholds["image"]:
            return "reject"
        review = thresholds.get("review")
        return "review" if review is not None and score > review else "pass"

    def p_value(self, score: float) -> float | None:
        """Return the conformal p-value (1 + number of held-out normal images that score at least as
        high) / (their number + 1); None if their scores are unknown."""
        scores = self.description["thresholds"].get("normal_scores") or []
        count = sum(value >= score for value in scores)
        return (1 + count) / (len(scores) + 1) if scores else None

    def calibrated(self, score: float) -> float:
        """Map a score to [0, 1] for display: 0.5 at the image threshold, 0.05 at the median of the
        normal images that the threshold was chosen on."""
        threshold = self.description["thresholds"]["image"]
        unit = self.description["thresholds"]["unit"]
        share = float(unit / (unit + abs(score - threshold)) / 2)
        return share if score < threshold else 1 - share


def read_image(path: str | Path, bits: int | None = None) -> Array:
    """Read an image file as (H, W, 3) uint8 RGB: upright, transparency as white, 16 bits as 8.

    bits: bit depth of the camera whose values the file holds in 16 bits; None: 16.
    """
    with Image.open(path) as image:
        # A PNM header may state the highest value, which Pillow then scales to 8 or 16 bits.
        scaled = any(tile[0] == "ppm" for tile in getattr(image, "tile", []))
        image.load()
    if bits and not scaled and not image.mode.startswith(("I", "F")):
        values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is not None and values.dtype == np.uint16 and values.ndim == 3:
            orientation = image.getexif().get(0x0112, 1)  # Pillow keeps only 8 of the 16 bits
            alpha = [values[..., 3] >> 8] if values.shape[2] == 4 else []
            colours = np.dstack([to_8_bits(values[..., 2::-1], bits), *alpha]).astype(np.uint8)
            image = Image.fromarray(colours)
            image.getexif()[0x0112] = orientation
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return np.repeat(to_8_bits(np.asarray(image), None if scaled else bits)[..., None], 3, 2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.ascontiguousarray(image.convert("RGB"))


def to_8_bits(values: Array, bits: int | None) -> Array:
    """Reduce integers to their highest 8 of `bits` bits (None: 16), floats in [0, 1] to 0..255."""
    most = 1 if values.dtype.kind == "f" else 2 ** (bits or 16) - 1
    if not (values.min() >= 0 and values.max() <= most):
        raise ValueError(f"its values must be within 0 and {most}")
    if values.dtype.kind == "f":
        return np.round(values * 255).astype(np.uint8)
    return (values.astype(np.uint32) >> ((bits or 16) - 8)).astype(np.uint8)


@lru_cache(8)
def inspected_pixels(text: str, size: tuple[int, int]) -> Array:
    """Return a mask (1-bit PNG in base64) at the size (H, W) of an image. Raises ValueError for
    another aspect ratio."""
    with Image.open(BytesIO(b64decode(text))) as image:
        mask = np.asarray(image, np.bool_)
    smaller, larger = sorted((size, mask.shape), key=max)
    scale = max(smaller) / max(larger)
    if any(abs(a * scale - b) > 1 for a, b in zip(larger, smaller, strict=True)):
        raise ValueError(
            f"it is {size[1]}x{size[0]} pixels; the inspected area is "
            f"{mask.shape[1]}x{mask.shape[0]}, of another aspect ratio"
        )
    if mask.shape != size:
        small = mask.astype(np.uint8)
        mask = np.asarray(cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST), np.bool_)
    return mask


def preprocess(
    pixels: Array, settings: dict[str, Any], inspected: Array | None = None
) -> tuple[Array, Box]:
    """Return the network input (3, S, S) float32 in [0, 1] of RGB pixels (H, W, 3), and the box in
    it that the image fills; the rest is black.

    inspected (H, W) bool: other pixels are filled with grey; None: all.
    """
    if inspected is not None:
        pixels = np.where(inspected[..., None], pixels, np.uint8(FILL))
    side, size = settings["image_size"], pixels.shape[:2]
    height = width = side
    if settings["resize"] == "letterbox":
        scale = side / max(size)
        height, width = (max(1, round(length * scale)) for length in size)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, 3), np.uint8)
    box = square[top : top + height, left : left + width]
    shrunk = (min(width, size[1]), min(height, size[0]))
    for target, method in ((shrunk, cv2.INTER_AREA), ((width, height), cv2.INTER_LINEAR)):
        if pixels.shape[1::-1] != target:
            pixels = np.asarray(cv2.resize(pixels, target, interpolation=method))
    box[:] = pixels
    values = square.transpose(2, 0, 1).astype(np.float32) / 255
    if settings["brightness"] == "border":  # the median grey of the border becomes 0.5
        edge = max(1, min(height, width) // 32)
        frame = np.ones((height, width), bool)
        frame[edge:-edge, edge:-edge] = False
        if inspected is not None:  # at network size: pixels that overlap the inspected area
            overlap = _overlap(inspected, height, width)
            frame = frame & overlap if (frame & overlap).any() else overlap
        grey = float(np.median(box[frame].mean(axis=1))) / 255
        values = np.minimum(values * (0.5 / max(grey, 0.05)), 1)
    return values, (top, left, height, width)


def _overlap(mask: Array, height: int, width: int) -> Array:
    """Return which pixels of the mask, resized to this size, overlap it."""
    sums = np.asarray(cv2.integral(mask.astype(np.uint8)))
    (y0, y1), (x0, x1) = (
        (edges[:-1] // target, -(-edges[1:] // target))
        for source, target in zip(mask.shape, (height, width), strict=True)
        for edges in [np.arange(target + 1) * source]
    )
    rows = sums[y1] - sums[y0]
    return np.asarray(rows[:, x1] - rows[:, x0] > 0)


def main(arguments: list[str]) -> int:
    """Print a JSON line for each image; return 3 if some cannot be read, 2 for a wrong call."""
    if len(arguments) < 2:
        print("usage: runtime.py MODEL.onnx IMAGE [IMAGE ...]", file=sys.stderr)
        return 2
    model, status = Model(arguments[0]), 0
    threshold = model.description["thresholds"]["image"]
    for file in arguments[1:]:
        line: dict[str, Any] = {"file": file, "score": None, "threshold": threshold}
        try:
            score, verdict, _ = model.score(file)
            line |= {"score": score, "calibrated": model.calibrated(score), "verdict": verdict}
            line["p_value"] = model.p_value(score)
        except Exception as error:  # decoders raise many kinds of errors on damaged files
            line |= {"calibrated": None, "verdict": "unreadable", "reason": str(error)}
            status = 3
        print(json.dumps(line), flush=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
