"""A model: detector, preprocessing and thresholds as one thing that scores images.

What a checkpoint holds and what a user loads: nothing else is needed to score an array.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vqlab.checkpoint import load_checkpoint, save_checkpoint, split_state
from vqlab.config import validate
from vqlab.data import (
    DataSettings,
    ImageSet,
    Region,
    as_rgb,
    find_regions,
    read_image,
    to_network,
    to_original,
)
from vqlab.detectors import (
    Detector,
    Extracted,
    HasPanels,
    detector_class,
    extract,
    scores,
)
from vqlab.evaluation import (
    REJECT,
    Predictions,
    Progress,
    Scored,
    Thresholds,
    Verdict,
    crop_panel,
    predict_images,
    predicted_mask,
)
from vqlab.features import Backbone, FeatureSet, FeatureSettings
from vqlab.text import category_text
from vqlab.types import Geometry, InputSpec, Sample, UserError

Array = NDArray[Any]


def build_detector(tree: Mapping[str, Any], spec: InputSpec) -> Detector:
    """The detector a resolved `detector` section describes. Raises UserError for bad settings."""
    kind = detector_class(tree["name"])
    rest = {key: value for key, value in tree.items() if key != "name"}
    return kind(validate(kind.Config, rest, "detector."), spec)


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image, in the image's own geometry."""

    score: float
    """Image score; higher is more anomalous."""
    calibrated: float
    """The score for display: rises with it, in [0, 1], 0.5 at the model's image threshold."""
    verdict: Verdict
    """`reject` where the score exceeds the model's image threshold, else `pass`."""
    anomaly_map: Array
    """(H, W) float32."""
    mask: Array
    """(H, W) bool: where a rejected image exceeds the model's pixel threshold (its peak where no
    pixel does); empty where the image passed."""
    image: Array
    """(H, W, 3) uint8, as read."""
    model: Model = field(repr=False)
    extracted: Extracted = field(repr=False)
    """Outputs of the detector that the scores were computed from."""
    geometry: Geometry = field(repr=False)
    """Where the image lies in the network's square."""

    @cached_property
    def panels(self) -> dict[str, Array]:
        """What the detector offers to look at: pictures (H, W, 3) uint8, e.g. `reconstruction`, and
        maps of codes (h, w), integers, that fill the image. Computed when first asked for."""
        return self.model.panels(self.extracted, self.geometry)

    def regions(self, min_area: int = 1) -> tuple[Region, ...]:
        """Return the regions of the mask by descending peak, without those below `min_area`
        pixels."""
        scale = self.model.data.mm_per_pixel
        return find_regions(self.anomaly_map, self.mask, min_area, scale)

    @property
    def defect(self) -> bool:
        """Whether the verdict is `reject`."""
        return self.verdict == REJECT

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the row of panels."""
        buffer = io.BytesIO()
        Image.fromarray(self.picture()).save(buffer, "PNG")
        return buffer.getvalue()

    def picture(self, title: str = "") -> Array:
        """Return one row of panels (h, w, 3) uint8: original, reconstruction, map, mask …"""
        from vqlab.plots import panel_row  # matplotlib takes long to import

        return panel_row(self, title)


@dataclass(frozen=True)
class Model:
    """A trained detector with its preprocessing and thresholds."""

    detector: Detector
    backbone: Backbone
    data: DataSettings
    thresholds: Thresholds
    meta: dict[str, Any]
    """Resolved settings, data fingerprint, measured metrics, run id: what the checkpoint says."""
    device: torch.device

    @property
    def category(self) -> str:
        """Categories it was trained on, joined by `+`; for people, see `categories`."""
        return category_text(self.categories)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories it was trained on."""
        return tuple(self.meta["data"]["categories"])

    @property
    def digest(self) -> str:
        """SHA-256 of parameters, settings and thresholds; equal for models that score alike."""
        digest = hashlib.sha256(json.dumps(self.meta, sort_keys=True).encode())
        for part in (self.backbone, self.detector):
            for name, value in part.state_dict().items():
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write one safetensors file with everything in it, atomically."""
        save_checkpoint(path, self.detector, self.meta, self.backbone)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "auto") -> Model:
        """The model a checkpoint holds. Raises UserError for a missing, cut or foreign file."""
        state, meta = load_checkpoint(path)
        config = meta["config"]
        data = validate(DataSettings, config["data"], "data.")
        features = validate(FeatureSettings, config["features"], "features.")
        own, frozen = split_state(state)
        try:
            backbone = Backbone(features, data.image_size, frozen)
            detector = build_detector(config["detector"], backbone.spec)
            detector.load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"checkpoint {path} does not fit its own settings: {reason}") from None
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)
        detector.to(device).eval()
        thresholds = Thresholds.read(meta["thresholds"])
        return cls(detector, backbone.to(device), data, thresholds, meta, device)

    def score_set(
        self, images: ImageSet, progress: Progress | None = None, batch_size: int = 1
    ) -> Scored:
        """Score a set of images; one at a time, the scores do not depend on the set."""
        return self.predict_set(images, progress, batch_size).scored

    def predict_set(
        self,
        images: ImageSet,
        progress: Progress | None = None,
        batch_size: int = 1,
        *,
        alternatives: bool = False,
        panels: bool = False,
    ) -> Predictions:
        """Score a set of images and derive the rest in the same pass, see `predict_images`."""
        features = self.features(images, batch_size)
        return predict_images(
            self.detector, features, progress, alternatives=alternatives, panels=panels
        )

    def features(self, images: ImageSet, batch_size: int = 16) -> FeatureSet:
        """Return the features of a set of images."""
        return FeatureSet(images, self.backbone, self.device, batch_size)

    def read(self, image: Array | Image.Image | Path | str) -> Array:
        """Return an image as `score` reads it, (H, W, 3) uint8. Raises UserError as `score`."""
        if isinstance(image, Path | str):
            return read_image(image, self.data.bits)
        return as_rgb(image, self.data.bits)

    @torch.inference_mode()
    def score(self, image: Array | Image.Image | Path | str) -> Prediction:
        """Score an image file, a PIL image, or an array (H, W, 3) or (H, W), uint8.

        A PIL image is read as its file would be. Raises UserError for a file that is no image, and
        for an array of another shape or type, with what converts it.
        """
        pixels = self.read(image)
        network, geometry = to_network(pixels, self.data)
        images = network[None].to(self.device)
        extracted = extract(self.detector, Sample(images, self.backbone(images)))
        result = scores(self.detector, extracted)
        own = to_original(result.anomaly_map[0].float().cpu().numpy(), geometry)
        value = float(result.image_score[0])
        verdict = self.thresholds.verdict(value)
        return Prediction(
            score=value,
            calibrated=self.thresholds.calibrated(value),
            verdict=verdict,
            anomaly_map=own,
            mask=predicted_mask(own, self.thresholds.pixel, verdict),
            image=pixels,
            model=self,
            extracted=extracted,
            geometry=geometry,
        )

    @torch.inference_mode()
    def panels(self, extracted: Extracted, geometry: Geometry) -> dict[str, Array]:
        """Return the detector's panels of one image as `Prediction.panels`."""
        panels: dict[str, Array] = {}
        if not isinstance(self.detector, HasPanels):
            return panels
        for name, panel in self.detector.panels(extracted).items():
            if panel.ndim == 4:
                panels[name] = _to_picture(panel[0].float().cpu().numpy(), geometry)
            else:
                side = self.data.image_size
                panels[name] = crop_panel(panel[0].cpu().numpy(), geometry, side)
        return panels


def _to_picture(panel: Array, geometry: Geometry) -> Array:
    """(3, S, S) in [0, 1] to (H, W, 3) uint8; channel by channel, as the image may be large."""
    picture = np.empty((*geometry.original, len(panel)), np.uint8)
    for place, channel in enumerate(panel):
        values = to_original(channel, geometry)
        values.clip(0, 1, out=values)
        values *= 255
        picture[..., place] = values.round(out=values)
    return picture
