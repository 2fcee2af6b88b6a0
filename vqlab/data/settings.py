"""The `data` section of a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vqlab.config import Settings


def _categories(value: Any) -> Any:
    """`"all"`, one name, names with commas between, or a list of names."""
    if value == "all":
        return value
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("must be a category, a list of categories, or all")
    names = tuple(dict.fromkeys(names))
    if not names or not all(name.strip() for name in names):
        raise ValueError("must name at least one category, or be all")
    if "all" in names:
        raise ValueError("must be all alone, or a list of categories")
    separators = [mark for mark in (os.sep, os.altsep) if mark]
    if any(name in (".", "..") or any(mark in name for mark in separators) for name in names):
        raise ValueError("must hold names of categories, not paths (a path goes to data.root)")
    return names


def _root(value: Any) -> Any:
    """An empty string (`make sweep DATA=`) is the same as nothing said; `~` is the home folder."""
    if isinstance(value, str):
        value = Path(value) if value.strip() else None
    return value.expanduser() if isinstance(value, Path) else value


class ValidationSettings(Settings):
    """Section `data.validation`: which images with defects choose settings."""

    source: Literal["drawn", "test"] = "drawn"
    """`drawn`: defects drawn on the held-out normals. `test`: a share of the test images, which
    are then left out of the reported test set."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the test images, of each defect type and of `good`, that `source: test` takes."""

    @property
    def described(self) -> str:
        """What validation is made of, in words: the tag `vqlab.validation` of a run."""
        if self.source == "drawn":
            return "held-out normals with drawn defects"
        return f"held-out normals with {self.fraction:.0%} of test, excluded from test"


class DataSettings(Settings):
    """Which images, and how they come to the network's square."""

    root: Annotated[Path | None, BeforeValidator(_root)] = None
    """Folder of a data set, or of one category; nothing: data/MVTec or data/VisA if there, else
    the built-in synthetic set."""
    good: Annotated[Path | None, BeforeValidator(_root)] = None
    """Instead of `root`: a folder of good images of one category, to train on."""
    bad: Annotated[Path | None, BeforeValidator(_root)] = None
    """Beside `good`: a folder of defective images for test. A fifth of `good` then goes to test."""
    categories: Annotated[tuple[str, ...] | Literal["all"], BeforeValidator(_categories)] = (
        "cable",
    )
    joint: bool = False
    """One model for all the categories instead of one each."""
    image_size: Annotated[int, Field(ge=32, le=1024, multiple_of=4)] = 256
    """Side of the network's square, pixels."""
    resize: Literal["stretch", "letterbox"] = "stretch"
    """`stretch` fills the square (the papers' way); `letterbox` keeps the aspect ratio."""
    brightness: Literal["keep", "border"] = "keep"
    """`border` divides each image by the brightness of its border, see `to_network`."""
    bits: Annotated[int | None, Field(ge=8, le=32)] = None
    """Bits that the camera used, of files with more than 8 (e.g. 12 of 16): the highest 8 of them
    are read. Nothing: all 16. Files of 8 bits and of floating point are read as they are."""
    held_out: Annotated[float, Field(ge=0.05, le=0.5)] = 0.15
    """Share of train/good that is never trained on, at least 19 images (what a promise of 5 %
    false rejects needs) or a fifth where that is less."""
    synthetic_defects: Annotated[int, Field(ge=1, le=20)] = 2
    """Copies of each held-out image with a drawn defect, for validation."""
    validation: ValidationSettings = ValidationSettings()
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the held-out images, the drawn defects and what validation takes of test."""
    memory_mib: Annotated[int, Field(ge=0)] = 2048
    """Resized images are kept in memory up to this much; the rest is decoded when needed."""
