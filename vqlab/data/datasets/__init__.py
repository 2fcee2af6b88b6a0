"""Published datasets, one file each: to add one, add its file and its entry here."""

from __future__ import annotations

from pathlib import Path

from vqlab.data.datasets.btad import BTAD
from vqlab.data.datasets.dataset import Counts, Dataset, Layout
from vqlab.data.datasets.kolektor_sdd2 import KolektorSDD2
from vqlab.data.datasets.mvtec_ad import MVTecAD
from vqlab.data.datasets.mvtec_ad_2 import MVTecAD2, require_labels
from vqlab.data.datasets.mvtec_loco import MVTecLOCO, saturated_defects
from vqlab.data.datasets.real_iad import RealIAD
from vqlab.data.datasets.visa import VISA_SPLIT, VisA

MVTEC_AD, VISA = MVTecAD(), VisA()
DATASETS: tuple[Dataset, ...] = (
    VISA, RealIAD(), MVTecAD2(), MVTecLOCO(), KolektorSDD2(), BTAD(), MVTEC_AD,
)  # fmt: skip
"""In order of detection: the first one that recognises a folder is used; the layout of MVTec AD is
the most general."""

HOW_TO_GET = """\
How to get datasets:
  MVTec AD  https://www.mvtec.com/company/research/datasets/mvtec-ad
            CC BY-NC-SA 4.0 (not for commercial use); extract it to data/MVTec
  VisA      https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA.tar
            CC BY 4.0; extract it to data/VisA
            (description: https://github.com/amazon-science/spot-diff)
  or any folder (data.root, DATA= for make) with this layout:
    <root>/<category>/train/good/000.png
    <root>/<category>/test/good/000.png
    <root>/<category>/test/<defect>/000.png
    <root>/<category>/ground_truth/<defect>/000_mask.png"""


def dataset_of(folder: Path) -> Dataset | None:
    """Return the dataset whose layout a category's folder has; None if it is not a category."""
    return next((dataset for dataset in DATASETS if dataset.is_category(folder)), None)


def published_counts(dataset: Dataset | None, category: str) -> tuple[str, Counts] | None:
    """Return the name of a published dataset and its numbers of images of a category.

    dataset: that of the category's layout. In the layout of MVTec AD, a name may be VisA's.
    """
    if dataset is not None and dataset not in (MVTEC_AD, VISA):
        counts = dataset.published(category)
        return None if counts is None else (dataset.name, counts)
    for each in (MVTEC_AD, VISA):
        if category in each.counts:
            return each.name, each.counts[category]
    return None


__all__ = [
    "DATASETS",
    "HOW_TO_GET",
    "MVTEC_AD",
    "VISA",
    "VISA_SPLIT",
    "Counts",
    "Dataset",
    "Layout",
    "dataset_of",
    "published_counts",
    "require_labels",
    "saturated_defects",
]
