"""Training images that calibration scores in place of new images."""

from __future__ import annotations

from collections.abc import Sequence

from vqlab.types import ImageRecord


def calibration_indices(records: Sequence[ImageRecord]) -> list[int]:
    """Return the indices of every sixth image file, with its copies under capture shifts and its
    tiles."""
    paths = [record.path for record in records]
    files = set(list(dict.fromkeys(paths))[::6])
    return [index for index, path in enumerate(paths) if path in files]


def stepped_indices(records: Sequence[ImageRecord], unseen_below: int) -> list[int]:
    """Return the indices of the images that training steps use (`training.unseen_below`); all of
    them if none would remain."""
    everything = list(range(len(records)))
    files = len({record.path for record in records})
    unseen = set(calibration_indices(records)) if files < unseen_below else set()
    return [index for index in everything if index not in unseen] or everything
