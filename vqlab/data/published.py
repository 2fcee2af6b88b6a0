"""Published datasets MVTec AD and VisA: image counts, licences, download addresses."""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """Numbers of images of a category: train, test normal, test anomalous (one mask each)."""

    train: int
    good: int
    defect: int


MVTEC: dict[str, Counts] = {
    "bottle": Counts(209, 20, 63),
    "cable": Counts(224, 58, 92),
    "capsule": Counts(219, 23, 109),
    "carpet": Counts(280, 28, 89),
    "grid": Counts(264, 21, 57),
    "hazelnut": Counts(391, 40, 70),
    "leather": Counts(245, 32, 92),
    "metal_nut": Counts(220, 22, 93),
    "pill": Counts(267, 26, 141),
    "screw": Counts(320, 41, 119),
    "tile": Counts(230, 33, 84),
    "toothbrush": Counts(60, 12, 30),
    "transistor": Counts(213, 60, 40),
    "wood": Counts(247, 19, 60),
    "zipper": Counts(240, 32, 119),
}
"""Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129 (2021), table 1."""

VISA: dict[str, Counts] = {
    "candle": Counts(900, 100, 100),
    "capsules": Counts(542, 60, 100),
    "cashew": Counts(450, 50, 100),
    "chewinggum": Counts(453, 50, 100),
    "fryum": Counts(450, 50, 100),
    "macaroni1": Counts(900, 100, 100),
    "macaroni2": Counts(900, 100, 100),
    "pcb1": Counts(904, 100, 100),
    "pcb2": Counts(901, 100, 100),
    "pcb3": Counts(905, 101, 100),
    "pcb4": Counts(904, 101, 100),
    "pipe_fryum": Counts(450, 50, 100),
}
"""Zou et al., SPot-the-Difference (2022): the one-class split, split_csv/1cls.csv."""


def published_counts(category: str) -> tuple[str, Counts] | None:
    """Return the published dataset that has a category of this name, and its counts."""
    if category in MVTEC:
        return "MVTec AD", MVTEC[category]
    return ("VisA", VISA[category]) if category in VISA else None


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
