"""Write the results folder: images, score table and curves per category, atomically."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vqlab.data import ImageSet, encode_png, find_regions, frame_of
from vqlab.detectors import Detector, HasCodeMaps
from vqlab.evaluation import (
    PASS,
    REJECT,
    Predictions,
    Report,
    Scored,
    Thresholds,
    crop_panel,
    predicted_mask,
)
from vqlab.plots.attempt import attempt
from vqlab.plots.curves import (
    codebook_usage,
    precision_recall_figure,
    pro_figure,
    roc_figure,
    save_figure,
    score_by_defect,
    score_histogram,
)
from vqlab.plots.panels import Row, Scale, readable, second_panel
from vqlab.plots.row import draw_row
from vqlab.plots.worst import draw_worst, worst_of
from vqlab.text import folder_name, visible
from vqlab.types import ImageRecord, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]


class Scorer(Protocol):
    """Interface of a model."""

    @property
    def detector(self) -> Detector: ...
    @property
    def thresholds(self) -> Thresholds: ...


def results_folder(results: Path, category: str) -> Path:
    """Return the folder of a category below `results`.

    On a case-insensitive file system `nut` gets another one if there is a folder `Nut`.
    """
    folder = results / folder_name(category)
    if not folder.exists():
        return folder
    names = [path.name for path in results.iterdir()]
    return folder if folder.name in names else results / folder_name(category, names)


class ResultsWriter:
    """Writes `folder/<category>/` for every category of a predicted set.

    Contents: `<category>_<index>_viz.png` per image (index within the category), `worst.png` (the
    worst misses and false alarms), `scores.csv`, `score_histogram.png`, `score_by_defect.png`, and
    if defined `roc.png`, `pro.png`, `precision_recall.png` and `codebook_usage.png` (of detectors
    that have panels of codes). A folder replaces an older one atomically.

    A thread draws the pictures of a category while the caller scores the next one. A process would
    import torch again, which takes as long as a hundred pictures, and copy every anomaly map; a
    thread needs neither, and drawing mostly runs outside of Python's lock.
    """

    def __init__(self, folder: Path, model: Scorer) -> None:
        self._folder, self._model = folder, model
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._categories: dict[str, _Category] = {}

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        """Stop drawing and remove what `finish` did not complete."""
        self._pool.shutdown(cancel_futures=True)
        for category in self._categories.values():
            if category.partial is not None:
                shutil.rmtree(category.partial, ignore_errors=True)

    def draw(self, images: ImageSet, predictions: Predictions) -> None:
        """Start to draw the pictures of all images of one category. Errors are raised by
        `finish`."""
        name = images.records[0].category
        category = _Category(name, self._model.thresholds, images, predictions)
        self._categories[name] = category
        category.tasks = [self._pool.submit(category.open, self._folder)]
        category.tasks += [self._pool.submit(category.draw, i) for i in range(len(images))]

    def finish(
        self, report: Report, progress: Callable[[int, int], None] | None = None
    ) -> list[Path]:
        """Wait for the pictures, write the other files and return the folders, sorted by category.

        progress: called per picture with (pictures done, pictures in all). Raises UserError if a
        folder cannot be written.
        """
        folders, done = [], 0
        total = sum(len(category.images) for category in self._categories.values())
        for name, category in sorted(self._categories.items()):
            target = results_folder(self._folder, name)
            try:
                category.tasks[0].result()
                for task in category.tasks[1:]:
                    task.result()
                    done += 1
                    if progress is not None:
                        progress(done, total)
                self._write_rest(category, report)
                assert category.partial is not None
                _replace(category.partial, target)
            except OSError as error:
                raise UserError(
                    f"the results folder {target} cannot be written: {error.strerror or error}; "
                    "free some space or choose another folder."
                ) from error
            folders.append(target)
        return folders

    def _write_rest(self, category: _Category, report: Report) -> None:
        """Write the score table and the figures of all images."""
        folder, name, part = category.partial, category.name, category.predictions.scored
        assert folder is not None
        _write_table(folder / "scores.csv", part, category.thresholds)
        _write_curves(folder, name, part, category.thresholds, report)
        with attempt(f"worst.png of {name}"):
            columns = [
                [category.row(position) for position in order]
                for order in worst_of(part.image_scores, part.labels)
            ]
            _save(draw_worst(name, *columns), folder / "worst.png")
        self._write_usage(category, folder)

    def _write_usage(self, category: _Category, folder: Path) -> None:
        """Draw how often each code occurs, if there are panels of codes."""
        detector, panels = self._model.detector, category.predictions.panels
        for title, maps in panels.items():
            if maps[0].ndim != 2:
                continue
            with attempt(f"codebook_usage.png of {category.name}"):
                sizes = detector.codebook_sizes() if isinstance(detector, HasCodeMaps) else {}
                size = sizes.get(title)
                counts = np.bincount(np.concatenate([m.ravel() for m in maps]), minlength=size or 0)
                counts = counts if size else counts[counts > 0]
                heading = f"{category.name} · {readable(title)}"
                figure = codebook_usage(counts, heading, complete=bool(size))
                save_figure(figure, folder / "codebook_usage.png")
            return


@dataclass
class _Category:
    """The images of one category with their predictions, in the same order."""

    name: str
    thresholds: Thresholds
    images: ImageSet
    predictions: Predictions
    partial: Path | None = None
    """Temporary folder that becomes the category's folder."""
    tasks: list[Future[None]] = field(default_factory=list)

    def open(self, folder: Path) -> None:
        """Create the temporary folder."""
        folder.mkdir(parents=True, exist_ok=True)
        prefix = f"{folder_name(self.name)}.partial-"
        self.partial = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        self.partial.chmod(0o755)

    def draw(self, position: int) -> None:
        """Write the picture of one image."""
        assert self.partial is not None
        with attempt(f"the picture of {self.name} {position:03d}"):
            file = f"{folder_name(self.name)}_{position:03d}_viz.png"
            _save(draw_row(self.row(position)), self.partial / file)

    @cached_property
    def scale(self) -> Scale:
        scored = self.predictions.scored
        return Scale.of(scored.maps, self.thresholds.pixel, scored.image_scores)

    def row(self, position: int) -> Row:
        """Return the row of one image."""
        part, images, thresholds = self.predictions.scored, self.images, self.thresholds
        record, values = part.records[position], part.maps[position]
        panels = {title: each[position] for title, each in self.predictions.panels.items()}
        name, panel = second_panel(panels)
        if panel is not None:
            geometry = part.geometry[position]
            panel = crop_panel(panel, geometry, frame_of(geometry, images.settings))
        score = float(part.image_scores[position])
        inspected = None if part.inspected is None else part.inspected[position]
        predicted = predicted_mask(values, thresholds, thresholds.verdict(score), inspected)
        has_truth = record.label == 0 or bool(part.masks[position].any())
        return Row(
            title=f"{self.name} {position:03d}",
            subtitle=record.defect.replace("_", " "),
            image=images.original(position),
            anomaly_map=values,
            regions=find_regions(values, predicted),
            score=score,
            calibrated=thresholds.calibrated(score),
            thresholds=thresholds,
            scale=self.scale,
            anomalous=bool(record.label),
            mask=images.original_mask(position) if has_truth else None,
            inspected=images.original_inspected(position),
            panel=panel,
            panel_title=name,
        )


def _write_table(path: Path, part: Scored, thresholds: Thresholds) -> None:
    header = "index file defect label score threshold calibrated verdict correct"
    header += " p_value review_threshold"
    right = {(PASS, 0): "yes", (REJECT, 1): "yes", (PASS, 1): "no", (REJECT, 0): "no"}
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header.split())
        for index, record in enumerate(part.records):
            score = float(part.image_scores[index])
            verdict = thresholds.verdict(score)
            table.writerow(
                [
                    index,
                    visible(_path_in_category(record)),
                    visible(record.defect),
                    "anomalous" if record.label else "normal",
                    repr(score),
                    repr(thresholds.image),
                    repr(thresholds.calibrated(score)),
                    verdict,
                    right.get((verdict, record.label), ""),  # a review is neither
                    repr(thresholds.p_value(score)),
                    "" if thresholds.review is None else repr(thresholds.review),
                ]
            )


def _save(picture: Array, path: Path) -> None:
    path.write_bytes(encode_png(picture))


def _path_in_category(record: ImageRecord) -> str:
    """Return the path starting at the category's folder."""
    parts = record.path.parts
    if record.category not in parts:
        return record.path.as_posix()
    last = len(parts) - 1 - parts[::-1].index(record.category)
    return "/".join(parts[last:])


def _write_curves(
    folder: Path, category: str, part: Scored, thresholds: Thresholds, report: Report
) -> None:
    scores, labels = part.image_scores, part.labels
    limits = thresholds.image, thresholds.review
    kinds = [record.defect for record in part.records]
    metrics, curves = report.per_category[category], report.curves.get(category, {})
    figures: dict[str, Callable[[], Figure]] = {
        "score_histogram": lambda: score_histogram(category, scores, labels, *limits),
        "score_by_defect": lambda: score_by_defect(category, scores, labels, kinds, *limits),
        "roc": lambda: roc_figure(category, curves, metrics),
        "pro": lambda: pro_figure(category, curves, metrics),
        "precision_recall": lambda: precision_recall_figure(category, curves, metrics),
    }
    for name, draw in figures.items():
        if name.startswith("score") or any(key.endswith(name) for key in curves):
            with attempt(f"{name}.png of {category}"):
                save_figure(draw(), folder / f"{name}.png")


def _replace(new: Path, target: Path) -> None:
    """Move `new` to `target` and delete the previous one."""
    if target.is_symlink() or target.is_file():
        raise FileExistsError(f"{target.name} is a file")
    old = new.with_name(new.name + ".old")
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except OSError:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
