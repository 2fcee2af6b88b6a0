"""Warn of images that do not show what they should, or that do not belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from vqlab.data.category import files_below
from vqlab.data.facts import PictureFacts

DEPTHS = (8, 10, 12, 14)
"""Bits that cameras use of 16."""
UNLIKE_SIDE = 2.0
"""Ratio of the mean sides of two images from which on they are of very unlike size."""
UNLIKE_SHAPE = 1.5
"""The same of their aspect ratios."""


def picture_warnings(
    name: str, pictures: Mapping[Path, PictureFacts], folder: Path, bits: int | None
) -> list[str]:
    """Return sentences on depth, single colours, sizes and colours of a category's images."""
    depth = _depth_warnings(name, pictures, bits)
    return [
        *depth,
        *_flat_warnings(name, pictures, folder, bool(depth)),
        *_size_warnings(name, pictures, folder),
        *(_colour_warnings(name, pictures, folder) or _mode_warnings(name, pictures, folder)),
        *_mixed_depth_warnings(name, pictures, folder),
    ]


def _depth_warnings(
    name: str, pictures: Mapping[Path, PictureFacts], bits: int | None
) -> list[str]:
    deep = [facts for facts in pictures.values() if facts.depth > 8]
    if bits is not None:
        if pictures and not deep:
            return [
                f"category {name}: data.bits={bits} has no effect, no file has integers of more "
                "than 8 bits."
            ]
        return []
    highest = max((facts.highest for facts in deep), default=0)
    likely = next((depth for depth in DEPTHS if highest < 2**depth), None)
    if not deep or likely is None:
        return []
    depths = " and ".join(str(depth) for depth in sorted({facts.depth for facts in deep}))
    return [
        f"category {name}: {len(deep)} files of {depths} bits use low values only (the highest is "
        f"{highest} of 65535), so the images are nearly black; set data.bits={likely} if the "
        f"camera has {likely} bits (else its number of bits)."
    ]


def _flat_warnings(
    name: str, pictures: Mapping[Path, PictureFacts], folder: Path, dark: bool
) -> list[str]:
    said = []
    clear = [path for path, facts in pictures.items() if facts.flat == "transparent"]
    if clear:
        said.append(
            f"category {name}: {len(clear)} of {len(pictures)} images are wholly transparent and "
            f"read as white ({files_below(clear, folder)}); save them without transparency."
        )
    flat = [
        path
        for path, facts in pictures.items()
        if facts.flat == "colour" and not (dark and facts.depth > 8)
    ]
    if flat:
        said.append(
            f"category {name}: {len(flat)} of {len(pictures)} images show a single colour "
            f"({files_below(flat, folder)}); replace or remove them."
        )
    return said


def _size_warnings(name: str, pictures: Mapping[Path, PictureFacts], folder: Path) -> list[str]:
    """Warn of images whose size is very unlike the commonest of the category."""
    sizes = Counter(facts.size for facts in pictures.values())
    if len(sizes) < 2:
        return []
    usual = sizes.most_common(1)[0][0]
    odd = [path for path, facts in pictures.items() if _unlike(facts.size, usual)]
    if not odd:
        return []
    seen = [size for size in sizes if _unlike(size, usual)]
    texts = ", ".join(f"{width}x{height}" for height, width in sorted(seen)[:5])
    return [
        f"category {name}: {len(odd)} of {len(pictures)} images are of very unlike size, {texts} "
        f"where {usual[1]}x{usual[0]} is usual ({files_below(odd, folder)}); use images of "
        "one camera setup."
    ]


def _unlike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    area = (one[0] * one[1]) / (other[0] * other[1])
    shape = (one[0] / one[1]) / (other[0] / other[1])
    return max(area, 1 / area) >= UNLIKE_SIDE**2 or max(shape, 1 / shape) >= UNLIKE_SHAPE


def _colour_warnings(name: str, pictures: Mapping[Path, PictureFacts], folder: Path) -> list[str]:
    """Warn where some images are grey and others in colour; single colours do not count."""
    shown = {path: facts.grey for path, facts in pictures.items() if not facts.flat}
    grey = [path for path, is_grey in shown.items() if is_grey]
    coloured = [path for path, is_grey in shown.items() if not is_grey]
    if not grey or not coloured:
        return []
    fewer = min(grey, coloured, key=len)
    what = "grey" if fewer is grey else "in colour"
    return [
        f"category {name}: {len(grey)} images are grey and {len(coloured)} in colour; those {what} "
        f"are {files_below(fewer, folder)}; convert them alike."
    ]


def _mode_warnings(name: str, pictures: Mapping[Path, PictureFacts], folder: Path) -> list[str]:
    """Warn where files of one channel lie among files of three."""
    kinds = Counter(facts.kind for facts in pictures.values())
    if len(kinds) < 2:
        return []
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    usual = kinds.most_common(1)[0][0]
    odd = [path for path, facts in pictures.items() if facts.kind != usual]
    return [
        f"category {name}: files have different modes: {counts}; those not {usual} are "
        f"{files_below(odd, folder)}; save them alike."
    ]


def _mixed_depth_warnings(
    name: str, pictures: Mapping[Path, PictureFacts], folder: Path
) -> list[str]:
    """Warn where files of 8 bits lie among deeper ones; floating point (0) counts as deeper."""
    shallow = [path for path, facts in pictures.items() if facts.depth == 8]
    deep = [path for path, facts in pictures.items() if facts.depth != 8]
    if not shallow or not deep:
        return []
    fewer = min(shallow, deep, key=len)
    what = "with 8 bits" if fewer is shallow else "with more"
    return [
        f"category {name}: {len(shallow)} files have 8 bits a value and {len(deep)} more; those "
        f"{what} are {files_below(fewer, folder)}; save them alike, as their scales differ."
    ]
