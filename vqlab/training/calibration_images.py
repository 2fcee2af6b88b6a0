"""Training images that calibration scores in place of new images."""

from __future__ import annotations

from collections.abc import Sequence

from vqlab.types import ImageRecord

EVERY = 6
"""Every so many image files are held out in calibration, and training steps use them too."""
UNSEEN_EVERY = 24
"""The same where training steps do not use them; more often if these were fewer than `FEWEST`."""
FEWEST = 3


def calibration_indices(records: Sequence[ImageRecord], unseen_below: int = 0) -> list[int]:
    """Return the indices of the images held out in calibration: every n-th image file, with its
    copies under capture shifts and its tiles.

    unseen_below: see `TrainingSettings`.
    """
    paths = [record.path for record in records]
    files = list(dict.fromkeys(paths))
    every = EVERY
    if len(files) < unseen_below:
        every = min(UNSEEN_EVERY, max(EVERY, len(files) // FEWEST))
    held_out = set(files[::every])
    return [index for index, path in enumerate(paths) if path in held_out]


def stepped_indices(records: Sequence[ImageRecord], unseen_below: int) -> list[int]:
    """Return the indices of the images that training steps use; all of them if none would
    remain."""
    everything = list(range(len(records)))
    files = len({record.path for record in records})
    unseen = set(calibration_indices(records, unseen_below)) if files < unseen_below else set()
    return [index for index in everything if index not in unseen] or everything
