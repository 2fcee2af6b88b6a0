"""Warn of the same picture, pixel for pixel, where it must not be: twice, or under two labels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vqlab.data.category import Category, listing, relative
from vqlab.data.facts import PictureFacts
from vqlab.data.images import read_image
from vqlab.text import visible
from vqlab.types import Sample


def duplicate_warnings(
    category: Category, pictures: Mapping[Path, PictureFacts], folder: Path, bits: int | None
) -> list[str]:
    """Return sentences on pictures under two labels, in train and test, and twice in a split.

    Images of a single colour do not count.
    """
    train = {sample.path for sample in category.train}
    labels: list[list[Sample]] = []
    splits, train_twice, test_twice = [], [], []
    for group in _same([*category.train, *category.test], pictures, bits):
        inside = [sample.path in train for sample in group]
        if len({sample.label for sample in group}) > 1:
            labels.append(group)
        elif any(inside) and not all(inside):
            splits.append(group)
        elif all(inside):
            train_twice.append(group)
        else:
            test_twice.append(group)
    name = category.name
    said = []
    if labels:
        said.append(
            f"category {name}: {len(labels)} pictures are both normal and anomalous "
            f"({_pairs(labels, folder)}): one of the labels is wrong; remove one of each."
        )
    if splits:
        also = sum(sample.path not in train for group in splits for sample in group)
        said.append(
            f"category {name}: {also} test images are also in train ({_pairs(splits, folder)}): "
            "their scores are worth nothing; remove them from one of the two."
        )
    if train_twice:
        said.append(
            f"category {name}: {len(train_twice)} pictures are in train more than once "
            f"({_pairs(train_twice, folder)}): one copy may be held out, which makes thresholds "
            "too low; remove the others."
        )
    if test_twice:
        said.append(
            f"category {name}: {len(test_twice)} pictures are in test more than once "
            f"({_pairs(test_twice, folder)}): they count twice; remove the others."
        )
    return said


def _same(
    samples: Iterable[Sample], pictures: Mapping[Path, PictureFacts], bits: int | None
) -> list[list[Sample]]:
    """Return groups of two or more samples with equal pixels; likely ones are decoded again."""
    likely: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        facts = pictures.get(sample.path)
        if facts is not None and not facts.flat:
            likely[facts.key].append(sample)
    groups: dict[bytes, list[Sample]] = defaultdict(list)
    for candidates in likely.values():
        for sample in candidates if len(candidates) > 1 else ():
            pixels = read_image(sample.path, bits)
            groups[hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()].append(
                sample
            )
    return [group for group in groups.values() if len(group) > 1]


def _pairs(groups: Sequence[Sequence[Sample]], folder: Path) -> str:
    return listing(
        [" = ".join(visible(relative(s.path, folder)) for s in group[:3]) for group in groups], 5
    )
