"""Regions of a predicted mask: where the defects of an image are, and how large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Region:
    """One 8-connected region of a predicted mask. Coordinates are pixels of the original image."""

    rank: int
    """1 for the region with the highest peak."""
    box: tuple[int, int, int, int]
    """Left, top, width, height."""
    area: int
    """Pixels."""
    area_mm2: float | None
    """Square millimetres; None if the size of a pixel is unknown (`data.mm_per_pixel`)."""
    peak: float
    """Highest value of the anomaly map."""
    peak_at: tuple[int, int]
    """Column and row of the peak."""
    contour: tuple[tuple[int, int], ...]
    """Outer contour, columns and rows of its corners."""


def polygon_of(contour: Sequence[Sequence[int]]) -> list[int]:
    """Return the outline of a region along the edges of its pixels, as x, y, x, y, …

    contour: `Region.contour`, through the centres of pixels. Pixel (x, y) covers [x, x + 1] ×
    [y, y + 1], as in COCO. Holes are filled.
    """
    points = np.array(contour, np.int32)
    left, top = points.min(axis=0)
    width, height = points.max(axis=0) - (left, top) + 1
    filled = np.zeros((height, width), np.uint8)
    cv2.drawContours(filled, [points - (left, top)], -1, 1, cv2.FILLED)
    # At twice the size, centre 2x is on edge x and centre 2x + 1 on edge x + 1.
    double = np.kron(filled, np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = (contours[0][:, 0] + 1) // 2 + (left, top)
    different = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
    polygon: list[int] = corners[different].ravel().tolist()
    return polygon


def find_regions(
    anomaly_map: Array, mask: Array, min_area: int = 1, mm_per_pixel: float | None = None
) -> tuple[Region, ...]:
    """Return the regions of a mask by descending peak.

    anomaly_map: (H, W). mask: (H, W) bool. min_area: regions of fewer pixels are omitted.
    mm_per_pixel: side of a pixel in millimetres. Raises ValueError if the shapes differ.
    """
    if anomaly_map.shape != mask.shape:
        raise ValueError(
            f"map and mask must have the same shape; got {anomaly_map.shape}, {mask.shape}"
        )
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    regions = []
    for label in range(1, count):
        left, top, width, height, area = map(int, stats[label])
        if area < min_area:
            continue
        window = np.s_[top : top + height, left : left + width]
        inside = labels[window] == label
        values = np.where(inside, anomaly_map[window], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        contours, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top)
        )
        regions.append(
            Region(
                rank=0,
                box=(left, top, width, height),
                area=area,
                area_mm2=None if mm_per_pixel is None else _rounded(area * mm_per_pixel**2),
                peak=float(values[row, column]),
                peak_at=(left + int(column), top + int(row)),
                contour=tuple((int(x), int(y)) for x, y in contours[0][:, 0]),
            )
        )
    regions.sort(key=lambda region: -region.peak)
    return tuple(Region(**{**vars(r), "rank": rank}) for rank, r in enumerate(regions, 1))


def _rounded(area: float) -> float:
    """Round to nine digits: 0.1² · 100 is 1, not 1.0000000000000002."""
    return float(f"{area:.9g}")
