"""KolektorSDD2: images and masks side by side in train and test, e.g. 10000.png, 10000_GT.png.

An image is anomalous if its mask marks a pixel.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from vqlab.data.category import Category, list_images
from vqlab.data.datasets.dataset import Counts, Dataset, Layout
from vqlab.data.images import read_mask
from vqlab.pixels.bit_depth import BadFile
from vqlab.text import join_names
from vqlab.types import ImageRecord

SUFFIX = "_GT"
THREADS = 4


class KolektorSDD2(Dataset):
    """KolektorSDD2; its anomalous training images are not used."""

    name = "KolektorSDD2"
    counts = {"kolektorsdd2": Counts(2085, 894, 110)}
    """Božič et al., Mixed supervision for surface-defect detection, Computers in Industry 129
    (2021): without the 246 anomalous training images."""

    def is_category(self, folder: Path) -> bool:
        if not (folder / "train").is_dir():
            return False
        with os.scandir(folder / "train") as entries:
            return any(entry.name.endswith(f"{SUFFIX}.png") for entry in entries)

    def published(self, category: str) -> Counts | None:
        return self.counts["kolektorsdd2"]

    def add_records(self, layout: Layout, folder: Path, category: Category) -> None:
        train = _list_split(folder / "train", category)
        category.train = [record for record in train if not record.label]
        category.test = _list_split(folder / "test", category)
        category.test.sort(key=lambda record: (record.defect, record.path))
        anomalous = len(train) - len(category.train)
        if anomalous:
            category.warnings.append(
                f"category {category.name}: {anomalous} of {len(train)} images in train are "
                "anomalous and not used: detectors learn from normal images."
            )
        if not category.train:
            category.errors.append(
                f"category {category.name} must have normal images in train; {folder} has none."
            )

    def is_unused(self, folder: Path, path: Path) -> bool:
        return path in (folder / "train", folder / "test")


def _list_split(folder: Path, category: Category) -> list[ImageRecord]:
    """Return the records of `train` or `test`; an image without a mask is skipped."""
    files = {path.stem: path for path in list_images(folder, category)}
    pairs = [(path, files[stem + SUFFIX]) for stem, path in files.items() if stem + SUFFIX in files]
    paired = {path for pair in pairs for path in pair}
    without = [path.name for path in files.values() if path not in paired]
    if without:
        category.warnings.append(
            f"category {category.name}: skipped {join_names(without)} in {folder.name}: no mask "
            f"<name>{SUFFIX}.png says whether the image is normal."
        )
    with ThreadPoolExecutor(THREADS) as pool:
        marked = list(pool.map(_marks, [mask for _, mask in pairs]))
    records = []
    for (path, mask), result in zip(pairs, marked, strict=True):
        if isinstance(result, str):
            category.errors.append(result)
        else:
            defect = "defect" if result else "good"
            records.append(ImageRecord(path, category.name, defect, mask if result else None))
    return records


def _marks(path: Path) -> bool | str:
    """Return whether a mask marks a pixel, or why it cannot be read."""
    state = path.stat()
    try:
        return _cached_marks(path.absolute(), state.st_size, state.st_mtime_ns)
    except BadFile as error:
        return str(error)


@lru_cache(maxsize=20_000)
def _cached_marks(path: Path, size: int, modified: int) -> bool:
    return bool(read_mask(path).any())
