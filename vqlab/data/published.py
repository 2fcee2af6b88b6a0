"""Published datasets MVTec AD and VisA: image counts, licences, download addresses."""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """Numbers of images of a category: train, test normal, test anomalous (one mask each)."""

    train: int
    good: int
    defect: int


_MVTEC = {
    "bottle": (209, 20, 63), "cable": (224, 58, 92), "capsule": (219, 23, 109),
    "carpet": (280, 28, 89), "grid": (264, 21, 57), "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92), "metal_nut": (220, 22, 93), "pill": (267, 26, 141),
    "screw": (320, 41, 119), "tile": (230, 33, 84), "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40), "wood": (247, 19, 60), "zipper": (240, 32, 119),
}  # fmt: skip
"""Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129 (2021), table 1."""

_VISA = {
    "candle": (900, 100, 100), "capsules": (542, 60, 100), "cashew": (450, 50, 100),
    "chewinggum": (453, 50, 100), "fryum": (450, 50, 100), "macaroni1": (900, 100, 100),
    "macaroni2": (900, 100, 100), "pcb1": (904, 100, 100), "pcb2": (901, 100, 100),
    "pcb3": (905, 101, 100), "pcb4": (904, 101, 100), "pipe_fryum": (450, 50, 100),
}  # fmt: skip
"""Zou et al., SPot-the-Difference (2022): the one-class split, split_csv/1cls.csv."""


MVTEC = {name: Counts(*numbers) for name, numbers in _MVTEC.items()}
VISA = {name: Counts(*numbers) for name, numbers in _VISA.items()}


def published_counts(category: str) -> tuple[str, Counts] | None:
    """Return the published dataset that has a category of this name, and its counts."""
    for dataset, counts in (("MVTec AD", MVTEC), ("VisA", VISA)):
        if category in counts:
            return dataset, counts[category]
    return None


HOW_TO_GET = """\
How to get datasets:
  MVTec AD  https://www.mvtec.com/company/research/datasets/mvtec-ad
            CC BY-NC-SA 4.0 (not for commercial use); extract it to data/MVTec
  VisA      https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA.tar
            CC BY 4.0; extract it to data/VisA
            (about it: https://github.com/amazon-science/spot-diff)
  or any folder (data.root, DATA= for make) with this layout:
    <root>/<category>/train/good/000.png
    <root>/<category>/test/good/000.png
    <root>/<category>/test/<defect>/000.png
    <root>/<category>/ground_truth/<defect>/000_mask.png"""
