"""Score images with a checkpoint in a fresh process: same scores, latency, memory."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from vqlab.config import merge, nest
from vqlab.data import Splits, find_root, load_dataset
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.promote.comparison import NO_IMAGES
from vqlab.run import RunConfig, resolve, score_rows
from vqlab.text import restored
from vqlab.tracking import RunRecord

_IMAGES = 4
"""Number of images that are scored again."""
_TOLERANCE = 1e-5
"""Relative difference of scores between devices or numbers of threads."""


@dataclass(frozen=True)
class Reproduction:
    """A few images scored by a checkpoint in a fresh process."""

    images: int
    exact: bool
    """Whether the scores equal the recorded ones bit for bit."""
    seconds: float = 0.0
    """Median time per image, from file to score, after the first pass."""
    memory: int = 0
    """Peak resident memory of the process in bytes."""
    device: str = "cpu"
    threads: int = 1
    """Number of CPU threads."""
    difference: float = 0.0
    """Largest relative difference between a score and the recorded one."""
    worst: str = ""
    """The image of that difference, with both scores."""
    tolerance: float = _TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether all scores equal the recorded ones to `tolerance`."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        agreement = "bit for bit" if self.exact else f"to {self.tolerance:g}"
        return f"{self.images} scores {agreement}"


def reproduce(record: RunRecord, data: Path | None) -> Reproduction:
    """Score a few test images again in a fresh process.

    data: the folder of the images if they were moved. Raises UserError if they or the checkpoint
    cannot be used.
    """
    checkpoint = record.checkpoint()
    model = Model.load(checkpoint, "cpu")
    if record.tags.get("vqlab.test_fingerprint") == NO_IMAGES:
        images = same_data(record, model_config(model, data), model).held_out.records
        chosen = images[:: max(1, (len(images) - 1) // (_IMAGES - 1))]
        expected = [
            (i.path, i.category, model.for_category(i.category).score(i.path).score) for i in chosen
        ]
    else:
        expected = _recorded_scores(record, model_config(model, data))
    task: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "images": [(str(path), category) for path, category, _ in expected],
        "device": record.tags.get("vqlab.device", "cpu").partition(":")[0],
        "threads": record.tags.get("vqlab.threads", ""),
    }
    result = score_in_fresh_process(task)
    scores = result["scores"]
    recorded = [score for _, _, score in expected]
    differences = [_relative(*pair) for pair in zip(scores, recorded, strict=True)]
    place = max(range(len(scores)), key=lambda i: (math.isnan(differences[i]), differences[i]))
    return Reproduction(
        len(scores), scores == recorded,
        statistics.median(result["seconds"]), result["memory"], result["device"], result["threads"],
        differences[place],
        f"{expected[place][0]} scores {scores[place]!r}, {recorded[place]!r} when it was tested",
    )  # fmt: skip


def _relative(score: float, recorded: float) -> float:
    """Return the relative difference of two scores; 0 if it is below 1e-9."""
    difference = abs(score - recorded)
    return 0.0 if difference <= 1e-9 else difference / max(abs(score), abs(recorded))


def model_config(model: Model, data: Path | None) -> RunConfig:
    """Return the settings of a model, with its images in `data` if they were moved there."""
    return resolve(merge(model.meta["config"], nest("data.root", str(data)) if data else {}))


def same_data(record: RunRecord, config: RunConfig, model: Model) -> Splits:
    """Load the data that a run was trained on, with the inspected areas of its model. Raises
    UserError if they have changed."""
    splits = load_dataset(config.data, area_of=model.area_of)
    fingerprint = record.tags["vqlab.data_fingerprint"]
    if splits.fingerprint != fingerprint:
        raise UserError(
            f"run {record.short} was trained on other data ({fingerprint[:12]}) than "
            f"{splits.root} contains now ({splits.fingerprint[:12]}); restore them, pass their "
            "location with --data, or train again."
        )
    return splits


def _recorded_scores(record: RunRecord, config: RunConfig) -> list[tuple[Path, str, float]]:
    """Return a few test images, evenly spaced: path, category, and the score that the run
    recorded."""
    roots = [find_root(config.data)[0], *([config.data.bad] if config.data.bad else [])]
    folders = [folder for root in roots for folder in (root, *root.absolute().parents)]
    rows: list[tuple[str, Mapping[str, str]]] = []
    for category in record.categories:
        rows += [(category, row) for row in score_rows(record, category)]
    scores = []
    for category, row in rows[:: max(1, (len(rows) - 1) // (_IMAGES - 1))]:
        names = (row["file"], restored(row["file"]))
        files = [folder / name for name in names for folder in (*folders, Path())]
        path = next((file for file in files if file.exists()), None)
        if path is None:
            raise UserError(
                f"test image {row['file']} is no longer in {roots[0]}, so the scores of run "
                f"{record.short} cannot be checked; restore it."
            )
        scores.append((path, category, float(row["score"])))
    return scores


def score_in_fresh_process(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of `score_images`, run in a new process."""
    process = subprocess.run(
        [sys.executable, "-m", "vqlab.promote"],
        input=json.dumps(task), capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if process.returncode:
        error = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"checkpoint {task['checkpoint']} cannot be used in a fresh process: {error}"
        )
    result: dict[str, Any] = json.loads(process.stdout)
    return result


def score_images(task: Mapping[str, Any]) -> dict[str, Any]:
    """Score the `images` (path and category) of a task with its `checkpoint`, on its `device` with
    its `threads`.

    Returns `scores`, `seconds` of each image and mean `cpu_seconds` (all threads) of a second pass,
    `memory` (peak, bytes), `device` and `threads`.
    """
    if str(task["threads"]).isdigit():
        torch.set_num_threads(int(task["threads"]))
    available = task["device"] == "cpu" or torch.cuda.is_available()
    model = Model.load(Path(task["checkpoint"]), task["device"] if available else "cpu")
    images = [(model.for_category(category), Path(path)) for path, category in task["images"]]
    scores = [view.score(path).score for view, path in images]
    seconds, cpu = [], time.process_time()
    for view, path in images:
        start = time.perf_counter()
        view.score(path)
        seconds.append(time.perf_counter() - start)
    return {
        "scores": scores,
        "seconds": seconds,
        "cpu_seconds": (time.process_time() - cpu) / len(images),
        "memory": _peak_memory(),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
    }


def _peak_memory() -> int:
    """Return the peak resident memory of this process in bytes; on systems that do not
    record it, the current one."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a child includes that of its parent
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
