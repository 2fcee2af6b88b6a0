"""Score new normal images that set a threshold; none of them may be a training or test image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.data import Splits, areas_differ, pixels_digest
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.predict.files import find_images
from vqlab.predict.properties import properties_of
from vqlab.text import join_names, visible
from vqlab.types import ImageRecord

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class GoodImages:
    """Normal images and their scores."""

    digests: dict[Path, str]
    """SHA-256 of the pixels of each file, see `pixels_digest`."""
    scores: NDArray[np.float64]
    properties: dict[str, list[Any]]
    """Properties of the scored images by name, as in the metadata of a checkpoint."""
    notes: tuple[str, ...]


def score_good_images(
    model: Model, folder: Path, splits: Splits, on_progress: OnProgress
) -> GoodImages:
    """Score the images in `folder`, equal ones once.

    If a joint model inspects a different area in each category, they must be in folders named like
    the categories. Raises UserError if they are not, or if one cannot be read, is a test image (it
    would no longer measure anything) or a training image (its score is lower than that of new
    images), compared pixel by pixel.
    """
    files = find_images([folder])
    bad = [f"{visible(path)} ({error})" for path, error in files.errors.items() if error]
    if bad:
        raise UserError(f"images in {folder} cannot be read: {join_names(bad)}; remove them.")
    paths = list(files.errors)
    views = {path: _for_image(model, path) for path in paths}
    digests = {path: pixels_digest(model.read(path)) for path in paths}
    used = {"test": splits.test.records, "training": splits.train.records}
    reasons = {
        "test": "an image that sets a threshold cannot be used for testing",
        "training": "a model scores its training images lower than new ones",
    }
    for name, records in used.items():
        same = _same(digests, _digests(model, records))
        if same:
            raise UserError(
                f"{len(same)} of {len(paths)} images in {folder} are {name} images: "
                f"{join_names([visible(path) for path in same])}; {reasons[name]}; remove them."
            )
    unique = list({digest: path for path, digest in reversed(digests.items())}.values())[::-1]
    scores: list[float] = []
    rows: list[dict[str, Any]] = []
    for done, path in enumerate(unique, 1):
        prediction = views[path].score(path)
        scores.append(prediction.score)
        rows.append({**properties_of(prediction), "category": views[path].image_category or ""})
        on_progress("scoring good images", done, len(unique))
    notes = list(files.notes)
    if len(unique) < len(paths):
        notes.append(f"{len(paths) - len(unique)} images in {folder} are copies; each counts once.")
    names = rows[0] if rows else ()
    properties = {n: [row[n] for row in rows if row[n] is not None] for n in names}
    return GoodImages(digests, np.array(scores, np.float64), properties, tuple(notes))


def _for_image(model: Model, path: Path) -> Model:
    """Return the model for an image in a folder of good images."""
    if not areas_differ(model.areas):
        return model
    category = path.absolute().parent.name
    if category not in model.categories:
        raise UserError(
            f"good image {visible(path)} must be in a folder named like its category "
            f"({join_names(model.categories)}), because the model inspects a different area in "
            "each; move it."
        )
    return model.for_category(category)


def _digests(model: Model, records: Sequence[ImageRecord]) -> set[str]:
    return {pixels_digest(model.read(path)) for path in {record.path for record in records}}


def _same(digests: dict[Path, str], others: set[str]) -> list[Path]:
    return [path for path, digest in digests.items() if digest in others]


def table_of(images: GoodImages) -> list[dict[str, Any]]:
    """Return file and digest of each image, as JSON values."""
    return [{"file": visible(path), "pixels": digest} for path, digest in images.digests.items()]
