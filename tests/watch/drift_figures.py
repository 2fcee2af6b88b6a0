"""Measure the drift test: how soon it detects capture shifts, and how often it is wrong.

    python tests/watch/drift_figures.py values MODEL IMAGES values.json [SHIFTED]
    python tests/watch/drift_figures.py alarms values.json
    python tests/watch/drift_figures.py false values.json STREAMS PARTS [own]

`values` scores normal images: those of the folder IMAGES, or IMAGES new images of the built-in
cable that no set contains; the first SHIFTED (default: all) also under shifts. MODEL is the path of
a checkpoint. `alarms` and `false` print the figures of docs/watch.md.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqlab.data.shifts import SHIFTS
from vqlab.data.synthetic import sample
from vqlab.model import Model
from vqlab.predict.properties import properties_of
from vqlab.watch.drift import normal_values
from vqlab.watch.drift_test import DriftTest
from vqlab.watch.martingale import ChangeMartingale
from vqlab.watch.streams import CONCEPT, DEFAULT, SCORE, STREAMS, weights_of

LEVEL, STREAM_COUNT, LENGTH = 0.01, 200, 200
AS_IS = "as captured"
UNUSED = 1000
"""Number of the first specimen that no built-in set contains."""
CHANGES: dict[str, Callable[[Any, np.random.Generator], Any]] = {
    "gain 0.7": lambda image, _: np.rint(image * 0.7).astype(np.uint8),
    "JPEG quality 50": lambda image, rng: SHIFTS["jpeg"].apply(image, 50, rng),
    "noise of sd 6": lambda image, rng: SHIFTS["noise"].apply(image, 6, rng),
    "blur of 0.2 %": lambda image, rng: SHIFTS["blur"].apply(image, 0.002, rng),
}


def values(model: Model, images: list[Callable[[], Any]], shifted: int) -> dict[str, Any]:
    """Return the properties of the model's held-out normal images, and of images by change."""
    parts: dict[str, list[dict[str, Any]]] = {}
    rng = np.random.default_rng(0)
    for change in (AS_IS, *CHANGES):
        parts[change] = []
        for load in images if change == AS_IS else images[:shifted]:
            image = load()
            if change != AS_IS:
                image = CHANGES[change](image, rng)
            prediction = model.score(np.ascontiguousarray(image))
            parts[change].append({SCORE: prediction.score, **properties_of(prediction)})
    return {"calibration": normal_values(model), "parts": parts}


def images_of(model: Model, source: str) -> list[Callable[[], Any]]:
    """Return functions that load the images of a folder, or render new cable images."""
    if source.isdigit():
        numbers = range(UNUSED, UNUSED + int(source))
        return [lambda number=number: sample("cable", 0, number)[0] for number in numbers]
    return [lambda path=path: model.read(path) for path in sorted(Path(source).glob("*.png"))]


def log_wealths(
    name: str, calibration: list[float], parts: list[float], seed: int, early: bool = True
) -> list[float]:
    """Return the logarithm of the wealth of a stream after each part. early: False for the bets of
    earlier versions."""
    test = DriftTest(calibration, LEVEL, categorical=name == CONCEPT)
    if not early:
        test.martingale = ChangeMartingale(0, [-math.inf] * 6)
    theta = np.random.default_rng((seed, STREAMS.index(name))).random(len(parts)).tolist()
    return [test.update(part, t).log_wealth for part, t in zip(parts, theta, strict=True)]


def sample_stream(
    parts: dict[str, Any], change: str, before: int, seed: int
) -> list[dict[str, Any]]:
    """Return a stream of `before` parts as captured, then `LENGTH` changed parts. Parts are sampled
    without replacement if there are enough, else with replacement."""
    rng, count = np.random.default_rng(seed), len(parts[change])
    once = count >= before + LENGTH
    order = rng.permutation(count) if once else rng.integers(count, size=before + LENGTH)
    first, then = order[:before], order[before : before + LENGTH]
    return [parts[AS_IS][i] for i in first] + [parts[change][i] for i in then]


def print_alarms(measured: dict[str, Any]) -> None:
    """Print a table of the streams with an alarm, and of the parts until it."""
    normal, parts = measured["calibration"], measured["parts"]
    choices = {
        "score, bets of earlier versions": ([SCORE], False),
        "score": ([SCORE], True),
        "score, noise (default)": (list(DEFAULT), True),
        "all": ([name for name in STREAMS if normal.get(name)], True),
    }
    print(f"{len(normal[SCORE])} held-out images, {len(parts[AS_IS])} parts")
    for before in (0, LENGTH):
        for change in parts:
            if before and change == AS_IS:
                continue
            streams = [sample_stream(parts, change, before, seed) for seed in range(STREAM_COUNT)]
            print(f"{change}, after {before} parts {AS_IS}:")
            for title, (names, early) in choices.items():
                print(f"  {title}: {_alarms(normal, streams, names, early, before)}", flush=True)
    good = list(range(min(len(parts[AS_IS]), LENGTH)))
    print(f"each of {len(good)} parts {AS_IS} once, in random order:")
    orders = [np.random.default_rng(seed).permutation(good) for seed in range(STREAM_COUNT)]
    streams = [[parts[AS_IS][i] for i in order] for order in orders]
    for title, (names, early) in choices.items():
        print(f"  {title}: {_alarms(normal, streams, names, early, 0)}", flush=True)


def _alarms(
    normal: dict[str, Any], streams: list[Any], names: list[str], early: bool, before: int
) -> str:
    delays = []
    for seed, stream in enumerate(streams):
        paths = [
            np.array(log_wealths(name, normal[name], [part[name] for part in stream], seed, early))
            + math.log(weight)
            for name, weight in weights_of(names).items()
        ]
        reached = np.max(paths, axis=0)[before:] >= -math.log(LEVEL)
        delays.append(int(reached.argmax()) + 1 if reached.any() else math.inf)
    median, high = np.quantile(delays, [0.5, 0.95], method="higher")
    return f"{sum(map(math.isfinite, delays))} of {len(delays)}; median {median}, 95 % {high}"


def print_false_alarms(
    measured: dict[str, Any], streams: int, length: int, use_held_out: bool
) -> None:
    """Count alarms in streams of parts as captured.

    use_held_out: True: calibrate with the model's held-out normal images; False: sample calibration
    images from the same parts, so that all are exchangeable. Parts are sampled without replacement
    if there are enough, else parts (and calibration images) are sampled with replacement.
    """
    normal, parts = measured["calibration"], measured["parts"][AS_IS]
    count = len(normal[SCORE])
    drawn_images = length if use_held_out else count + length
    once = len(parts) >= drawn_images
    highest: dict[str, list[float]] = {name: [] for name in DEFAULT}
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(parts), drawn_images, replace=not once)
        for name in DEFAULT:
            column = [parts[i][name] for i in chosen]
            first, stream_values = (
                (normal[name], column) if use_held_out else (column[:count], column[count:])
            )
            highest[name].append(max(log_wealths(name, first, stream_values, seed)))
    origin = "of the model" if use_held_out else "sampled from the parts"
    print(f"{count} held-out images, {origin}; {streams} streams of {length} of {len(parts)} parts")
    for names in ((SCORE,), DEFAULT):
        shares = [
            np.array(highest[name]) + math.log(weight) for name, weight in weights_of(names).items()
        ]
        alarms = int((np.max(shares, axis=0) >= -math.log(LEVEL)).sum())
        print(f"  {', '.join(names)}: {alarms} of {streams}", flush=True)


def main(command: str, *arguments: str) -> None:
    if command == "values":
        torch.set_num_threads(1)
        name, source, output, *shifted = arguments
        model = Model.load(Path(name))
        images = images_of(model, source)
        result = values(model, images, int(shifted[0]) if shifted else len(images))
        Path(output).write_text(json.dumps(result))
        return
    measured = json.loads(Path(arguments[0]).read_text())
    if command == "alarms":
        print_alarms(measured)
    else:
        streams, length = map(int, arguments[1:3])
        print_false_alarms(measured, streams, length, "own" in arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
