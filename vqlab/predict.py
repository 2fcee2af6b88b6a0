"""Scoring a user's image files with a model: a verdict and a picture for each, one table."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vqlab.data import IMAGE_SUFFIXES
from vqlab.model import Model, Prediction
from vqlab.text import category_text
from vqlab.tracking import Tracker, meant_by
from vqlab.types import UserError


@dataclass(frozen=True)
class PredictedFile:
    """One scored file."""

    path: Path
    prediction: Prediction
    picture: Path


def load_model(reference: str, category: str | None, mlruns: Path) -> Model:
    """The model meant by `champion`, a checkpoint file, or a run (id, start of it, name).

    Raises UserError where there is no such thing, saying what there is, and where a file or a run
    is not about `category`.
    """
    if Path(reference).suffix == ".safetensors":
        model = Model.load(Path(reference))
        _require_category(f"checkpoint {reference}", model.categories, category)
        return model
    if reference == "champion" and category is None:
        raise UserError("a champion belongs to a category; say which, e.g. --category cable.")
    tracker = Tracker.open(mlruns, create=False, write=False)
    if reference == "champion":
        return Model.load(tracker.champion(str(category)).checkpoint)
    record = tracker.find(reference)
    _require_category(f"run {record.short}", record.categories, category)
    return Model.load(record.checkpoint())


def _require_category(what: str, trained: Sequence[str], category: str | None) -> None:
    """Raise UserError unless a model trained on the categories `trained` is about the category
    asked for."""
    if category is None or category in trained or meant_by(category, trained):
        return
    of = category_text(trained) or "no category"
    raise UserError(
        f"{what} was trained on {of} and cannot judge {category}; name a "
        f"model of {category} with --model, or leave out --category to score with this one."
    )


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The image files meant by files and folders, in order, each once. UserError for none."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
            if not inside:
                raise UserError(
                    f"folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
                    "give image files or a folder of them."
                )
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None
        else:
            raise UserError(f"image {path} does not exist; give image files or a folder of them.")
    return list(found)


def predict_files(
    model: Model,
    paths: Sequence[Path],
    results: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PredictedFile]:
    """Score files and folders; write `<name>_viz.png` for each and `scores.csv` to `results`.

    The folder is written beside and renamed when whole. Raises UserError for a path that does not
    exist or a file that is no image, naming it.
    """
    files = find_images(paths)
    strangers = [p.name for p in results.glob("*") if not _is_ours(p)]
    if strangers:
        raise UserError(
            f"folder {results} must be empty or written by an earlier predict; it holds "
            f"{strangers[0]}; choose another with --results."
        )
    names = _picture_names(files)
    partial = results.with_name(results.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows: list[PredictedFile] = []
    try:
        for done, (path, name) in enumerate(zip(files, names, strict=True), 1):
            prediction = model.score(path)
            Image.fromarray(prediction.picture(path.name)).save(partial / name)
            rows.append(PredictedFile(path, prediction, results / name))
            progress(done, len(files))
        with (partial / "scores.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "score", "threshold", "calibrated", "verdict", "picture"])
            for row, name in zip(rows, names, strict=True):
                seen = row.prediction
                numbers = map(repr, (seen.score, model.thresholds.image, seen.calibrated))
                writer.writerow([row.path, *numbers, seen.verdict, name])
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(results, ignore_errors=True)
    partial.rename(results)
    return rows


def _is_ours(path: Path) -> bool:
    return path.name.endswith("_viz.png") or path.name == "scores.csv"


def _picture_names(files: Sequence[Path]) -> list[str]:
    names: list[str] = []
    taken: set[str] = set()
    for path in files:
        name = f"{path.stem}_viz.png"
        if name in taken:
            name = f"{path.parent.name}_{name}"
        number = 2
        while name in taken:
            name = f"{path.parent.name}_{path.stem}_{number}_viz.png"
            number += 1
        taken.add(name)
        names.append(name)
    return names
