"""Rows of a prediction, the tables `scores.csv` and `scores.jsonl`, and a summary."""

from __future__ import annotations

import csv
import heapq
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from vqlab.evaluation import REJECT, Verdict

UNREADABLE: Literal["unreadable"] = "unreadable"
CSV_NAME, JSON_NAME = "scores.csv", "scores.jsonl"
MAX_ROWS = 50
"""Number of images up to which a summary contains every row."""
_MAX_HIGHEST, _MAX_UNREADABLE, _MAX_NOTED = 10, 5, 3
_URI = "file:///"


@dataclass(frozen=True)
class PredictedFile:
    """One scored file: a row of `scores.csv` and `scores.jsonl`, whose columns are these fields."""

    file: str
    """The path as given or found. A path that is not valid UTF-8 is a percent-encoded `file:///`
    URI; `path` decodes it."""
    score: float | None
    """Image score; None if the file is unreadable."""
    threshold: float
    """The model's image threshold."""
    calibrated: float | None
    verdict: Verdict | Literal["unreadable"]
    picture: str = ""
    """Name of the picture in the results folder; empty if there is none."""
    reason: str = ""
    """Why the file is unreadable."""
    marked: float | None = None
    """Share of the image covered by the predicted mask."""
    regions: list[dict[str, Any]] = field(default_factory=list)
    """Fields of each `Region` of the mask, by descending peak; in `scores.csv` their number."""
    p_value: float | None = None
    """Conformal p-value: share of normal images that score at least as high, counting this one."""
    review_threshold: float | None = None
    """The model's review threshold; None without review."""
    width: int | None = None
    """Of the image, in pixels; None if the file is unreadable."""
    height: int | None = None
    note: str = ""
    """Why the score may mean little, see `Prediction.note`; empty if no reason is known."""

    @property
    def path(self) -> Path:
        """The path of the file."""
        return file_path(self.file)

    @property
    def rejected(self) -> bool:
        """Whether the verdict is `reject`."""
        return self.verdict == REJECT


COLUMNS = tuple(column.name for column in fields(PredictedFile))


def file_text(path: Path) -> str:
    """Return the path as valid UTF-8; `file_path` is the inverse."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return path.absolute().as_uri()
    return text


def file_path(text: str) -> Path:
    """Return the path that `file_text` wrote."""
    if text.startswith(_URI):  # no path starts with it: `Path` merges slashes
        return Path(os.fsdecode(unquote_to_bytes(text[len(_URI) - 1 :])))
    return Path(text)


def row_from(tree: Mapping[str, Any]) -> PredictedFile:
    """Return the row of a line of `scores.jsonl`; other keys are ignored."""
    return PredictedFile(**{column: tree[column] for column in COLUMNS if column in tree})


def read_rows(path: Path) -> Iterator[PredictedFile]:
    """Yield the rows of a `scores.jsonl`."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield row_from(json.loads(line))


def write_tables(folder: Path, rows: Iterable[PredictedFile]) -> Iterator[PredictedFile]:
    """Write `scores.csv` and `scores.jsonl` in `folder`, and yield each row after writing it."""
    with (
        (folder / CSV_NAME).open("w", newline="", encoding="utf-8") as table,
        (folder / JSON_NAME).open("w", newline="\n", encoding="utf-8") as lines,
    ):
        writer = csv.writer(table)
        writer.writerow(COLUMNS)
        for row in rows:
            tree = asdict(row)
            writer.writerow({**tree, "regions": len(row.regions)}.values())
            lines.write(json.dumps(tree, ensure_ascii=False) + "\n")
            yield row


@dataclass
class Predictions:
    """Summary of a prediction; `folder` contains all rows."""

    folder: Path
    notes: list[str] = field(default_factory=list)
    """Sentences on skipped files."""
    counts: Counter[str] = field(default_factory=Counter)
    """Verdict → number of images."""
    rows: list[PredictedFile] = field(default_factory=list)
    """All rows in order; if there are more than `MAX_ROWS`, those with the highest scores."""
    unreadable: list[PredictedFile] = field(default_factory=list)
    """The first rows of unreadable files."""
    noted: list[PredictedFile] = field(default_factory=list)
    """The first rows with a note."""
    noted_count: int = 0
    """Number of rows with a note."""
    aspect_ratios: tuple[float, float] | None = None
    """Lowest and highest width / height of the readable images."""
    pictures: int = 0
    """Number of pictures in `folder`."""

    @property
    def total(self) -> int:
        """Number of images."""
        return self.counts.total()

    def add(self, rows: Iterable[PredictedFile]) -> None:
        """Add the rows to the summary, in one pass and bounded memory."""
        highest: list[tuple[float, int, PredictedFile]] = []
        for number, row in enumerate(rows):
            self.counts[row.verdict] += 1
            self.pictures += bool(row.picture)
            if row.width and row.height:
                low, high = self.aspect_ratios or (row.width / row.height,) * 2
                ratio = row.width / row.height
                self.aspect_ratios = min(low, ratio), max(high, ratio)
            self.noted_count += bool(row.note)
            if row.note and len(self.noted) < _MAX_NOTED:
                self.noted.append(row)
            if number < MAX_ROWS:
                self.rows.append(row)
            if row.score is not None:
                heapq.heappush(highest, (row.score, -number, row))
                if len(highest) > _MAX_HIGHEST:
                    heapq.heappop(highest)
            elif len(self.unreadable) < _MAX_UNREADABLE:
                self.unreadable.append(row)
        if self.total > MAX_ROWS:
            self.rows = [row for _, _, row in sorted(highest, reverse=True)]
