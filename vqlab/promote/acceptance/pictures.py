"""Test pictures of a run: the worst misses and false alarms, and the histogram of scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vqlab.errors import UserError
from vqlab.html_page import escape, paragraph, picture
from vqlab.plots import attempt
from vqlab.run import SHIFT_CHART, score_rows, test_picture
from vqlab.text import folder_name
from vqlab.tracking import RunRecord

_SHIFTED = "Errors under capture shifts (camera, lamp, position, file format)"
MOST = 4
"""Maximum number of misses, and of false alarms, per category."""
_WIDTH = 1000
_MISSES = "Worst misses: anomalous images with the lowest scores"
_ALARMS = "Worst false alarms: normal images with the highest scores"
Row = Mapping[str, str]


def test_pictures(record: RunRecord) -> str:
    """Return the pictures of every category, embedded; empty if the run has none."""
    sections = list(_shifts(record))
    for category in record.categories:
        heading = "Test pictures" + (f": {category}" if len(record.categories) > 1 else "")
        parts = list(_of_category(record, category))
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


def _of_category(record: RunRecord, category: str) -> Iterator[str]:
    try:
        rows = sorted(score_rows(record, category), key=lambda row: float(row["score"]))
    except (UserError, KeyError, ValueError):
        return
    misses = [row for row in rows if row["label"] == "anomalous"][:MOST]
    alarms = [row for row in reversed(rows) if row["label"] == "normal"][:MOST]
    for heading, chosen in ((_MISSES, misses), (_ALARMS, alarms)):
        figures = list(_figures(record, category, chosen))
        if figures:
            wrong = sum(row["correct"] == "no" for row in chosen)
            text = f"{wrong or 'None'} of these {len(chosen)} with a wrong verdict."
            yield f"<h3>{heading}</h3>{paragraph(text, 'muted')}"
            yield f'<div class="grid pictures">{"".join(figures)}</div>'
    with attempt("the histogram of scores"):
        try:
            histogram = record.artifact(
                f"results/{folder_name(category)}/score_histogram.png"
            ).read_bytes()
        except UserError:
            return
        caption = "Scores of the test images, and the image threshold"
        yield f'<div class="grid pictures">{picture(caption, histogram)}</div>'


def _figures(record: RunRecord, category: str, rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        caption = (
            f"{row['file']} ({row['defect'].replace('_', ' ')}): score {float(row['score']):.4g}, "
            f"threshold {float(row['threshold']):.4g}, {row['verdict']}"
        )
        with attempt(f"the picture of {row['file']}"):
            data = test_picture(record, category, int(row["index"]), _WIDTH)
            if data is not None:  # it could be drawn
                yield picture(caption, data, "jpeg")
