"""MVTec LOCO AD: a folder of masks for each anomalous image, one mask per defect.

A logical anomaly, such as a missing part, has no definite extent: its mask covers all places where
it could be marked, and marking its saturation area is enough (Bergmann et al., Beyond Dents and
Scratches, IJCV 130 (2022)). `defects_config.json` maps values of masks to these areas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqlab.data.category import Category, list_images, warn_unmatched_masks
from vqlab.data.category_folders import find_folders, list_samples
from vqlab.data.datasets.dataset import Counts, Dataset, Layout
from vqlab.data.folder_names import subfolders
from vqlab.data.images import mask_values
from vqlab.metrics import Defect
from vqlab.pixels.bit_depth import BadFile
from vqlab.pixels.decoding import decode
from vqlab.text import join_names, visible
from vqlab.types import UserError

CONFIG = "defects_config.json"
_COUNTS = {
    "breakfast_box": (351, 62, 102, 90, 83), "juice_bottle": (335, 54, 94, 94, 142),
    "pushpins": (372, 69, 138, 81, 91), "screw_bag": (360, 60, 122, 82, 137),
    "splicing_connectors": (360, 60, 119, 85, 108),
}  # fmt: skip
"""Train, validation, test normal, structural and logical anomalies, as in the archive of 2022."""


class MVTecLOCO(Dataset):
    """MVTec LOCO AD."""

    name = "MVTec LOCO AD"
    counts = {name: Counts(n[0] + n[1], n[2], n[3] + n[4]) for name, n in _COUNTS.items()}
    validation = {name: numbers[1] for name, numbers in _COUNTS.items()}

    def is_category(self, folder: Path) -> bool:
        return (folder / CONFIG).is_file() and (folder / "train").is_dir()

    def add_records(self, layout: Layout, folder: Path, category: Category) -> None:
        category.mask_place = "ground_truth/<defect>/<name>/000.png"
        list_samples(replace(find_folders(folder, category), masks=None), category)
        masks = folder / "ground_truth"
        unused = {path for kind in subfolders(masks) for path in subfolders(kind)}
        for index, record in enumerate(category.test):
            place = masks / record.defect / record.path.stem
            if record.label and place.is_dir() and list_images(place):
                category.test[index] = replace(record, mask=place)
                unused.discard(place)
        warn_unmatched_masks(category, unused)
        try:
            read_saturation(folder / CONFIG)
        except UserError as error:
            category.errors.append(str(error))


@dataclass(frozen=True)
class Saturation:
    """Saturation area of a kind of defect."""

    threshold: float
    """Pixels, or a share of the defect's mask if `relative`."""
    relative: bool

    def area(self, mask_area: int) -> float:
        """Return the saturation area, in pixels, of a mask of `mask_area` pixels."""
        area = self.threshold * mask_area if self.relative else self.threshold
        return min(max(area, 1.0), float(mask_area))


def read_saturation(path: Path) -> dict[int, Saturation]:
    """Return the saturation areas by value in the masks. Raises UserError for another content."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{visible(path)} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{visible(path)} must be JSON: {' '.join(str(error).split())}.") from None
    try:
        areas = {int(entry["pixel_value"]): _saturation(entry) for entry in tree}
    except (KeyError, TypeError, ValueError):
        areas = {}
    if not areas or not all(s.threshold > 0 for s in areas.values()):
        raise UserError(
            f"{visible(path)} must list defects as {{pixel_value: 1 to 255, saturation_threshold: "
            "a number above 0, relative_saturation: true or false}; restore the file of the "
            "dataset."
        )
    return areas


def _saturation(entry: Any) -> Saturation:
    return Saturation(float(entry["saturation_threshold"]), bool(entry["relative_saturation"]))


def saturated_defects(masks: Path) -> Iterator[Defect]:
    """Yield the defects of an image from its folder of masks. Raises BadFile, and UserError for a
    value that the configuration lacks."""
    areas = read_saturation(masks.parents[2] / CONFIG)
    for path in list_images(masks):
        values = mask_values(decode(path).image).max(axis=2)
        mask = values > 0
        indices = sorted({int(value) for value in values[mask]})
        if len(indices) != 1 or indices[0] not in areas:
            raise BadFile(
                path,
                f"its values above 0 are {join_names([str(value) for value in indices]) or 'none'}",
                f"a mask must have one value, a pixel_value of {CONFIG}",
            )
        size = int(mask.sum())
        yield Defect(mask, areas[indices[0]].area(size) / size)
