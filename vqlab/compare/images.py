"""The test images on which runs disagree most, with the pictures that the runs logged."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from vqlab.data import read_image
from vqlab.plots import in_two_rows
from vqlab.text import folder_name
from vqlab.tracking import RunRecord
from vqlab.types import UserError

_WIDTH = 720
"""Maximum width of an embedded picture in pixels."""
_QUALITY = 80


@dataclass(frozen=True)
class TestImage:
    """A test image with the results of several runs."""

    __test__ = False

    category: str
    rows: tuple[Mapping[str, str], ...]
    """The row of `scores.csv` of each run."""

    @property
    def verdicts(self) -> list[str]:
        return [row["verdict"] for row in self.rows]

    @property
    def spread(self) -> float:
        """Largest difference of calibrated scores, in [0, 1]."""
        values = [float(row["calibrated"]) for row in self.rows]
        return max(values) - min(values)


def disagreements(
    runs: Sequence[RunRecord], categories: Iterable[str], limit: int
) -> list[TestImage]:
    """Return up to `limit` test images: those with different verdicts first, then by the difference
    of calibrated scores. Empty if a run has no scores of single images."""
    images: list[TestImage] = []
    for category in categories:
        try:
            tables = [_rows(run, category) for run in runs]
        except (UserError, KeyError):  # not logged, or of an old version
            continue
        for file in tables[0]:
            if all(file in table for table in tables):
                images.append(TestImage(category, tuple(table[file] for table in tables)))
    images.sort(key=lambda image: (-len(set(image.verdicts)), -image.spread))
    return images[:limit]


def _rows(run: RunRecord, category: str) -> dict[str, Mapping[str, str]]:
    """Return the rows of `scores.csv` by file. Raises UserError without one."""
    path = run.artifact(f"results/{folder_name(category)}/scores.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows: dict[str, Mapping[str, str]] = {row["file"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        float(row["calibrated"]), row["verdict"]  # KeyError in tables of vqlab 0.1
    return rows


def picture_of(run: RunRecord, image: TestImage, row: Mapping[str, str]) -> bytes | None:
    """Return a run's picture of a test image as JPEG, None if it was not logged."""
    folder = folder_name(image.category)
    try:
        path = run.artifact(f"results/{folder}/{folder}_{int(row['index']):03d}_viz.png")
        picture = Image.fromarray(in_two_rows(read_image(path)))
    except UserError:
        return None
    picture.thumbnail((_WIDTH, _WIDTH))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
