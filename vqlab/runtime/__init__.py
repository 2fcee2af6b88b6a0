"""Score images with an exported model: needs NumPy, onnxruntime, Pillow and OpenCV, but no torch.

`python -m vqlab.runtime model.onnx IMAGE ...` prints a JSON line for each image.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqlab.errors import ScoreError
from vqlab.pixels.decoding import Pixels
from vqlab.pixels.preprocessing import Array, Preprocessing
from vqlab.verdict import ExportedThresholds, Verdict

KEY = "vqlab"
"""Key of the description in the metadata of the ONNX file."""


class Result(NamedTuple):
    """Result of scoring one image."""

    score: float
    """Higher is more anomalous."""
    verdict: Verdict
    map: Array
    """Anomaly map (H, W) of the image's size, float32."""


class Model:
    """An exported model. `description` states its thresholds, preprocessing and provenance.

    threads: number of threads of onnxruntime; None: one for each core."""

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        self.description: dict[str, Any] = json.loads(self.open(str(path), threads))
        self.preprocessing = Preprocessing.parse(self.description["preprocessing"])
        self.thresholds = ExportedThresholds.parse(self.description["thresholds"])

    def open(self, path: str, threads: int | None) -> str:
        """Load the file and return its description (JSON). Raises ValueError if it has none."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        properties: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        if KEY not in properties:
            raise ValueError(f"{path} must be a model that vqlab export wrote.")
        return properties[KEY]

    def run(self, images: Array) -> tuple[Array, Array]:
        """Return anomaly maps (B, S, S') and image scores (B,) of network inputs (B, 3, S, S')."""
        maps, scores = self._session.run(None, {"image": images})
        return maps, scores

    def score(self, image: str | Path | Pixels) -> Result:
        """Score an image file, or an RGB array (H, W, 3) of uint8. Raises UserError, and
        ScoreError for a map or score that is not finite."""
        values, geometry = self.preprocessing.network_input(image)
        maps, scores = self.run(values[None])
        if not (np.isfinite(scores).all() and np.isfinite(maps).all()):
            raise ScoreError
        score, full = float(scores[0]), self.preprocessing.to_original(maps[0], geometry)
        return Result(score, self.thresholds.verdict(score), full)
