"""The `data` section of a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vqlab.config import Settings


def _categories(value: Any) -> Any:
    """Accept `"all"`, one name, comma-separated names, or a list of names."""
    if value == "all":
        return value
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("must be a category, a list of categories, or all")
    names = tuple(dict.fromkeys(names))
    if not names or not all(name.strip() for name in names):
        raise ValueError("must name at least one category, or be all")
    if "all" in names:
        raise ValueError("must be either all or a list of categories")
    separators = [mark for mark in (os.sep, os.altsep) if mark]
    if any(name in (".", "..") or any(mark in name for mark in separators) for name in names):
        raise ValueError("must contain names of categories, not paths (use data.root for a path)")
    return names


def _root(value: Any) -> Any:
    """Treat an empty string (`make sweep DATA=`) as unset; expand `~`."""
    if isinstance(value, str):
        value = Path(value) if value.strip() else None
    return value.expanduser() if isinstance(value, Path) else value


def _area(value: Any) -> Any:
    """Accept a path, or paths by category; treat an empty string as unset; expand `~`."""
    if isinstance(value, dict):
        paths = {str(category): _root(path) for category, path in value.items()}
        return {category: path for category, path in paths.items() if path is not None} or None
    if value is not None and not isinstance(value, str | Path):
        raise ValueError("must be a path, or a mapping of categories to paths")
    return _root(value)


Area = Annotated[Path | dict[str, Path] | None, BeforeValidator(_area)]
"""A mask of the images, or one for each category: a lossless image file, or polygons in a JSON or
YAML file."""


def _shifts(value: Any) -> Any:
    """Accept one name, comma-separated names, or a list of names."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError("must be a list of capture shifts")
    return tuple(dict.fromkeys(name.strip() for name in names if str(name).strip()))


ShiftName = Literal[
    "jpeg", "noise", "gain", "white_balance", "blur", "translation", "rotation", "scale"
]
"""A capture shift, see `vqlab.data.shifts`."""


class ValidationSettings(Settings):
    """Section `data.validation`: the anomalous images used to choose settings."""

    source: Literal["drawn", "test"] = "drawn"
    """`drawn`: held-out normal images with synthetic anomalies. `test`: a share of the test images,
    which are then excluded from the reported test set."""
    kinds: Literal["all", "generic"] = "all"
    """Kinds of synthetic anomalies, used with `source: drawn`. `generic`: without those made from
    parts of the product (docs/validation.md)."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the test images, per defect type and of `good`, used with `source: test`."""

    @property
    def described(self) -> str:
        """Description of the validation set: the tag `vqlab.validation` of a run."""
        if self.source == "drawn":
            return "held-out normal images with synthetic anomalies"
        return f"held-out normal images and {self.fraction:.0%} of test, excluded from test"


class TileSettings(Settings):
    """Section `data.tiles`: cut images into square tiles instead of resizing them as a whole."""

    size: Annotated[int | None, Field(ge=32, le=8192)] = None
    """Side of a tile in pixels of the image files; a tile is resized to `data.image_size`. Equal to
    `data.image_size`: native resolution. Default: no tiles."""
    overlap: Annotated[float, Field(ge=0.1, le=0.5)] = 0.25
    """Minimum overlap of adjacent tiles, as a share of their side; maps are blended there."""


class DataSettings(Settings):
    """Section `data`: which images are used, and how they are resized."""

    root: Annotated[Path | None, BeforeValidator(_root)] = None
    """Folder of a dataset or of one category. Default: data/MVTec or data/VisA if it exists, else
    the built-in synthetic set."""
    good: Annotated[Path | None, BeforeValidator(_root)] = None
    """Instead of `root`: a folder of normal images of one category, for training."""
    bad: Annotated[Path | None, BeforeValidator(_root)] = None
    """With `good`: a folder of anomalous images for testing. A fifth of `good` then becomes test
    data."""
    categories: Annotated[tuple[str, ...] | Literal["all"], BeforeValidator(_categories)] = (
        "cable",
    )
    joint: bool = False
    """Train one model for all categories instead of one each."""
    image_size: Annotated[int, Field(ge=32, le=1024, multiple_of=4)] = 256
    """Side of the square network input, in pixels."""
    resize: Literal["stretch", "letterbox", "aspect"] = "stretch"
    """`stretch` fills the square (as in the papers); `letterbox` keeps the aspect ratio and pads;
    `aspect` keeps it in a rectangle with about as many pixels as the square, see `input_shape`."""
    tiles: TileSettings = TileSettings()
    brightness: Literal["keep", "border"] = "keep"
    """`border` divides each image by the brightness of its border, see `to_tensor`."""
    bits: Annotated[int | None, Field(ge=8, le=32)] = None
    """Bit depth of the camera for files with more than 8 bits (e.g. 12 in 16-bit files): its
    highest 8 bits are used. Default: 16. Files with 8 bits or floating point are not affected."""
    mm_per_pixel: Annotated[float | None, Field(gt=0)] = None
    """Pixel size of the original images in millimetres, for areas of defects."""
    roi: Area = None
    """Region of interest: only pixels that are white in this mask are inspected, see
    `vqlab.data.area`. Default: all."""
    ignore: Area = None
    """Pixels that are white in this mask are not inspected."""
    held_out: Annotated[float, Field(ge=0.05, le=0.5)] = 0.15
    """Share of train/good that is excluded from training: at least 19 images (required to guarantee
    a false reject rate of 5 %), or a fifth of them if that is less. A category with images in
    validation/good holds out these instead."""
    synthetic_defects: Annotated[int | None, Field(ge=1, le=20)] = None
    """Copies with a synthetic anomaly per held-out image, for validation. Default: 2, and up to 10
    if a category would have fewer than 60 such copies."""
    validation: ValidationSettings = ValidationSettings()
    shifts: Annotated[tuple[ShiftName, ...], BeforeValidator(_shifts)] = ()
    """Capture shifts that the model must tolerate (docs/shifts.md). It is also trained on copies of
    the normal images under them, and the false-reject rate is guaranteed under each."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the held-out images, the synthetic anomalies and the test images of validation."""
    memory_mib: Annotated[int, Field(ge=0)] = 2048
    """Memory for resized images in MiB; further images are decoded when needed."""

    @property
    def tile_size(self) -> int | None:
        """`tiles.size`."""
        return self.tiles.size
