"""The inspected areas of categories: regions of interest without ignored pixels."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from vqlab.data.images import read_mask
from vqlab.data.settings import DataSettings
from vqlab.errors import did_you_mean
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.bit_depth import BadFile
from vqlab.pixels.resizing import Mask
from vqlab.text import visible
from vqlab.types import UserError

AREA_FILES = ("data.roi", "data.ignore")
"""Settings (or their prefixes, by category) of files whose content is in the data fingerprint."""
MAX_PIXELS = 200_000_000
"""Maximum size of a mask of polygons."""
_POLYGON_SUFFIXES = (".json", ".yaml", ".yml")


Areas = Mapping[str, InspectedArea | None]
"""Inspected areas by category; None: whole images."""


def areas_of(
    settings: DataSettings, categories: Sequence[str], available: Collection[str] | None = None
) -> dict[str, InspectedArea | None]:
    """Return the inspected areas that `data.roi` and `data.ignore` give for categories.

    available: all categories of the dataset. Raises UserError if a setting names another category,
    for an unreadable or empty file, and for masks of different aspect ratios.
    """
    if available is not None:
        _require_known(settings, sorted(available))
    return {name: _read_area(settings, name) for name in categories}


def areas_differ(areas: Areas) -> bool:
    """Return whether not all categories have the same inspected area."""
    return len({area and area.digest for area in areas.values()}) > 1


def encode_areas(areas: Areas) -> str | dict[str, str] | None:
    """Return the area that all categories share, or areas by category, see `InspectedArea.encode`;
    None: whole images."""
    encoded = {name: area.encode() for name, area in areas.items() if area is not None}
    return encoded if areas_differ(areas) else next(iter(encoded.values()), None)


def decode_areas(value: Any, categories: Sequence[str]) -> dict[str, InspectedArea | None]:
    """Restore the areas of `categories` from `encode_areas`. Raises UserError for other values."""
    if isinstance(value, Mapping):
        areas = {name: InspectedArea.decode(text) for name, text in value.items()}
        return {name: areas.get(name) for name in categories}
    return dict.fromkeys(categories, None if value is None else InspectedArea.decode(value))


def _require_known(settings: DataSettings, categories: Sequence[str]) -> None:
    """Raise UserError if `data.roi` or `data.ignore` names a category not in `categories`."""
    for setting in ("roi", "ignore"):
        value = getattr(settings, setting)
        for name in value if isinstance(value, Mapping) else ():
            if name not in categories:
                hint = did_you_mean(name, categories) or f"available: {', '.join(categories)}."
                raise UserError(f"data.{setting} names category {name}, which is unknown; {hint}")


def _read_area(settings: DataSettings, category: str) -> InspectedArea | None:
    roi, ignore = (_load_mask(settings, name, category) for name in ("roi", "ignore"))
    if roi is None and ignore is None:
        return None
    if roi is not None and ignore is not None:
        larger, smaller = (roi, ignore) if roi.size >= ignore.size else (ignore, roi)
        resized = InspectedArea(smaller)
        if not resized.fits((larger.shape[0], larger.shape[1])):
            sizes = " and ".join(f"{mask.shape[1]}x{mask.shape[0]}" for mask in (roi, ignore))
            raise UserError(
                f"data.roi and data.ignore of category {category} must have the same aspect ratio; "
                f"got {sizes} pixels."
            )
        other = resized.at((larger.shape[0], larger.shape[1]))
        inspected = larger & ~other if larger is roi else other & ~larger
    else:
        inspected = roi if roi is not None else ~np.asarray(ignore)
    if not inspected.any():
        names = " and ".join(
            f"data.{name}" for name, mask in (("roi", roi), ("ignore", ignore)) if mask is not None
        )
        raise UserError(
            f"{names} of category {category} must leave pixels to inspect; got none (white in "
            "data.roi is inspected, white in data.ignore is not)."
        )
    return None if inspected.all() else InspectedArea(inspected)


def _load_mask(settings: DataSettings, setting: str, category: str) -> Mask | None:
    value: Path | Mapping[str, Path] | None = getattr(settings, setting)
    path = value.get(category) if isinstance(value, Mapping) else value
    if path is None:
        return None
    if path.suffix.lower() in _POLYGON_SUFFIXES:
        return _polygons(path, f"data.{setting} {visible(path)}")
    try:
        return read_mask(path)
    except BadFile as error:
        raise UserError(f"data.{setting} {visible(path)} cannot be used: {error.reason}.") from None


def _polygons(path: Path, name: str) -> Mask:
    """Read polygons: `{"size": [width, height], "polygons": [[[x, y], ...], ...]}`, in pixels."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}.") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{name} is not valid: {' '.join(str(error).split())}.") from None
    form = '{"size": [width, height], "polygons": [[[x, y], [x, y], [x, y]], ...]} in pixels'
    try:
        width, height = (int(side) for side in tree["size"])
        polygons = [np.array(points, np.float64) for points in tree["polygons"]]
        valid = min(width, height) > 0 and width * height <= MAX_PIXELS and len(polygons) > 0
        valid &= all(p.ndim == 2 and p.shape[0] >= 3 and p.shape[1] == 2 for p in polygons)
        valid &= all(bool((np.abs(p) < 1e6).all()) for p in polygons)
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise UserError(f"{name} must have the form {form}.")
    mask = np.zeros((height, width), np.uint8)
    corners: list[Any] = [np.rint(points).astype(np.int32) for points in polygons]
    for points in corners:  # one at a time: filled together, overlaps would become holes
        cv2.fillPoly(mask, [points], 1)
    return np.asarray(mask, np.bool_)
