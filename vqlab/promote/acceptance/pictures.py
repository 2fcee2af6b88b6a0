"""Test pictures of a run: the worst misses and false alarms, and the histogram of scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from PIL import Image

from vqlab.data import read_image
from vqlab.errors import UserError
from vqlab.html_page import escape, paragraph, picture
from vqlab.plots import attempt, in_two_rows
from vqlab.run import SHIFT_CHART
from vqlab.text import folder_name
from vqlab.tracking import RunRecord

_SHIFTED = "Errors under capture shifts (camera, lamp, position, file format)"
MOST = 4
"""Maximum number of misses, and of false alarms, per category."""
_WIDTH, _QUALITY = 1000, 80
_MISSES = "Worst misses: anomalous images with the lowest scores"
_ALARMS = "Worst false alarms: normal images with the highest scores"
Row = Mapping[str, str]


def test_pictures(record: RunRecord) -> str:
    """Return the pictures of every category, embedded; empty if the run has none."""
    sections = list(_shifts(record))
    for category in record.categories:
        heading = "Test pictures" + (f": {category}" if len(record.categories) > 1 else "")
        parts = list(_of_category(record, f"results/{folder_name(category)}"))
        if parts:
            sections += [f"<h2>{escape(heading)}</h2>", *parts]
    return "\n".join(sections)


def _shifts(record: RunRecord) -> Iterator[str]:
    try:
        chart = record.artifact(SHIFT_CHART).read_bytes()
    except UserError:
        return
    figure = picture(_SHIFTED, chart)
    yield f'<h2>Capture shifts</h2><div class="grid pictures">{figure}</div>'


def _of_category(record: RunRecord, folder: str) -> Iterator[str]:
    try:
        with record.artifact(f"{folder}/scores.csv").open(newline="", encoding="utf-8") as file:
            rows = sorted(csv.DictReader(file), key=lambda row: float(row["score"]))
    except (UserError, KeyError, ValueError):
        return
    misses = [row for row in rows if row["label"] == "anomalous"][:MOST]
    alarms = [row for row in reversed(rows) if row["label"] == "normal"][:MOST]
    for heading, chosen in ((_MISSES, misses), (_ALARMS, alarms)):
        figures = list(_figures(record, folder, chosen))
        if figures:
            wrong = sum(row["correct"] == "no" for row in chosen)
            text = f"{wrong or 'None'} of these {len(chosen)} with a wrong verdict."
            yield f"<h3>{heading}</h3>{paragraph(text, 'muted')}"
            yield f'<div class="grid pictures">{"".join(figures)}</div>'
    with attempt("the histogram of scores"):
        try:
            histogram = record.artifact(f"{folder}/score_histogram.png").read_bytes()
        except UserError:
            return
        caption = "Scores of the test images, and the image threshold"
        yield f'<div class="grid pictures">{picture(caption, histogram)}</div>'


def _figures(record: RunRecord, folder: str, rows: Sequence[Row]) -> Iterator[str]:
    name = folder.rpartition("/")[2]
    for row in rows:
        try:
            file = record.artifact(f"{folder}/{name}_{int(row['index']):03d}_viz.png")
        except UserError:  # it could not be drawn
            continue
        caption = (
            f"{row['file']} ({row['defect'].replace('_', ' ')}): score {float(row['score']):.4g}, "
            f"threshold {float(row['threshold']):.4g}, {row['verdict']}"
        )
        with attempt(f"the picture {file.name}"):
            image = Image.fromarray(in_two_rows(read_image(file)))
            image.thumbnail((_WIDTH, _WIDTH * 4), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=_QUALITY)
            yield picture(caption, buffer.getvalue(), "jpeg")
