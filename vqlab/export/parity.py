"""Compare an exported model with the original on images: maps, scores, verdicts and latency.

A code is the nearest vector of a codebook, and features are rounded to half precision. Where two
candidates are equally near, float32 rounding decides, and another library may decide otherwise: the
map then changes by far more than rounding, in torch as well. An image that differs by more than the
tolerance is therefore also scored by torch with noise of the size of rounding, and only
differences outside the range of these results count as errors.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from vqlab import runtime
from vqlab.data import read_image, to_network
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.predict.workers import one_torch_thread
from vqlab.text import visible
from vqlab.types import Sample

Array = NDArray[Any]
TOLERANCE = 1e-4
"""Largest error, relative to the largest absolute value over the images."""
NOISE = 1e-6
"""Standard deviation of the noise that simulates rounding; images are in [0, 1]."""
LEAST = 1e-30
"""Minimum divisor of differences."""
REPEATS = 64
"""Maximum number of noisy copies of an image."""


@dataclass(frozen=True)
class Parity:
    """Differences between an exported model and the original; relative ones are divided by the
    largest absolute value over the images."""

    images: int
    map_difference: float
    map_relative: float
    score_difference: float
    score_relative: float
    ties: int
    """Images that differ by more than `TOLERANCE` because of a tie."""
    error: float
    """Largest relative difference of maps and scores without ties."""
    different: tuple[Path, ...]
    """Images with different verdicts."""
    torch_ms: float
    """Median time of an image in one thread, from network input to score."""
    exported_ms: float

    def require(self, name: str) -> None:
        """Raise UserError if the error exceeds `TOLERANCE` or verdicts differ."""
        if not self.error <= TOLERANCE:  # NaN as well
            raise UserError(
                f"{name} must score within {TOLERANCE:g} (relative) of the model; the error is "
                f"{self.error:.2g} on {self.images} images; nothing was written."
            )
        if self.different:
            raise UserError(
                f"{name} must give the same verdicts as the model; {len(self.different)} of "
                f"{self.images} images differ, such as {visible(self.different[0])}; nothing was "
                "written. A held-out image whose score is the threshold may get either verdict; "
                "compare on other images."
            )


class _Output(NamedTuple):
    map: Array
    """(S, S)."""
    score: float


class _Pair(NamedTuple):
    images: torch.Tensor
    """Network input (1, 3, S, S)."""
    reference: _Output
    exported: _Output


def measure_parity(model: Model, exported: runtime.Model, files: Sequence[Path]) -> Parity:
    """Score image files with both models, reading and resizing included, and compare the results.

    model: on the CPU.
    """
    pairs, times = [], []
    with one_torch_thread():
        for file in [files[0], *files]:  # the first one warms up
            original = read_image(file, model.data.bits)
            images = to_network(original, model.data, model.area)[0][None]
            inputs = exported.preprocessing.network_input(file)[0][None]
            started = time.perf_counter()
            reference = _score(model, images)
            between = time.perf_counter()
            maps, scores = exported.run(inputs)
            times.append((between - started, time.perf_counter() - between))
            pairs.append(_Pair(images, reference, _Output(maps[0], float(scores[0]))))
    del pairs[0], times[0]
    different = tuple(
        file
        for file, pair in zip(files, pairs, strict=True)
        if model.thresholds.verdict(pair.reference.score)
        != exported.thresholds.verdict(pair.exported.score)
    )
    scale = _Output(
        np.max([np.abs(pair.reference.map).max() for pair in pairs], initial=LEAST),
        np.max([abs(pair.reference.score) for pair in pairs], initial=LEAST),
    )
    differences = [_difference(pair.exported, [pair.reference]) for pair in pairs]
    errors, ties = [], 0
    for pair, difference in zip(pairs, differences, strict=True):
        error = _relative(difference, scale)
        if error > TOLERANCE:
            without_ties = _error_without_ties(model, pair, scale)
            ties += without_ties <= TOLERANCE
            error = without_ties
        errors.append(error)
    largest = _Output(*np.max(np.array(differences, np.float64), 0))
    return Parity(
        images=len(files),
        map_difference=float(largest.map),
        map_relative=float(largest.map / scale.map),
        score_difference=float(largest.score),
        score_relative=float(largest.score / scale.score),
        ties=ties,
        error=float(np.max(errors)),
        different=different,
        torch_ms=1000 * median(first for first, _ in times),
        exported_ms=1000 * median(second for _, second in times),
    )


@torch.inference_mode()
def _score(model: Model, images: torch.Tensor) -> _Output:
    scores = model.detector.score(Sample(images, model.backbone(images)))
    return _Output(scores.anomaly_map[0].float().numpy(), float(scores.image_score[0]))


def _difference(exported: _Output, references: Sequence[_Output]) -> _Output:
    """Return the largest distances of map and score from the range of the references."""
    maps = np.stack([reference.map for reference in references])
    outside = np.maximum(exported.map - maps.max(0), maps.min(0) - exported.map).max()
    scores = [reference.score for reference in references]
    distance = np.maximum(exported.score - max(scores), min(scores) - exported.score)
    return _Output(np.maximum(outside, 0), np.maximum(distance, 0))


def _relative(difference: _Output, scale: _Output) -> float:
    return float(np.maximum(difference.map / scale.map, difference.score / scale.score))


def _error_without_ties(model: Model, pair: _Pair, scale: _Output) -> float:
    """Return the relative difference to the range of torch's results with noise."""
    generator = torch.Generator().manual_seed(0)
    references, error = [pair.reference], np.inf
    for _ in range(REPEATS):
        noise = NOISE * torch.randn(pair.images.shape, generator=generator)
        references.append(_score(model, pair.images + noise))
        error = _relative(_difference(pair.exported, references), scale)
        if error <= TOLERANCE:
            break
    return error
