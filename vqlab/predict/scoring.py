"""Score files one after the other. Only a file's row outlives it, so memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vqlab.model import Model
from vqlab.predict.files import find_images
from vqlab.predict.folder import Identity, ResultsFolder, identity_of, open_results
from vqlab.predict.pictures import Pictures, require_mode
from vqlab.predict.rows import UNREADABLE, PredictedFile, Predictions, file_text, write_tables
from vqlab.text import visible
from vqlab.types import UserError
from vqlab.version import __version__


def predict_files(
    model: Model,
    paths: Sequence[Path],
    results: Path,
    *,
    pictures: str = "auto",
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predictions:
    """Score files and folders; write `scores.csv`, `scores.jsonl` and pictures to `results`.

    pictures: `auto` (of the 200 images with the highest scores), `all` or `none`.
    resume: continue a prediction that was interrupted; begin one where there is none.

    A file that cannot be read is a row with the verdict `unreadable`. An earlier prediction in
    `results` is replaced when the new one is complete. Raises UserError for a path that does not
    exist and a results folder that cannot be used; KeyboardInterrupt, with a sentence on how to
    continue, where it is interrupted.
    """
    require_mode(pictures)
    images = find_images(paths, results)
    with open_results(results) as folder:
        chosen = Pictures(pictures, folder.partial)
        settings = {"model": model.digest, "--pictures": pictures, "vqlab version": __version__}
        done: set[str] = set()
        if resume:
            current = {file_text(path): path for path in images.faults}

            def reusable(row: PredictedFile, identity: Identity) -> bool:
                path = current.get(row.file)
                return path is not None and identity_of(path) == identity

            for row in folder.resume(settings, reusable):
                done.add(row.file)
                chosen.add(row)
        else:
            folder.start(settings)
        try:
            _score_each(model, images.faults, folder, chosen, done, progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; {len(done)} of {len(images.faults)} images are scored: run the same "
                "command with --resume for the others."
            ) from None
        summary = Predictions(results, images.notes)
        summary.summarise(write_tables(folder.partial, _with_pictures(folder)))
        folder.complete()
    return summary


def _score_each(
    model: Model,
    faults: dict[Path, str],
    folder: ResultsFolder,
    pictures: Pictures,
    done: set[str],
    progress: Callable[[int, int], None],
) -> None:
    """Score the files that are not `done`, and add them to it."""
    with folder.journal() as append:
        for path, fault in faults.items():
            text = file_text(path)
            if text in done:
                continue
            identity = identity_of(path)  # before reading: a later change is then noticed
            row = _score(model, path, fault, pictures)
            append(row, identity)
            pictures.add(row)
            done.add(text)
            progress(len(done), len(faults))


def _score(model: Model, path: Path, fault: str, pictures: Pictures) -> PredictedFile:
    """Return the row of a file; draw its picture if it has one."""
    text, threshold = file_text(path), model.thresholds.image
    try:
        if fault:
            raise UserError(fault)
        pixels = model.read(path)
    except Exception as error:  # a decoder may fail in any way on a damaged file
        reason = visible(str(getattr(error, "reason", error)) or type(error).__name__)
        return PredictedFile(text, None, threshold, None, UNREADABLE, reason=reason)
    prediction = model.score(pixels)
    name = ""
    if pictures.wanted(prediction.score):
        name = pictures.name(path)
        drawn = prediction.picture(visible(path.name))
        Image.fromarray(drawn).save(pictures.folder / name)
    return PredictedFile(
        file=text,
        score=prediction.score,
        threshold=threshold,
        calibrated=prediction.calibrated,
        verdict=prediction.verdict,
        picture=name,
        marked=float(prediction.mask.mean()),
    )


def _with_pictures(folder: ResultsFolder) -> Iterator[PredictedFile]:
    """Yield the rows; each names its picture only where that is still there."""
    for row in folder.rows():
        there = row.picture and (folder.partial / row.picture).exists()
        yield row if there or not row.picture else replace(row, picture="")
