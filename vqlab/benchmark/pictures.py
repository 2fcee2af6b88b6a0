"""Results of the methods of a benchmark on the same test images, side by side."""

from __future__ import annotations

from collections.abc import Iterator

from vqlab.benchmark.report import Report
from vqlab.compare import disagreements, side_by_side
from vqlab.html_page import paragraph
from vqlab.tracking import RunRecord

_PER_CATEGORY, _MOST = 2, 12
"""Maximum number of images."""


def test_images(report: Report) -> Iterator[str]:
    """Return the images on which the methods disagree most, as markup."""
    budget = _MOST
    for category in report.results.plan.categories:
        runs = _first_runs(report, category)
        limit = min(_PER_CATEGORY, budget)
        images = disagreements(list(runs.values()), [category], limit) if len(runs) > 1 else []
        budget -= len(images)
        if images and budget == _MOST - len(images):
            yield paragraph(
                "Images on which the first models of the methods disagree most. Calibrated scores: "
                "0 to 1, 0.5 at the threshold of each model.",
                "muted",
            )
        for image in images:
            first = image.rows[0]
            label = f"{first['label']}, {first['defect']}"
            yield side_by_side(f"{category}: {first['file']} ({label})", runs, image)


def _first_runs(report: Report, category: str) -> dict[str, RunRecord]:
    """Return the run of the first seed of each method, in the order of the tables."""
    results = report.results
    runs: dict[str, RunRecord] = {}
    for index, run in results.runs.items():
        cell = results.plan.cells[index]
        if category in cell.categories:
            runs.setdefault(cell.method, run)
    return {name: runs[name] for name in results.plan.methods if name in runs}
