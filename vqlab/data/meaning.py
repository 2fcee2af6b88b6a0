"""What a data set that can be read may still get wrong: the warnings of `vqlab data check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vqlab.data.category import Category
from vqlab.data.duplicates import duplicate_warnings
from vqlab.data.facts import MaskFacts, PictureFacts
from vqlab.data.mask_checks import mask_warnings
from vqlab.data.picture_checks import picture_warnings


def meaning_warnings(
    category: Category,
    pictures: Mapping[Path, PictureFacts],
    masks: Mapping[Path, MaskFacts],
    folder: Path,
    bits: int | None,
) -> list[str]:
    """Return sentences on the images and masks of a category in `folder`, from what decoding
    showed (files of other categories may be among it)."""
    samples = [*category.train, *category.test]
    mine = {sample.path: pictures[sample.path] for sample in samples if sample.path in pictures}
    marks = {s.mask: masks[s.mask] for s in samples if s.mask is not None and s.mask in masks}
    return [
        *duplicate_warnings(category, mine, folder, bits),
        *mask_warnings(category.name, marks, folder),
        *picture_warnings(category.name, mine, folder, bits),
    ]
