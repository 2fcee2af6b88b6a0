"""Training images that calibration takes for new ones."""

from __future__ import annotations

from vqlab.data import ImageSet


def calibration_indices(images: ImageSet) -> list[int]:
    """Return the indices of every sixth image file, with its copies under capture shifts and its
    tiles."""
    paths = [record.path for record in images.records]
    files = set(list(dict.fromkeys(paths))[::6])
    return [index for index, path in enumerate(paths) if path in files]


def stepped_indices(images: ImageSet, unseen_below: int) -> list[int]:
    """Return the indices of the images that training steps use (`training.unseen_below`); all of
    them if none would remain."""
    everything = list(range(len(images)))
    files = len({record.path for record in images.records})
    unseen = set(calibration_indices(images)) if files < unseen_below else set()
    return [index for index in everything if index not in unseen] or everything
