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
)
from vqlab.evaluation.spool import Array, Budget, Spool
from vqlab.evaluation.tiles import Blend, Mosaic
from vqlab.features import FeatureSet
from vqlab.pixels.area import lowest_outside
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
        for place, geometry in enumerate(batch.geometry):
            self._add_mask(crop(batch.masks[place].numpy(), geometry))
            if batch.inspected is not None:
                area = crop(batch.inspected[place].numpy(), geometry)
                self.inspected.append(self._share(area))
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

    def scored(self, maps: list[Array], image_scores: Sequence[float]) -> Scored:
        labels = np.array([record.label for record in self.records], dtype=np.int64)
        return Scored(
            maps,
            np.array(image_scores, np.float64),
            labels,
            self.masks,
            tuple(self.records),
            tuple(self.geometry),
            self.inspected or None,
        )


class _Maps:
    """Collects the anomaly maps and image scores of a set of images, one after the other."""

    def __init__(self, budget: Budget) -> None:
        self.maps, self.image_scores = Spool(budget), list[float]()
        self._blend = Blend()

    def add(
        self, map: Array, score: float, place: Geometry | Tile, inspected: Sequence[Array]
    ) -> None:
        """Add the map (S, S) and the score of an image, or of one of its tiles.

        inspected: inspected pixels of all images up to this one; empty: all pixels.
        """
        if isinstance(place, Tile):
            blended = self._blend.add(map, score, place)
            if blended is None:
                return
            whole, score = blended
        else:
            whole = crop(map, place)
        if inspected:
            whole = lowest_outside(whole, inspected[len(self.image_scores)])
        self.maps.add(whole)
        self.image_scores.append(score)

    def add_batch(self, result: Scores, batch: Batch, inspected: Sequence[Array]) -> None:
        """Add the scores of a batch, see `add`."""
        maps, image_scores = _checked(result, batch.records, tuple(batch.masks.shape))
        places: Sequence[Geometry | Tile] = batch.tiles or batch.geometry
        for map, score, place in zip(maps, image_scores.tolist(), places, strict=True):
            self.add(map, score, place, inspected)


@torch.inference_mode()
def extract_images(detector: Scorer, features: FeatureSet) -> ExtractedSet:
    """Extract every image of a set, one at a time."""
    features = FeatureSet(features.images, features.backbone, features.device, batch_size=1)
    truth, extracted = _Truth(), list[Extracted]()
    shapes: list[tuple[int, ...]] = []
    for batch, sample in features.with_batches():
        extracted.append(extract(detector, sample))
        shapes.append(tuple(batch.masks.shape[1:]))
        truth.add(batch)
    return ExtractedSet(extracted, truth.scored([], []), shapes, tuple(truth.tiles))


@torch.inference_mode()
def score_extracted(detector: Scorer, images: ExtractedSet) -> Scored:
    """Score extracted outputs by the detector's current settings. Raises as `predict_images`."""
    maps, truth = _Maps(Budget()), images.truth
    places: Sequence[Geometry | Tile] = images.tiles or truth.geometry
    for extracted, place, shape in zip(images.extracted, places, images.shapes, strict=True):
        number = len(maps.image_scores)
        record = truth.records[number : number + 1]
        map, value = _checked(scores(detector, extracted), record, (1, *shape))
        maps.add(map[0], float(value[0]), place, truth.inspected or ())
    return replace(
        truth, maps=maps.maps.arrays(), image_scores=np.array(maps.image_scores, np.float64)
    )


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
    """Run a detector once over a set of images, in batches, and derive all results from its
    outputs.

    A set of tiles (`ImageSet.tiled`) gives results of the images; it has neither panels nor
    prototypes. alternatives, panels: also compute these if the detector offers them. budget: of the
    memory for maps, if several sets share it. Raises UserError that names the first image with a
    score that is not finite, and ValueError for maps or scores of a wrong shape.
    """
    truth, budget = _Truth(), budget or Budget()
    main, alternative_maps = _Maps(budget), dict[str, _Maps]()
    pictures: dict[str, Spool] = {}
    prototypes: list[ImagePrototypes] = []
    tiled = features.images.is_tiles
    total = features.images.image_count if tiled else len(features)
    for batch, sample in features.with_batches(None if tiled else progress):
        extracted = extract(detector, sample)
        truth.add(batch)
        main.add_batch(scores(detector, extracted), batch, truth.inspected)
        if alternatives and isinstance(detector, HasAlternatives):
            for name, result in detector.alternatives(extracted).items():
                maps = alternative_maps.setdefault(name, _Maps(budget))
                maps.add_batch(result, batch, truth.inspected)
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
        {
            name: truth.scored(o.maps.arrays(), o.image_scores)
            for name, o in alternative_maps.items()
        },
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
