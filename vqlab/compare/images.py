"""The test images on which runs disagree most, with the pictures that the runs logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vqlab.html_page import escape, paragraph, picture
from vqlab.run import score_rows, test_picture
from vqlab.tracking import RunRecord
from vqlab.types import UserError

_WIDTH = 720
"""Maximum width of an embedded picture in pixels."""


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
    """Return the rows of the scores by file. Raises UserError without any."""
    rows: dict[str, Mapping[str, str]] = {row["file"]: row for row in score_rows(run, category)}
    for row in rows.values():
        float(row["calibrated"]), row["verdict"]  # KeyError in tables of vqlab 0.1
    return rows


def side_by_side(heading: str, runs: Mapping[str, RunRecord], image: TestImage) -> str:
    """Return the verdicts and pictures of runs, by title, on a test image as markup."""
    figures = []
    for (name, run), row in zip(runs.items(), image.rows, strict=True):
        caption = f"{name}: {row['verdict']}, calibrated {float(row['calibrated']):.3f}"
        data = test_picture(run, image.category, int(row["index"]), _WIDTH)
        figures.append(paragraph(caption) if data is None else picture(caption, data, "jpeg"))
    grid = f'<div class="runs">{"".join(figures)}</div>'
    return f'<div class="image"><h3>{escape(heading)}</h3>{grid}</div>'
