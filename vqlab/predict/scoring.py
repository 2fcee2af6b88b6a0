"""Score files one at a time, keeping only their rows, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vqlab.data import too_small
from vqlab.errors import ScoreError, UserError
from vqlab.model import Model, Prediction
from vqlab.predict.coco import COCO_NAME, write_coco
from vqlab.predict.files import find_images
from vqlab.predict.folder import Identity, ResultsFolder, identity_of, open_results
from vqlab.predict.pictures import MODES, Pictures
from vqlab.predict.rows import (
    COLUMNS,
    JSON_NAME,
    UNREADABLE,
    PredictedFile,
    Predictions,
    file_text,
    write_tables,
)
from vqlab.predict.workers import map_in_order
from vqlab.text import visible
from vqlab.version import __version__


def predict_files(
    model: Model,
    paths: Sequence[Path],
    results: Path,
    *,
    pictures: str = "auto",
    min_area: int = 1,
    coco: bool = False,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda scored, total: None,
) -> Predictions:
    """Score files and folders; write `scores.csv`, `scores.jsonl` and pictures to `results`.

    pictures: `auto` (the 200 images with the highest scores), `all` or `none`. min_area: regions of
    fewer pixels are not listed. coco: also write `predictions.coco.json`, see `write_coco`. resume:
    continue an interrupted prediction; start one if there is none.

    A file that cannot be read, or whose scores are not finite, gets the verdict `unreadable`. A
    previous prediction in `results` is replaced when the new one is complete. Raises UserError for
    a missing path or an unusable results folder; KeyboardInterrupt, with a sentence on how to
    resume, on interruption.
    """
    if pictures not in MODES:
        raise UserError(f"--pictures must be one of {', '.join(MODES)}; got {pictures!r}.")
    images = find_images(paths, results)
    settings = _settings(model, pictures, min_area)
    with open_results(results) as folder:
        selection = Pictures(pictures, folder.partial)
        scored: set[str] = set()
        if resume:
            for row in _resume(folder, settings, images.errors):
                scored.add(row.file)
                selection.add(row)
        else:
            folder.start(settings)
        try:
            draw = partial(_row, model, selection, min_area)
            remaining = [each for each in images.errors.items() if file_text(each[0]) not in scored]
            threads = torch.get_num_threads() if model.device.type == "cpu" else 1
            results_in_order = map_in_order(partial(score_file, model), remaining, threads)
            with folder.journal() as append, closing(results_in_order):
                for identity, path, prediction in results_in_order:
                    row = draw(path, prediction)
                    del prediction  # frees the image while its row is written
                    append(row, identity)
                    selection.add(row)
                    scored.add(row.file)
                    progress(len(scored), len(images.errors))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; {len(scored)} of {len(images.errors)} images are scored; re-run the "
                "command with --resume to score the others."
            ) from None
        summary = Predictions(results, images.notes)
        summary.add(write_tables(folder.partial, _with_pictures(folder)))
        if coco:
            write_coco(folder.partial / JSON_NAME, folder.partial / COCO_NAME, model.category)
        folder.complete()
    return summary


def _resume(
    folder: ResultsFolder, settings: dict[str, Any], paths: Iterable[Path]
) -> Iterator[PredictedFile]:
    """Resume a prediction; return the rows of files that have not changed since."""
    paths_by_text = {file_text(path): path for path in paths}

    def reusable(row: PredictedFile, identity: Identity) -> bool:
        path = paths_by_text.get(row.file)
        return path is not None and identity_of(path) == identity

    return folder.resume(settings, reusable)


def _settings(model: Model, pictures: str, min_area: int) -> dict[str, Any]:
    """Return the settings that must be equal to resume a prediction."""
    return {
        "model": model.digest,
        "--category": model.area and model.area.digest,
        "--pictures": pictures,
        "--min-area": min_area,
        "--mm-per-pixel": model.data.mm_per_pixel,
        "--engine": model.backbone.engine,
        "vqlab version": __version__,
        "columns of scores.csv": list(COLUMNS),
    }


def score_file(model: Model, file: tuple[Path, str]) -> tuple[Identity, Path, Prediction | str]:
    """Return the identity of a file and its prediction, or why it is unreadable, does not fit the
    model's inspected area or tiles, or has scores that are not finite.

    file: its path, and why it is unreadable if that is known. Raises UserError if the inspected
    area depends on the category of the images, see `Model.area`.
    """
    path, problem = file
    area = model.area
    identity = identity_of(path)  # before reading, to detect later changes
    try:
        if problem:
            raise UserError(problem)
        pixels = model.read(path)
        size = (pixels.shape[0], pixels.shape[1])
        if area is not None:
            area.at(size)
        small = too_small(size, model.data)
        if small:
            raise UserError(small)
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        return identity, path, visible(reason)
    try:
        return identity, path, model.score(pixels)
    except ScoreError as error:
        return identity, path, str(error)


def _row(
    model: Model, pictures: Pictures, min_area: int, path: Path, prediction: Prediction | str
) -> PredictedFile:
    """Return the row of a file; draw its picture if it gets one."""
    name = ""
    if not isinstance(prediction, str) and pictures.accepts(prediction.score):
        name = pictures.name(path)
        picture = prediction.picture(visible(path.name), min_area)
        Image.fromarray(picture).save(pictures.folder / name)
    return predicted_row(model, path, prediction, min_area, name)


def predicted_row(
    model: Model, path: Path, prediction: Prediction | str, min_area: int = 1, picture: str = ""
) -> PredictedFile:
    """Return the row of a file. prediction: a text says why the file is unreadable."""
    text, threshold, review = file_text(path), model.thresholds.image, model.thresholds.review
    if isinstance(prediction, str):
        return PredictedFile(
            text, None, threshold, None, UNREADABLE, reason=prediction, review_threshold=review
        )
    return PredictedFile(
        file=text,
        score=prediction.score,
        threshold=threshold,
        calibrated=prediction.calibrated,
        verdict=prediction.verdict,
        picture=picture,
        marked=float(prediction.mask.mean()),
        regions=[asdict(region) for region in prediction.regions(min_area)],
        p_value=prediction.p_value,
        review_threshold=review,
        width=prediction.image.shape[1],
        height=prediction.image.shape[0],
        note=prediction.note,
    )


def _with_pictures(folder: ResultsFolder) -> Iterator[PredictedFile]:
    """Yield the rows, without the names of pictures that were deleted."""
    for row in folder.rows():
        exists = not row.picture or (folder.partial / row.picture).exists()
        yield row if exists else replace(row, picture="")
