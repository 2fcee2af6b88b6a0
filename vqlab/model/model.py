"""A model: it is loaded from a checkpoint, and scores images."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqlab.checkpoint import load_checkpoint, save_checkpoint, split_state
from vqlab.config import validate
from vqlab.data import (
    DataSettings,
    ImageSet,
    InspectedArea,
    areas_differ,
    as_rgb,
    decode_areas,
    frame_of,
    picture_of,
    read_image,
    to_network,
    to_original,
    to_tiles,
)
from vqlab.detectors import Detector, Extracted, HasPanels, detector_class, extract, scores
from vqlab.errors import ScoreError, did_you_mean
from vqlab.evaluation import (
    Predictions,
    Progress,
    Scored,
    Thresholds,
    crop_panel,
    predict_images,
    predicted_mask,
    score_tiles,
)
from vqlab.features import Backbone, FeatureSet, FeatureSettings, InferenceSettings
from vqlab.model.prediction import Prediction
from vqlab.pixels.area import lowest_outside
from vqlab.pixels.resizing import Geometry
from vqlab.text import category_text, join_names
from vqlab.types import InputSpec, Sample, Scores, UserError

Array = NDArray[Any]
NETWORK = "network"
"""Key in the description of a checkpoint: see `Backbone.record`."""


def build_detector(tree: Mapping[str, Any], spec: InputSpec) -> Detector:
    """Build the detector of a resolved `detector` section. Raises UserError for bad settings."""
    kind = detector_class(tree["name"])
    rest = {key: value for key, value in tree.items() if key != "name"}
    return kind(validate(kind.Config, rest, "detector."), spec)


@dataclass(frozen=True, eq=False)
class Model:
    """A trained detector with preprocessing and thresholds; two models are equal if they are the
    same object, see `digest`."""

    detector: Detector = field(repr=False)
    backbone: Backbone = field(repr=False)
    data: DataSettings
    thresholds: Thresholds
    meta: dict[str, Any] = field(repr=False)
    """Metadata of the checkpoint: settings, data fingerprint, metrics, run ID."""
    device: torch.device
    image_category: str | None = None
    """Category of the images to score, see `for_category`."""

    @property
    def category(self) -> str:
        """`image_category`, or the training categories joined by `+`, as text."""
        return category_text([self.image_category] if self.image_category else self.categories)

    @property
    def categories(self) -> tuple[str, ...]:
        """Training categories."""
        return tuple(self.meta["data"]["categories"])

    @cached_property
    def areas(self) -> dict[str, InspectedArea | None]:
        """Inspected area of each training category; None: all pixels."""
        return decode_areas(self.meta["data"].get("inspected"), self.categories)

    @cached_property
    def aspect_ratios(self) -> tuple[float, float] | None:
        """Lowest and highest width / height of the training images, of `image_category` if it is
        set; None with `data.tiles`, and in older checkpoints."""
        stored = _aspect_ratios(self.meta)
        if self.image_category is not None:
            stored = {k: each for k, each in stored.items() if k == self.image_category}
        if not stored or self.data.tiles.size is not None:
            return None
        return min(low for low, _ in stored.values()), max(high for _, high in stored.values())

    def area_of(self, category: str | None) -> InspectedArea | None:
        """Return the inspected area of images of a category; None: all pixels.

        Images of other categories have the area that all training categories share. Raises
        UserError if they share none.
        """
        if category not in self.areas and areas_differ(self.areas):
            raise UserError(
                f"the category of the images must be one of {join_names(self.categories)}, because "
                f"the model inspects a different area in each; got {category or 'none'}."
            )
        return self.areas.get(category or "", next(iter(self.areas.values())))

    @cached_property
    def area(self) -> InspectedArea | None:
        """Inspected area of the images to score; None: all pixels. Raises UserError if it depends
        on their category, and the model is not that of `for_category`."""
        return self.area_of(self.image_category)

    def for_category(self, category: str) -> Model:
        """Return the model for images of one of its training categories: it inspects the area of
        this category. Shares parameters and thresholds. Raises UserError for another category."""
        if category not in self.categories:
            hint = did_you_mean(category, self.categories)
            hint = hint or f"available: {join_names(self.categories)}."
            raise UserError(f"the model was not trained on category {category!r}; {hint}")
        model = replace(self, image_category=category)
        vars(model)["areas"] = self.areas  # decoded once
        return model

    @property
    def digest(self) -> str:
        """SHA-256 of parameters, settings and thresholds."""
        digest = hashlib.sha256(json.dumps(self.meta, sort_keys=True).encode())
        for part in (self.backbone, self.detector):
            for name, value in part.state_dict().items():
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Save the model as one safetensors file, atomically."""
        meta = {**self.meta, NETWORK: self.backbone.record()}
        save_checkpoint(path, self.detector, meta, self.backbone)

    @classmethod
    def load(cls, path: Path, device: str | torch.device = "auto") -> Model:
        """Load a checkpoint. device: `auto`: CUDA if it is available. Raises UserError for a file
        that is missing, truncated or not a checkpoint, or whose parts do not fit each other."""
        state, meta = load_checkpoint(path)
        try:
            record = meta.pop(NETWORK, None)
            thresholds = Thresholds.from_json(meta["thresholds"])
            config = {name: dict(meta["config"][name]) for name in ("data", "features", "detector")}
            _check_texts(config["detector"]["name"], *meta["data"]["categories"])
            _ = dict(meta["config"].get("inference", {})), _aspect_ratios(meta)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"checkpoint {path} must state settings and thresholds ({error!r}); choose a file "
                "that vqlab wrote, or train again."
            ) from None
        data = validate(DataSettings, config["data"], "data.")
        features = validate(FeatureSettings, config["features"], "features.")
        trained, frozen = split_state(state)
        try:
            backbone = Backbone(features, data.image_size, frozen, record)
            detector = build_detector(config["detector"], backbone.spec)
            detector.load_state_dict(trained)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"checkpoint {path} does not fit its own settings: {reason}") from None
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)
        detector.to(device).eval()
        model = cls(detector, backbone.to(device), data, thresholds, meta, device)
        try:
            _ = model.areas
        except UserError as error:
            raise UserError(f"checkpoint {path} cannot be used: {error}") from None
        return model

    def use_engine(self, name: str | None = None) -> Model:
        """Run the backbone on a CPU with this engine; None: `inference.engine` of the model.

        Raises UserError for an engine that is not installed or does not agree with torch.
        """
        section = self.meta["config"].get("inference", {})
        settings = {"engine": name} if name is not None else section
        self.backbone.use_engine(validate(InferenceSettings, settings, "inference.").engine)
        return self

    def score_set(
        self, images: ImageSet, progress: Progress | None = None, batch_size: int = 1
    ) -> Scored:
        """Score a set of images; with batch_size 1, scores do not depend on the set."""
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
        """Predict a set of images in one pass, see `predict_images`."""
        features = self.features(images, batch_size)
        return predict_images(
            self.detector, features, progress, alternatives=alternatives, panels=panels
        )

    def features(self, images: ImageSet, batch_size: int = 16) -> FeatureSet:
        """Return the features of a set of images, with `data.tiles` of their tiles."""
        return FeatureSet(images.tiled(), self.backbone, self.device, batch_size)

    def read(self, image: Array | Image.Image | Path | str) -> Array:
        """Read an image as `score` does, (H, W, 3) uint8. Raises UserError as `score`."""
        if isinstance(image, Path | str):
            return read_image(image, self.data.bits)
        return as_rgb(image, self.data.bits)

    def score(self, image: Array | Image.Image | Path | str) -> Prediction:
        """Score an image file, a PIL image, or an array (H, W, 3) or (H, W), uint8.

        A PIL image is treated as its file; an array is not copied, see `Prediction.image`. Raises
        UserError for a file that is not an image, and for an array of another shape or type, and as
        `score_batch`.
        """
        return self.score_batch([self.read(image)])[0]

    @torch.inference_mode()
    def score_batch(self, images: Sequence[Array]) -> list[Prediction]:
        """Score arrays (H, W, 3) uint8, of any sizes, in one pass.

        Scores of a batch of several images may differ from those of `score` by rounding (1e-5
        relative). Raises UserError for an array of another shape or type, and for an aspect ratio
        that does not fit the inspected area, and with `data.tiles` for an image smaller than a
        tile; ScoreError for a map or score that is not finite.
        """
        if self.data.tiles.size is not None:
            return [self._score_tiles(pixels) for pixels in images]
        inputs = [to_network(pixels, self.data, self.area) for pixels in images]
        predictions: dict[int, Prediction] = {}
        for indices in _by_shape([network for network, _ in inputs]):
            batch = torch.stack([inputs[index][0] for index in indices]).to(self.device)
            extracted = extract(self.detector, Sample(batch, self.backbone(batch)))
            result = scores(self.detector, extracted)
            maps = result.anomaly_map.float().cpu().numpy()
            values = result.image_score.tolist()
            for row, index in enumerate(indices):
                part = tuple(t[row : row + 1] for t in extracted)
                predictions[index] = self._prediction(
                    images[index], inputs[index][1], part, maps[row], values[row]
                )
        return [predictions[index] for index in range(len(images))]

    def _score_tiles(self, pixels: Array) -> Prediction:
        tensors, tiles, geometry = to_tiles(pixels, self.data, self.area)

        def score(tensors: Sequence[Tensor]) -> Scores:
            batch = torch.stack(list(tensors)).to(self.device)
            sample = Sample(batch, self.backbone(batch))
            return scores(self.detector, extract(self.detector, sample))

        batched = self.device.type != "cpu"  # on a CPU one at a time, as `score_set`
        return self._prediction(pixels, geometry, (), *score_tiles(score, tensors, tiles, batched))

    def _prediction(
        self, pixels: Array, geometry: Geometry, extracted: Extracted, square: Array, score: float
    ) -> Prediction:
        """Return the prediction of one image. square: its anomaly map at network size. Raises
        ScoreError."""
        if not (math.isfinite(score) and np.isfinite(square).all()):
            raise ScoreError
        anomaly_map, inspected = to_original(square, geometry), None
        if self.area is not None:
            inspected = self.area.at(geometry.original)
            anomaly_map = lowest_outside(anomaly_map, inspected)
        verdict = self.thresholds.verdict(score)
        return Prediction(
            score=score,
            calibrated=self.thresholds.calibrated(score),
            verdict=verdict,
            anomaly_map=anomaly_map,
            mask=predicted_mask(anomaly_map, self.thresholds, verdict, inspected),
            inspected=inspected,
            image=pixels,
            model=self,
            extracted=extracted,
            geometry=geometry,
        )

    @torch.inference_mode()
    def panels(self, extracted: Extracted, geometry: Geometry) -> dict[str, Array]:
        """Compute `Prediction.panels` of one image."""
        panels: dict[str, Array] = {}
        if self.data.tiles.size is not None or not isinstance(self.detector, HasPanels):
            return panels
        for name, panel in self.detector.panels(extracted).items():
            if panel.ndim == 4:
                panels[name] = picture_of(panel[0].float().cpu().numpy(), geometry)
            else:
                frame = frame_of(geometry, self.data)
                panels[name] = crop_panel(panel[0].cpu().numpy(), geometry, frame)
        return panels


def _aspect_ratios(meta: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest aspect ratio of the training images by category; empty in older
    checkpoints. Raises AttributeError, TypeError or ValueError for other values."""
    stored = meta["data"].get("aspect_ratios", {})
    return {name: (float(low), float(high)) for name, (low, high) in stored.items()}


def _check_texts(*values: Any) -> None:
    """Raise TypeError unless all values are strings."""
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is not a string")


def _by_shape(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Return the indices of the tensors of each shape."""
    groups: dict[torch.Size, list[int]] = {}
    for index, tensor in enumerate(tensors):
        groups.setdefault(tensor.shape, []).append(index)
    return list(groups.values())
