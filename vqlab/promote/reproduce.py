"""Check that a checkpoint alone reproduces the scores of its run, in a fresh process."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vqlab.config import merge, nest
from vqlab.data import Splits, find_root, load_dataset
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.promote.comparison import NO_IMAGES
from vqlab.run import RunConfig, resolve
from vqlab.text import folder_name, restored
from vqlab.tracking import RunRecord

_IMAGES = 4
"""Number of images that are scored again."""
_TOLERANCE = 1e-5
"""Relative difference of scores between devices or numbers of threads."""


def reproduce(record: RunRecord, data: Path | None) -> str:
    """Score a few test images again in a fresh process; return how closely the scores agree.

    data: the folder of the images if they were moved. Raises UserError if a score differs.
    """
    checkpoint = record.checkpoint()
    model = Model.load(checkpoint, "cpu")
    if record.tags.get("vqlab.test_fingerprint") == NO_IMAGES:
        images = same_data(record, model_config(model, data)).held_out.records
        paths = [image.path for image in images[:: max(1, (len(images) - 1) // (_IMAGES - 1))]]
        expected = {path: model.score(path).score for path in paths}
    else:
        expected = _recorded_scores(record, model_config(model, data))
    task: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "images": [str(path) for path in expected],
        "device": record.tags.get("vqlab.device", "cpu").partition(":")[0],
        "threads": record.tags.get("vqlab.threads", ""),
    }
    scores = score_in_fresh_process(task)
    for (path, recorded), score in zip(expected.items(), scores, strict=True):
        if not math.isclose(score, recorded, rel_tol=_TOLERANCE, abs_tol=1e-9):
            raise UserError(
                f"checkpoint {checkpoint} must reproduce the score of {path}; got {score!r} in a "
                f"fresh process, {recorded!r} when it was tested; train it again."
            )
    exact = scores == list(expected.values())
    return f"{len(scores)} scores {'bit for bit' if exact else f'to {_TOLERANCE:g}'}"


def model_config(model: Model, data: Path | None) -> RunConfig:
    """Return the settings of a model, with its images in `data` if they were moved there."""
    return resolve(merge(model.meta["config"], nest("data.root", str(data)) if data else {}))


def same_data(record: RunRecord, config: RunConfig) -> Splits:
    """Load the data that a run was trained on. Raises UserError if they have changed."""
    splits = load_dataset(config.data)
    fingerprint = record.tags["vqlab.data_fingerprint"]
    if splits.fingerprint != fingerprint:
        raise UserError(
            f"run {record.short} was trained on other data ({fingerprint[:12]}) than "
            f"{splits.root} contains now ({splits.fingerprint[:12]}); restore them, pass their "
            "location with --data, or train again."
        )
    return splits


def _recorded_scores(record: RunRecord, config: RunConfig) -> dict[Path, float]:
    """Return a few test images, evenly spaced, with the scores that the run recorded."""
    roots = [find_root(config.data)[0], *([config.data.bad] if config.data.bad else [])]
    folders = [folder for root in roots for folder in (root, *root.absolute().parents)]
    rows: list[Mapping[str, str]] = []
    for category in record.categories:
        with _scores_file(record, category).open(newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    scores = {}
    for row in rows[:: max(1, (len(rows) - 1) // (_IMAGES - 1))]:
        names = (row["file"], restored(row["file"]))
        files = [folder / name for name in names for folder in (*folders, Path())]
        path = next((file for file in files if file.exists()), None)
        if path is None:
            raise UserError(
                f"test image {row['file']} is no longer in {roots[0]}, so the scores of run "
                f"{record.short} cannot be checked; restore it."
            )
        scores[path] = float(row["score"])
    return scores


def _scores_file(record: RunRecord, category: str) -> Path:
    """Return scores.csv of a category; vqlab 0.1 named the folder after the category."""
    try:
        return record.artifact(f"results/{folder_name(category)}/scores.csv")
    except UserError:
        return record.artifact(f"results/{category}/scores.csv")


def score_in_fresh_process(task: Mapping[str, Any]) -> list[float]:
    """Return the scores of `score_images`, run in a new process."""
    process = subprocess.run(
        [sys.executable, "-m", "vqlab.promote"],
        input=json.dumps(task), capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if process.returncode:
        error = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"checkpoint {task['checkpoint']} cannot be used in a fresh process: {error}"
        )
    scores: list[float] = json.loads(process.stdout)
    return scores


def score_images(task: Mapping[str, Any]) -> list[float]:
    """Score the `images` of a task with its `checkpoint`, on its `device` with its `threads`."""
    if str(task["threads"]).isdigit():
        torch.set_num_threads(int(task["threads"]))
    available = task["device"] == "cpu" or torch.cuda.is_available()
    model = Model.load(Path(task["checkpoint"]), task["device"] if available else "cpu")
    return [model.score(Path(image)).score for image in task["images"]]
