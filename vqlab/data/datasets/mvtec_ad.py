"""MVTec AD, and any folder in its layout: train/good, test/good, test/<defect>, ground_truth."""

from __future__ import annotations

from pathlib import Path

from vqlab.data.category import Category
from vqlab.data.category_folders import find_folders, is_category, is_good_and_bad, list_samples
from vqlab.data.datasets.dataset import Counts, Dataset, Layout
from vqlab.data.folder_names import BAD, GOOD, TEST, named, subfolders

_COUNTS = {
    "bottle": (209, 20, 63), "cable": (224, 58, 92), "capsule": (219, 23, 109),
    "carpet": (280, 28, 89), "grid": (264, 21, 57), "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92), "metal_nut": (220, 22, 93), "pill": (267, 26, 141),
    "screw": (320, 41, 119), "tile": (230, 33, 84), "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40), "wood": (247, 19, 60), "zipper": (240, 32, 119),
}  # fmt: skip
"""Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129 (2021), table 1."""


class MVTecAD(Dataset):
    """MVTec AD; also two folders of normal and anomalous images."""

    name = "MVTec AD"
    counts = {category: Counts(*numbers) for category, numbers in _COUNTS.items()}

    def is_category(self, folder: Path) -> bool:
        return is_category(folder)

    def add_records(self, layout: Layout, folder: Path, category: Category) -> None:
        list_samples(find_folders(folder, category), category)

    def is_unused(self, folder: Path, path: Path) -> bool:
        if path in named(folder, TEST):
            return True
        both = is_good_and_bad(folder)
        return both and path in set(subfolders(folder)) - set(named(folder, GOOD | BAD))
