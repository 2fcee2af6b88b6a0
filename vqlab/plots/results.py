"""Write the results folder: images, score table and curves per category, atomically."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqlab.data import ImageSet, Region, find_regions
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
from vqlab.plots.panels import Row, Scale
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


class Scoring(Protocol):
    """Interface of a prediction; arrays have the original size."""

    @property
    def score(self) -> float: ...
    @property
    def calibrated(self) -> float: ...
    @property
    def anomaly_map(self) -> Array: ...
    @property
    def inspected(self) -> Array | None: ...
    @property
    def image(self) -> Array: ...
    @property
    def panels(self) -> Mapping[str, Array]: ...
    @property
    def model(self) -> Scorer: ...


def results_folder(results: Path, category: str) -> Path:
    """Return the folder of a category below `results`.

    On a case-insensitive file system `nut` gets another one if there is a folder `Nut`.
    """
    folder = results / folder_name(category)
    if not folder.exists():
        return folder
    names = [path.name for path in results.iterdir()]
    return folder if folder.name in names else results / folder_name(category, names)


def write_results(
    folder: Path,
    model: Scorer,
    images: ImageSet,
    predictions: Predictions,
    report: Report,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `folder/<category>/` for every category of a predicted set; return these folders.

    Contents: `<category>_<index>_viz.png` per image (index within the category), `worst.png` (the
    worst misses and false alarms), `scores.csv`, `score_histogram.png`, `score_by_defect.png`, and
    if defined `roc.png`, `pro.png`, `precision_recall.png` and `codebook_usage.png` (of detectors
    that have panels of codes). A folder replaces an older one atomically.
    Raises UserError if it cannot be written, ValueError if the predictions are of another set.
    """
    scored = predictions.scored
    if images.records != scored.records:
        raise ValueError("images and scores must be of the same set, in the same order.")
    codebooks = model.detector.codebook_sizes() if isinstance(model.detector, HasCodeMaps) else {}
    folders, done = [], 0
    for category, indices in scored.by_category().items():
        part = scored.take(indices)
        name = folder_name(category)
        target = results_folder(folder, category)
        with _atomic_folder(target) as partial:
            _write_table(partial / "scores.csv", part, model.thresholds)
            _write_curves(partial, category, part, model.thresholds, report)
            misses, alarms = worst_of(part.image_scores, part.labels)
            worst_rows: dict[int, Row] = {}
            rows = _rows(category, model.thresholds, images, indices, part, predictions.panels)
            for position, row in enumerate(rows):
                with attempt(f"the picture of {row.title}"):
                    _save(draw_row(row), partial / f"{name}_{position:03d}_viz.png")
                if position in misses or position in alarms:
                    worst_rows[position] = row
                done += 1
                if progress is not None:
                    progress(done, len(scored))
            with attempt(f"worst.png of {category}"):
                columns = ([worst_rows[i] for i in order] for order in (misses, alarms))
                _save(draw_worst(category, *columns), partial / "worst.png")
            codes = [name for name, each in predictions.panels.items() if each[0].ndim == 2]
            if codes:
                with attempt(f"codebook_usage.png of {category}"):
                    maps = [predictions.panels[codes[0]][index].ravel() for index in indices]
                    size = codebooks.get(codes[0])
                    counts = np.bincount(np.concatenate(maps), minlength=size or 0)
                    counts = counts if size else counts[counts > 0]
                    title = f"{category} · {_title(codes[0])}"
                    figure = codebook_usage(counts, title, complete=bool(size))
                    save_figure(figure, partial / "codebook_usage.png")
        folders.append(target)
    return folders


def panel_row(prediction: Scoring, title: str = "", regions: Sequence[Region] = ()) -> Array:
    """Return a prediction without ground truth as a row of panels (h, w, 3) uint8.

    regions: of its mask, to number them.
    """
    thresholds = prediction.model.thresholds
    name, panel = _panel(prediction.panels)
    return draw_row(
        Row(
            title=title,
            subtitle="",
            image=prediction.image,
            anomaly_map=prediction.anomaly_map,
            score=prediction.score,
            calibrated=prediction.calibrated,
            threshold=thresholds.image,
            review=thresholds.review,
            inspected=prediction.inspected,
            regions=tuple(regions),
            scale=Scale.of([prediction.anomaly_map], thresholds.pixel, prediction.score),
            panel=panel,
            panel_title=name,
        )
    )


def _rows(
    category: str,
    thresholds: Thresholds,
    images: ImageSet,
    indices: Sequence[int],
    part: Scored,
    panels: Mapping[str, Sequence[Array]],
) -> Iterator[Row]:
    """Yield the rows of one category in order."""
    scale = Scale.of(part.maps, thresholds.pixel, part.image_scores)
    side = images.settings.image_size
    for position, index in enumerate(indices):
        record = part.records[position]
        name, panel = _panel({title: each[index] for title, each in panels.items()})
        if panel is not None:
            panel = crop_panel(panel, part.geometry[position], side)
        score = float(part.image_scores[position])
        inspected = None if part.inspected is None else part.inspected[position]
        verdict, values = thresholds.verdict(score), part.maps[position]
        predicted = predicted_mask(values, thresholds.pixel, verdict, inspected)
        has_truth = record.label == 0 or bool(part.masks[position].any())
        yield Row(
            title=f"{category} {position:03d}",
            subtitle=record.defect.replace("_", " "),
            image=images.original(index),
            anomaly_map=values,
            regions=find_regions(values, predicted),
            score=score,
            calibrated=thresholds.calibrated(score),
            threshold=thresholds.image,
            review=thresholds.review,
            scale=scale,
            anomalous=bool(record.label),
            mask=images.original_mask(index) if has_truth else None,
            inspected=images.original_inspected(index),
            panel=panel,
            panel_title=name,
        )


def _panel(panels: Mapping[str, Array]) -> tuple[str, Array | None]:
    """Return the reconstruction if there is one, else the first panel."""
    for name in ("reconstruction", *panels):
        if name in panels:
            return _title(name), panels[name]
    return "no reconstruction", None


def _title(name: str) -> str:
    return name.replace("_", " ")


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
    Image.fromarray(picture).save(path, compress_level=3)


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


@contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    """Provide a temporary folder that becomes `target` at the end, or is removed on an error."""
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
        partial.chmod(0o755)
        yield partial
        _replace(partial, target)
    except OSError as error:
        raise UserError(
            f"the results folder {target} cannot be written: {error.strerror or error}; free some "
            "space or choose another folder."
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


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
