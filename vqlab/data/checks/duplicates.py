"""Warn of images that are equal pixel by pixel: with two labels, in two splits, or in one twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vqlab.data.category import Category, relative
from vqlab.data.images import read_image
from vqlab.data.inspection import ImageProperties
from vqlab.text import join_names
from vqlab.types import Sample


def duplicate_warnings(
    category: Category, images: Mapping[Path, ImageProperties], folder: Path, bits: int | None
) -> list[str]:
    """Return a sentence for each kind of duplicate; images of a single colour are ignored."""
    train = {sample.path for sample in category.train}
    labels: list[list[Sample]] = []
    splits: list[list[Sample]] = []
    train_copies: list[list[Sample]] = []
    test_copies: list[list[Sample]] = []
    for group in _equal_images(category.samples, images, bits):
        in_train = [sample.path in train for sample in group]
        if len({sample.label for sample in group}) > 1:
            labels.append(group)
        elif any(in_train) and not all(in_train):
            splits.append(group)
        else:
            (train_copies if all(in_train) else test_copies).append(group)
    leaked = sum(sample.path not in train for group in splits for sample in group)
    problems = (
        (
            labels,
            f"{_count(len(labels))} both normal and anomalous",
            "one of the labels is wrong; remove one copy of each",
        ),
        (
            splits,
            f"{_count(leaked, 'test image')} also in train",
            "their scores are meaningless; remove them from one of the two",
        ),
        (
            train_copies,
            f"{_count(len(train_copies))} in train more than once",
            "a held-out copy makes thresholds too low; remove the copies",
        ),
        (
            test_copies,
            f"{_count(len(test_copies))} in test more than once",
            "they count twice; remove the copies",
        ),
    )
    return [
        f"{what} ({_pairs(groups, folder)}): {why}." for groups, what, why in problems if groups
    ]


def _equal_images(
    samples: Iterable[Sample], images: Mapping[Path, ImageProperties], bits: int | None
) -> list[list[Sample]]:
    """Group samples with equal pixels. Only images with equal keys are decoded again."""
    candidates: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        image = images.get(sample.path)
        if image is not None and not image.flat:
            candidates[image.key].append(sample)
    groups: dict[bytes, list[Sample]] = defaultdict(list)
    for group in candidates.values():
        for sample in group if len(group) > 1 else ():
            pixels = read_image(sample.path, bits)
            digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
            groups[digest].append(sample)
    return [group for group in groups.values() if len(group) > 1]


def _count(count: int, noun: str = "image") -> str:
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"


def _pairs(groups: Sequence[Sequence[Sample]], folder: Path) -> str:
    return join_names([" = ".join(relative(s.path, folder) for s in g[:3]) for g in groups], 5)
