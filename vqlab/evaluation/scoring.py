"""One pass over a set of images: scores, alternative scores, panels and prototypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vqlab.detectors import (
    Extracted,
    HasAlternatives,
    HasPanels,
    HasPrototypes,
    ImagePrototypes,
    Scorer,
    extract,
    scores,
)
from vqlab.evaluation.scored import (
    ExtractedSet,
    Predictions,
    Scored,
    concatenate_prototypes,
    crop,
    lowest_outside,
)
from vqlab.evaluation.spool import Array, Budget, Spool
from vqlab.evaluation.tiles import Blend, Mosaic
from vqlab.features import FeatureSet
from vqlab.pixels.resizing import Geometry
from vqlab.types import Batch, ImageRecord, Scores, Tile, UserError

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


class _Truth:
    """Collects the ground truth of a set of images, batch by batch."""

    def __init__(self) -> None:
        self.masks: list[Array] = []
        self.records: list[ImageRecord] = []
        self.geometry: list[Geometry] = []
        self.inspected: list[Array] = []
        self.tiles: list[Tile] = []
        """Tiles of the images, if the batches have tiles."""
        self._mosaics = Mosaic(), Mosaic()
        self._shared: dict[tuple[tuple[int, ...], bytes], Array] = {}
        """Masks that images share, by shape and packed pixels: empty ones and inspected areas."""

    def add(self, batch: Batch) -> None:
        if batch.tiles is not None:
            self._add_tiles(batch, batch.tiles)
            return
        for values, geometry in zip(batch.masks, batch.geometry, strict=True):
            self._add_mask(crop(values.numpy(), geometry))
        self.inspected += map(self._share, inspected_in(batch) or [])
        self.records += batch.records
        self.geometry += batch.geometry

    def _add_tiles(self, batch: Batch, tiles: Sequence[Tile]) -> None:
        """Add tiles; an image counts when its last tile is added."""
        masks, inspected = self._mosaics
        self.tiles += tiles
        for place, tile in enumerate(tiles):
            mask = masks.add(batch.masks[place].numpy(), tile)
            if batch.inspected is not None:
                area = inspected.add(batch.inspected[place].numpy(), tile)
                self.inspected += [] if area is None else [self._share(area)]
            if mask is not None:
                self._add_mask(mask)
                self.records.append(batch.records[place])
                self.geometry.append(batch.geometry[place])

    def _add_mask(self, mask: Array) -> None:
        self.masks.append(mask if mask.any() else self._share(mask))

    def _share(self, mask: Array) -> Array:
        """Return the equal mask of an earlier image, else a copy of this one for later images."""
        key = mask.shape, np.packbits(mask).tobytes()
        if key not in self._shared:
            self._shared[key] = mask.copy()
        return self._shared[key]

    def scored(self, maps: list[Array], image_scores: Sequence[Array]) -> Scored:
        labels = np.array([record.label for record in self.records], dtype=np.int64)
        values = np.concatenate(image_scores) if image_scores else np.empty(0)
        return Scored(
            maps,
            values,
            labels,
            self.masks,
            tuple(self.records),
            tuple(self.geometry),
            self.inspected or None,
        )


class _Maps:
    """Collects the anomaly maps and image scores of a set of images, batch by batch."""

    def __init__(self, budget: Budget) -> None:
        self.maps, self.image_scores = Spool(budget), list[Array]()
        self._blend = Blend()

    def add(self, result: Scores, batch: Batch, truth: _Truth) -> None:
        """Add the scores of a batch, which was added to `truth`."""
        maps, image_scores = _checked(result, batch.records, tuple(batch.masks.shape))
        if batch.tiles is not None:
            for map, score, tile in zip(maps, image_scores, batch.tiles, strict=True):
                self.add_tile(map, float(score), tile, truth.inspected)
            return
        self.image_scores.append(image_scores)
        inspected = inspected_in(batch)
        for place, (values, geometry) in enumerate(zip(maps, batch.geometry, strict=True)):
            map = crop(values, geometry)
            self.maps.add(map if inspected is None else lowest_outside(map, inspected[place]))

    def add_tile(self, map: Array, score: float, tile: Tile, inspected: Sequence[Array]) -> None:
        """Add a tile. inspected: of all images up to the tile's; empty: all pixels."""
        blended = self._blend.add(map, score, tile)
        if blended is not None:
            whole = blended[0]
            if inspected:
                whole = lowest_outside(whole, inspected[len(self.image_scores)])
            self.maps.add(whole)
            self.image_scores.append(np.array([blended[1]]))


@torch.inference_mode()
def extract_images(detector: Scorer, features: FeatureSet) -> ExtractedSet:
    """Extract every image of a set, one at a time."""
    features = FeatureSet(features.images, features.backbone, features.device, batch_size=1)
    truth, extracted = _Truth(), list[Extracted]()
    shape: tuple[int, ...] = ()
    for batch, sample in features.with_batches():
        extracted.append(extract(detector, sample))
        shape = tuple(batch.masks.shape[1:])
        truth.add(batch)
    return ExtractedSet(extracted, truth.scored([], []), shape, tuple(truth.tiles))


@torch.inference_mode()
def score_extracted(detector: Scorer, images: ExtractedSet) -> Scored:
    """Score extracted outputs by the detector's current settings. Raises as `predict_images`."""
    if images.tiles:
        return _score_tiles(detector, images)
    maps, values = Spool(), list[Array]()
    truth = images.truth
    for number, extracted in enumerate(images.extracted):
        record = truth.records[number : number + 1]
        map, value = _checked(scores(detector, extracted), record, (1, *images.shape))
        values.append(value)
        cropped = crop(map[0], truth.geometry[number])
        if truth.inspected is not None:
            cropped = lowest_outside(cropped, truth.inspected[number])
        maps.add(cropped)
    return replace(truth, maps=maps.arrays(), image_scores=np.concatenate(values))


def _score_tiles(detector: Scorer, images: ExtractedSet) -> Scored:
    """Score the extracted outputs of tiles as `score_extracted`."""
    maps, truth = _Maps(Budget()), images.truth
    for extracted, tile in zip(images.extracted, images.tiles, strict=True):
        number = len(maps.image_scores)
        record = truth.records[number : number + 1]
        map, value = _checked(scores(detector, extracted), record, (1, *images.shape))
        maps.add_tile(map[0], float(value[0]), tile, truth.inspected or ())
    values = np.concatenate(maps.image_scores)
    return replace(truth, maps=maps.maps.arrays(), image_scores=values)


def score_images(
    detector: Scorer, features: FeatureSet, progress: Progress | None = None
) -> Scored:
    """Score every image of a set. Raises as `predict_images`."""
    return predict_images(detector, features, progress).scored


@torch.inference_mode()
def predict_images(
    detector: Scorer,
    features: FeatureSet,
    progress: Progress | None = None,
    *,
    alternatives: bool = False,
    panels: bool = False,
    budget: Budget | None = None,
) -> Predictions:
    """Run a detector once over a set of images, batch by batch, and derive all results from that.

    A set of tiles (`ImageSet.tiled`) gives results of the images; it has neither panels nor
    prototypes. alternatives, panels: also compute these if the detector offers them. budget: of the
    memory for maps, if several sets share it. Raises UserError that names the first image with a
    score that is not finite, and ValueError for maps or scores of a wrong shape.
    """
    truth, budget = _Truth(), budget or Budget()
    main, others = _Maps(budget), dict[str, _Maps]()
    pictures: dict[str, Spool] = {}
    prototypes: list[ImagePrototypes] = []
    tiled = features.images.is_tiles
    total = features.images.image_count if tiled else len(features)
    for batch, sample in features.with_batches(None if tiled else progress):
        extracted = extract(detector, sample)
        truth.add(batch)
        main.add(scores(detector, extracted), batch, truth)
        if alternatives and isinstance(detector, HasAlternatives):
            for name, result in detector.alternatives(extracted).items():
                others.setdefault(name, _Maps(budget)).add(result, batch, truth)
        if panels and batch.tiles is None and isinstance(detector, HasPanels):
            for title, panel in detector.panels(extracted).items():
                spool = pictures.setdefault(title, Spool(budget))
                for picture in panel_arrays(panel):
                    spool.add(picture)
        if batch.tiles is None and isinstance(detector, HasPrototypes):
            part = detector.prototypes(extracted)
            prototypes += [] if part is None else [part]
        if progress is not None:
            progress(len(truth.records), total)
    return Predictions(
        truth.scored(main.maps.arrays(), main.image_scores),
        {name: truth.scored(o.maps.arrays(), o.image_scores) for name, o in others.items()},
        {title: spool.arrays() for title, spool in pictures.items()},
        concatenate_prototypes(prototypes),
    )


def panel_arrays(panel: Tensor) -> Array:
    """Convert (B, 3, h, w) in [0, 1] to (B, h, w, 3) uint8, and codes (B, h, w) to int32."""
    if panel.ndim == 3:
        return panel.int().cpu().numpy()
    pixels = (panel.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _checked(
    result: Scores, records: Sequence[ImageRecord], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return maps (B, H, W) float32 and image scores (B,) float64 of a batch; all finite."""
    maps = result.anomaly_map.float().cpu().numpy()
    values = result.image_score.double().cpu().numpy()
    if maps.shape != shape or values.shape != shape[:1]:
        raise ValueError(
            f"anomaly_map must be {shape} and image_score {shape[:1]} like the images; "
            f"got {maps.shape} and {values.shape}."
        )
    finite = np.isfinite(values) & np.isfinite(maps).all(axis=(1, 2))
    if not finite.all():
        raise UserError(
            f"the scores of image {records[int(np.argmin(finite))].path} must be finite numbers; "
            "got NaN or infinity: the training diverged; lower training.learning_rate."
        )
    return maps, values


def inspected_in(batch: Batch) -> list[Array] | None:
    """Return the inspected pixels (h, w) of each image, cropped to its box; None: all."""
    if batch.inspected is None:
        return None
    pairs = zip(batch.inspected, batch.geometry, strict=True)
    return [crop(mask.numpy(), geometry) for mask, geometry in pairs]
