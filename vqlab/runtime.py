"""Score images with a model that `vqlab export` wrote, without torch.

Needs NumPy, onnxruntime, Pillow and OpenCV (`opencv-python-headless`). A bundle contains this file
as `score.py`. `python -m vqlab.runtime model.onnx IMAGE ...` prints a JSON line for each image.
"""

from __future__ import annotations

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqlab.errors import UserError
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.decoding import Pixels, read_image
from vqlab.pixels.resizing import Geometry, network_input, to_original

Array = NDArray[Any]
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


class Preprocessing(NamedTuple):
    """How images become network input; see the settings of the same names in `data`."""

    image_size: int
    resize: str
    brightness: str
    bits: int | None
    tile_size: None = None


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

    @cached_property
    def preprocessing(self) -> Preprocessing:
        settings = self.description["preprocessing"]
        return Preprocessing(**{name: settings[name] for name in Preprocessing._fields[:4]})

    @cached_property
    def area(self) -> InspectedArea | None:
        """Inspected area; None: all pixels."""
        text = self.description["preprocessing"].get("inspected")
        return InspectedArea.decode(text) if text else None

    def run(self, images: Array) -> tuple[Array, Array]:
        """Return anomaly maps (B, S, S') and image scores (B,) of network inputs (B, 3, S, S')."""
        maps, scores = self._session.run(None, {"image": images})
        return maps, scores

    def read(self, path: str | Path) -> Pixels:
        """Read an image file as (H, W, 3) uint8 RGB. Raises BadFile."""
        return read_image(path, self.preprocessing.bits)

    def network_input(self, pixels: Pixels) -> tuple[Array, Geometry]:
        """Return the network input (3, S, S') float32 of RGB pixels (H, W, 3), and its geometry.

        Raises UserError for an image of another aspect ratio than the model's, if it matters."""
        values, geometry = network_input(pixels, self.preprocessing, self.area)
        expected = self.description["preprocessing"].get("input_shape")
        if expected is not None and list(values.shape[1:]) != expected:
            raise UserError(
                f"images must become {expected[1]}x{expected[0]} pixels at network size, as those "
                f"that the model was exported for; one of {pixels.shape[1]}x{pixels.shape[0]} "
                f"becomes {values.shape[2]}x{values.shape[1]}; use images of the same product."
            )
        return values, geometry

    def score(self, image: str | Path | Pixels) -> Result:
        """Score an image file, or an RGB array (H, W, 3) of uint8. Raises UserError."""
        pixels = image if isinstance(image, np.ndarray) else self.read(image)
        values, geometry = self.network_input(pixels)
        maps, scores = self.run(values[None])
        full = to_original(maps[0], geometry)
        if self.area is not None:
            inspected = self.area.at(geometry.original)
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
            reason = str(getattr(error, "reason", error))
            line |= {"calibrated": None, "verdict": "unreadable", "reason": reason}
            status = 3
        print(json.dumps(line), flush=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
