"""Warnings on files that decode but are suspicious: masks, bit depths, colours, sizes, copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from vqlab.data.category import Category, join_paths
from vqlab.data.checks.duplicates import duplicate_warnings
from vqlab.data.inspection import ImageProperties, MaskProperties
from vqlab.pixels.aspect import MAX_RATIO

CAMERA_BITS = (8, 10, 12, 14)
"""Bit depths that cameras store in 16-bit files."""
MAX_SIDE_RATIO = 2.0
"""Ratio of the mean sides of two images at which their sizes count as very different."""
Images = Mapping[Path, ImageProperties]
Masks = Mapping[Path, MaskProperties]


def content_warnings(
    category: Category, images: Images, masks: Masks, folder: Path, bits: int | None
) -> list[str]:
    """Return a sentence for each problem of a category's images and masks.

    images, masks: properties by path; may include other categories. Paths are printed relative to
    `folder`. bits: see `data.bits`.
    """
    images = {r.path: images[r.path] for r in category.records if r.path in images}
    masks = {r.mask: masks[r.mask] for r in category.records if r.mask and r.mask in masks}
    depth = list(_depth_warnings(images, bits))
    sentences = [
        *duplicate_warnings(category, images, folder, bits),
        *_mask_warnings(masks, folder),
        *depth,
        *_flat_warnings(images, folder, ignore_deep=bool(depth)),
        *_size_warnings(images, folder),
        *(list(_colour_warnings(images, folder)) or _mode_warnings(images, folder)),
        *_mixed_depth_warnings(images, folder),
    ]
    return [f"category {category.name}: {sentence}" for sentence in sentences]


def _empty_remedy(masks: Sequence[MaskProperties]) -> str:
    if any(mask.alpha for mask in masks):
        return "their alpha channel varies: save it as a grey image, white on the defect"
    if any(mask.lossy for mask in masks):
        return (
            "in a lossy format values up to 128 count as 0; save them as PNG, white on the defect"
        )
    return "mark the defect in white"


def _lossy_remedy(masks: Sequence[MaskProperties]) -> str:
    formats = ", ".join(sorted({mask.lossy for mask in masks}))
    return f"of {formats} only values above 128 count as marked; save masks as PNG"


def _soft_remedy(masks: Sequence[MaskProperties]) -> str:
    return (
        "every value above 0 counts as marked; if they were compressed or resized, save them with "
        "two values, 0 and 255"
    )


def _inverted_remedy(masks: Sequence[MaskProperties]) -> str:
    if any(mask.alpha for mask in masks):
        return (
            "their colours are uniform and their alpha channel varies: save the alpha channel as "
            "grey images, white on the defect"
        )
    if any(mask.bright_zero for mask in masks):
        return (
            "indices above 0 count as marked, but in their palette index 0 is brighter than 1: "
            "save them as grey images, white on the defect"
        )
    if all(mask.lowest > 0 for mask in masks):
        return (
            f"no pixel is 0 (the lowest value is {min(mask.lowest for mask in masks)}), and every "
            "value above 0 counts as marked: save them with 0 where there is no defect"
        )
    return "check whether they are inverted: every value above 0 must lie on the defect"


_MASK_CHECKS: tuple[
    tuple[Callable[[MaskProperties], bool], str, Callable[[Sequence[MaskProperties]], str]], ...
] = (
    (lambda mask: mask.share == 0, "mark no pixel", _empty_remedy),
    (lambda mask: mask.large, "mark most of the image or of its border", _inverted_remedy),
    (lambda mask: bool(mask.lossy), "have a lossy format", _lossy_remedy),
    (lambda mask: mask.soft and not mask.large, "have many faint grey levels", _soft_remedy),
)
"""Test of a mask, description of the problem, and function that returns the remedy."""


def _mask_warnings(masks: Masks, folder: Path) -> Iterator[str]:
    for suspicious, problem, remedy in _MASK_CHECKS:
        paths = [path for path, mask in masks.items() if suspicious(mask)]
        if paths:
            count = f"{len(paths)} of {len(masks)} masks {problem} ({join_paths(paths, folder)})"
            yield f"{count}; {remedy([masks[path] for path in paths])}."


def _depth_warnings(images: Images, bits: int | None) -> Iterator[str]:
    deep = [image for image in images.values() if image.depth > 8]
    highest = max((image.highest for image in deep), default=0)
    likely = next((depth for depth in CAMERA_BITS if highest < 2**depth), None)
    if bits is not None and images and not deep:
        yield f"data.bits={bits} has no effect: no file has integers of more than 8 bits."
    elif bits is None and deep and likely is not None:
        depths = " and ".join(str(depth) for depth in sorted({image.depth for image in deep}))
        yield (
            f"{len(deep)} files with {depths} bits have low values only (the highest is {highest} "
            "of 65535), so the images are nearly black; set data.bits to the bit depth of the "
            f"camera, probably data.bits={likely}."
        )


def _flat_warnings(images: Images, folder: Path, ignore_deep: bool) -> Iterator[str]:
    clear = [path for path, image in images.items() if image.flat == "transparent"]
    if clear:
        yield (
            f"{len(clear)} of {len(images)} images are fully transparent and read as white "
            f"({join_paths(clear, folder)}); save them without transparency."
        )
    coloured = [path for path, image in images.items() if image.flat == "colour"]
    flat = [path for path in coloured if not (ignore_deep and images[path].depth > 8)]
    if flat:
        yield (
            f"{len(flat)} of {len(images)} images show a single colour "
            f"({join_paths(flat, folder)}); replace or remove them."
        )


def _size_warnings(images: Images, folder: Path) -> Iterator[str]:
    """Warn of images whose size differs strongly from the most common one."""
    sizes = Counter(image.size for image in images.values())
    usual = sizes.most_common(1)[0][0] if sizes else (1, 1)
    odd_sizes = {size for size in sizes if _very_different(size, usual)}
    if odd_sizes:
        odd = [path for path, image in images.items() if image.size in odd_sizes]
        texts = ", ".join(f"{width}x{height}" for height, width in sorted(odd_sizes)[:5])
        yield (
            f"{len(odd)} of {len(images)} images are {texts}, very different from the usual "
            f"{usual[1]}x{usual[0]} ({join_paths(odd, folder)}); use images of one camera setup."
        )


def _very_different(first: tuple[int, int], second: tuple[int, int]) -> bool:
    area = (first[0] * first[1]) / (second[0] * second[1])
    aspect = (first[0] / first[1]) / (second[0] / second[1])
    return max(area, 1 / area) >= MAX_SIDE_RATIO**2 or max(aspect, 1 / aspect) >= MAX_RATIO


def _colour_warnings(images: Images, folder: Path) -> Iterator[str]:
    """Warn if some images are grey and others coloured; images of a single colour are ignored."""
    grey = [path for path, image in images.items() if not image.flat and image.grey]
    coloured = [path for path, image in images.items() if not image.flat and not image.grey]
    if grey and coloured:
        fewer, minority = (coloured, "coloured") if len(coloured) < len(grey) else (grey, "grey")
        yield (
            f"colours are mixed: {len(grey)} grey and {len(coloured)} coloured images; the "
            f"{minority} ones are {join_paths(fewer, folder)}; convert all of them to one kind."
        )


def _mode_warnings(images: Images, folder: Path) -> Iterator[str]:
    """Warn if files with one channel are mixed with files with three."""
    kinds = Counter(image.kind for image in images.values()).most_common()
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds)
        usual = kinds[0][0]
        odd = [path for path, image in images.items() if image.kind != usual]
        yield (
            f"modes are mixed: {counts}; those not {usual} are {join_paths(odd, folder)}; "
            "save all of them in one mode."
        )


def _mixed_depth_warnings(images: Images, folder: Path) -> Iterator[str]:
    """Warn if 8-bit files are mixed with deeper ones; floating point (0) counts as deeper."""
    shallow = [path for path, image in images.items() if image.depth == 8]
    deep = [path for path, image in images.items() if image.depth != 8]
    if shallow and deep:
        fewer, minority = (
            (deep, "with more") if len(deep) < len(shallow) else (shallow, "with 8 bits")
        )
        yield (
            f"bit depths are mixed: {len(shallow)} files with 8 bits per value, {len(deep)} with "
            f"more; those {minority} are {join_paths(fewer, folder)}; save all of them with one "
            "bit depth: their scales differ."
        )
