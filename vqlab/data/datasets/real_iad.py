"""Real-IAD: a JSON file per category lists the images of each split.

    <root>/realiad_1024/audiojack/OK/S0001/audiojack_0001_OK_C1_….jpg
    <root>/realiad_jsons/audiojack.json

`data.root` may also be one of the folders of JSON files, such as realiad_jsons_sv (single view) or
realiad_jsons_fuiad_0.1, or one of the folders of images, which selects a resolution.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vqlab.data.category import Category
from vqlab.data.datasets.dataset import Counts, Dataset, Layout
from vqlab.data.folder_names import subfolders
from vqlab.text import visible
from vqlab.types import ImageRecord, UserError

IMAGES = ("realiad_1024", "realiad_raw", "realiad_512", "realiad_256")
"""Folders of images; the first that exists is read."""
LISTS = "realiad_jsons"
"""Prefix of the folders of JSON files; of this name: all five views."""


class RealIAD(Dataset):
    """Real-IAD."""

    name = "Real-IAD"
    counts = {}
    categories = 30
    totals = (Counts(36465, 63256, 51329), Counts(10408, 10387, 9415))
    """Wang et al., Real-IAD, CVPR 2024: realiad_jsons (five views), realiad_jsons_sv (top view)."""

    def detect(self, root: Path) -> Layout | None:
        folder = Path(os.path.abspath(root))
        for top in (folder, *folder.parents[:3]):
            if any(path.name.startswith(LISTS) for path in subfolders(top)):
                return self._detect(top, folder)
            if top.name.startswith(LISTS) or top.name in IMAGES or top.parent.name in IMAGES:
                continue  # inside the dataset
            return None
        return None

    def _detect(self, top: Path, folder: Path) -> Layout | None:
        """Return the layout of the dataset `top`; `folder` is it or a folder in it."""
        inside = folder.relative_to(top).parts
        lists = folder if inside and inside[0].startswith(LISTS) else top / LISTS
        if not any(lists.glob("*.json")):  # the archive has a folder of the same name inside
            lists = next((path for path in subfolders(lists) if path.name == LISTS), lists)
        named = [name for name in inside[:1] if name in IMAGES]
        places = [top / name for name in named or IMAGES if (top / name).is_dir()]
        if not places or not any(lists.glob("*.json")):
            missing = f"{LISTS}/<category>.json" if places else f"{' or '.join(IMAGES[:2])}"
            raise UserError(
                f"data.root {folder} must contain the images and the lists of Real-IAD; {top} has "
                f"no {missing}; extract the archive of the {'lists' if places else 'images'} there."
            )
        existing = {path.name for path in subfolders(places[0])}
        names = sorted(path.stem for path in lists.glob("*.json") if path.stem in existing)
        if not names:
            raise UserError(
                f"data.root {folder} must have images of a category; {places[0]} has no folder "
                f"with the name of a list in {lists}; extract the archive of a category there."
            )
        single = named and len(inside) > 1 and inside[1] in names
        names = [inside[1]] if single else names
        folders = {name: places[0] / name for name in names}
        return Layout(top, self.source, folders, bool(single), dataset=self, lists=lists)

    def place(self, layout: Layout, folder: Path) -> Path:
        assert layout.lists is not None
        return layout.lists / f"{folder.name}.json"

    def add_records(self, layout: Layout, folder: Path, category: Category) -> None:
        place = self.place(layout, folder)
        try:
            splits = read_lists(place)
            category.train = list(_records(splits["train"], splits["meta"], folder, category.name))
            category.test = list(_records(splits["test"], splits["meta"], folder, category.name))
        except UserError as error:
            category.errors.append(f"{visible(place)} {error}")
            return
        anomalous = sum(record.label for record in category.train)
        if anomalous:
            category.warnings.append(
                f"category {category.name}: {anomalous} of {len(category.train)} training images "
                f"are anomalous but used as normal, as listed in {place.parent.name}."
            )
        category.train = [ImageRecord(r.path, r.category, "good") for r in category.train]
        category.train.sort(key=lambda record: record.path)
        category.test.sort(key=lambda record: (record.defect, record.path))
        records = category.records
        missing = [record.path for record in records if not record.path.is_file()]
        if missing:
            category.errors.append(
                f"{len(missing)} of {len(records)} images listed in {visible(place)} are missing, "
                f"e.g. {visible(missing[0])}; extract the archive of the category again."
            )

    def is_unused(self, folder: Path, path: Path) -> bool:
        return True  # a list may select some views


def read_lists(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file: `meta`, `train`, `test`. Raises UserError, a sentence
    without its subject."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"must be JSON: {' '.join(str(error).split())}.") from None
    valid = isinstance(tree, dict) and isinstance(tree.get("meta"), dict)
    if not valid or not all(isinstance(tree.get(split), list) for split in ("train", "test")):
        raise UserError("must have meta, train and test; restore the file of the dataset.")
    return dict(tree)


def _records(
    entries: list[Any], meta: dict[str, Any], folder: Path, name: str
) -> Iterator[ImageRecord]:
    """Yield the records of a split. Raises UserError as `read_lists`."""
    normal = meta.get("normal_class", "OK")
    for number, entry in enumerate(entries, 1):
        try:
            defect, mask = str(entry["anomaly_class"]), entry.get("mask_path")
            image = _inside(folder, entry["image_path"])
            if defect == normal or (mask is None and defect in ("", "None")):
                yield ImageRecord(image, name, "good")
            else:
                yield ImageRecord(image, name, defect, mask and _inside(folder, mask))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(
                "must list images with anomaly_class, image_path and mask_path, relative to the "
                f"category's folder; entry {number} is {visible(str(entry)[:200])}; restore the "
                "file of the dataset."
            ) from None


def _inside(folder: Path, text: str) -> Path:
    """Return a path in `folder`. Raises ValueError for one that leads elsewhere."""
    relative = Path(text)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(text)
    return folder / relative
