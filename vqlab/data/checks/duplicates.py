"""Warn of images that are equal pixel by pixel: with two labels, in two splits, or in one twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vqlab.data.category import Category, relative
from vqlab.data.images import pixels_digest
from vqlab.data.inspection import ImageProperties
from vqlab.pixels.decoding import read_image
from vqlab.text import join_names
from vqlab.types import ImageRecord


def duplicate_warnings(
    category: Category, images: Mapping[Path, ImageProperties], folder: Path, bits: int | None
) -> list[str]:
    """Return a sentence for each kind of duplicate; images of a single colour are ignored."""
    train = {record.path for record in (*category.train, *category.held_out)}
    kinds: dict[str, list[list[ImageRecord]]] = defaultdict(list)
    for group in _equal_images(category.records, images, bits):
        in_train = [record.path in train for record in group]
        if len({record.label for record in group}) > 1:
            kinds["labels"].append(group)
        elif any(in_train):
            kinds["train" if all(in_train) else "splits"].append(group)
        else:
            kinds["test"].append(group)
    leaked = sum(record.path not in train for group in kinds["splits"] for record in group)
    problems = {
        "labels": (
            f"{_count(len(kinds['labels']))} both normal and anomalous",
            "one of the labels is wrong; remove one copy of each",
        ),
        "splits": (
            f"{_count(leaked, 'test image')} also in train",
            "their scores are meaningless; remove them from one of the two",
        ),
        "train": (
            f"{_count(len(kinds['train']))} in train more than once",
            "a held-out copy makes thresholds too low; remove the copies",
        ),
        "test": (
            f"{_count(len(kinds['test']))} in test more than once",
            "they count twice; remove the copies",
        ),
    }
    return [
        f"{problem} ({_pairs(kinds[kind], folder)}): {remedy}."
        for kind, (problem, remedy) in problems.items()
        if kinds[kind]
    ]


def _equal_images(
    records: Iterable[ImageRecord], images: Mapping[Path, ImageProperties], bits: int | None
) -> list[list[ImageRecord]]:
    """Group records with equal pixels. Only images with equal keys are decoded again."""
    candidates: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        image = images.get(record.path)
        if image is not None and not image.flat:
            candidates[image.key].append(record)
    groups: dict[str, list[ImageRecord]] = defaultdict(list)
    for group in candidates.values():
        for record in group if len(group) > 1 else ():
            groups[pixels_digest(read_image(record.path, bits))].append(record)
    return [group for group in groups.values() if len(group) > 1]


def _count(count: int, noun: str = "image") -> str:
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"


def _pairs(groups: Sequence[Sequence[ImageRecord]], folder: Path) -> str:
    return join_names([" = ".join(relative(s.path, folder) for s in g[:3]) for g in groups], 5)
