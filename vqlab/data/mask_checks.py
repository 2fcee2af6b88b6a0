"""Warn of masks that do not mean what they should: white on the defect, black elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from vqlab.data.category import files_below
from vqlab.data.facts import MaskFacts

HALF = 0.5
"""Share of an image, or of its border, above which a mask is likely inverted."""


def mask_warnings(name: str, masks: Mapping[Path, MaskFacts], folder: Path) -> list[str]:
    """Return a sentence for each kind of doubtful mask of the category `name`."""

    def those(test: Callable[[MaskFacts], bool]) -> list[Path]:
        return [path for path, facts in masks.items() if test(facts)]

    said = []
    empty = those(lambda facts: facts.share == 0)
    if empty:
        said.append(
            f"category {name}: no pixel is marked in {_count(empty, masks)} "
            f"({files_below(empty, folder)}); {_why_empty([masks[path] for path in empty])}."
        )
    large = those(lambda facts: facts.share > HALF or facts.border > HALF)
    if large:
        why = _why_large([masks[path] for path in large])
        said.append(
            f"category {name}: most of the image or of its border is marked in "
            f"{_count(large, masks)} ({files_below(large, folder)}); {why}."
        )
    lossy = those(lambda facts: bool(facts.lossy))
    if lossy:
        formats = ", ".join(sorted({masks[path].lossy for path in lossy}))
        said.append(
            f"category {name}: a lossy format ({formats}) holds {_count(lossy, masks)} "
            f"({files_below(lossy, folder)}); values above 128 count as marked; save masks as PNG."
        )
    soft = those(lambda facts: facts.soft and not (facts.share > HALF or facts.border > HALF))
    if soft:
        said.append(
            f"category {name}: many faint grey levels are in {_count(soft, masks)} "
            f"({files_below(soft, folder)}), and every value above 0 counts as marked; were they "
            "compressed or resized? Save them with two values, 0 and 255."
        )
    return said


def _count(paths: list[Path], masks: Mapping[Path, MaskFacts]) -> str:
    return f"{len(paths)} of {len(masks)} masks"


def _why_empty(facts: list[MaskFacts]) -> str:
    if any(each.alpha for each in facts):
        return "their transparency varies: save that as a grey image, white on the defect"
    if any(each.lossy for each in facts):
        return (
            "in a lossy format values up to 128 count as 0; save them as PNG, white on the defect"
        )
    return "mark the defect in white"


def _why_large(facts: list[MaskFacts]) -> str:
    if any(each.alpha for each in facts):
        return (
            "their colours are uniform and their transparency varies: save the transparency as "
            "grey images, white on the defect"
        )
    if any(each.palette for each in facts):
        return (
            "indices above 0 count as marked, and their palette shows index 0 brighter than 1: "
            "save them as grey images, white on the defect"
        )
    if all(each.least > 0 for each in facts):
        low = min(each.least for each in facts)
        return (
            f"no pixel is 0 (the lowest value is {low}), and every value above 0 counts as "
            "marked: save them with 0 where there is no defect"
        )
    return "are they inverted? Every value above 0 must lie on the defect"
