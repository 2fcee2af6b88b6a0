"""`make bench BENCH=growth`: time and memory as functions of the number of images.

Sets of 200, 2,000 and 20,000 images (BENCH_SIZES) of the built-in gear at 64 px: 200 renderings,
shifted by up to 3 px and with varying brightness. Of 10 images, 8 are for training (the recipe
holds some of them out), one is normal and one defective in the test set. Each size runs in a
separate process; times are CPU-seconds per image, so constant values mean linear growth. Finally,
the model of the smallest set scores 10,000 images (BENCH_SCORED; 0: none). BENCH_RECIPES selects
recipes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from measure import Clock, Measured, Row, Table, main, run_process

SIZES = tuple(int(n) for n in os.environ.get("BENCH_SIZES", "200,2000,20000").split(","))
SCORED = int(os.environ.get("BENCH_SCORED", "10000"))
SIDE, RENDERINGS = 64, 200
RECIPES = {
    "memory_bank": ["features.backbone=filters", "detector.bank_size=1000"],
    "vqvae": ["training.epochs=1", "detector.hidden=32"],
}
CHOSEN = os.environ.get("BENCH_RECIPES", ",".join(RECIPES)).split(",")


def write_set(root: Path, count: int) -> None:
    """Write `count` images in the layout of MVTec AD, category `gear`."""
    from vqlab.data.synthetic import sample

    rng = np.random.default_rng(0)
    splits = (*["train/good"] * 8, "test/good", "test/scratch")
    renderings = []
    for index in range(min(count, RENDERINGS)):
        image, mask = sample("gear", 0, index, "scratch" if index % 10 == 9 else None)
        small = cv2.resize(image[..., ::-1], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask.astype(np.uint8) * 255, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        renderings.append((small, (mask > 0).astype(np.uint8) * 255))
    for split in {*splits, "ground_truth/scratch"}:
        (root / "gear" / split).mkdir(parents=True)
    for index in range(count):
        image, mask = renderings[index % RENDERINGS]
        shift, gain = rng.integers(-3, 4, 2), rng.uniform(0.95, 1.05)
        image = np.roll(image, shift, (0, 1)) * gain
        split = splits[index % 10]
        path = root / "gear" / split / f"{index:05d}.png"
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8))
        if split == "test/scratch":
            path = root / "gear" / "ground_truth" / "scratch" / f"{index:05d}_mask.png"
            cv2.imwrite(str(path), np.roll(mask, shift, (0, 1)))


def stages(recipe: str, data: Path, root: Path) -> tuple[dict[str, float], Path]:
    """Return the CPU-seconds of the stages of a run with the peak in MiB, and its checkpoint."""
    from vqlab.model import Model
    from vqlab.plots.results import _Category
    from vqlab.recipes import recipe_tree
    from vqlab.run import Recording, resolve, run, story, test_set
    from vqlab.tracking import Tracker

    names = {
        "reading": (story, "load_dataset"),
        "features": (story, "extract_features"),
        "coreset, training": (story, "fit"),
        "calibration": (story, "calibrated_model"),
        "scoring": (Model, "predict_set"),
        "metrics": (test_set, "_evaluate"),
        "pictures": (_Category, "draw"),
    }
    # Pictures are drawn in a thread during evaluation; files are read in several threads.
    clocks = {name: Clock(time.thread_time) for name in names} | {"reading": Clock()}
    for name, (owner, function) in names.items():
        clocks[name].around(owner, function)
    settings = [f"data.root={data}", f"data.image_size={SIDE}", "training.threads=1"]
    config = resolve(recipe_tree(recipe, [*settings, *RECIPES[recipe]], "gear"))
    outcome = run(config, Tracker.open(root / "mlruns"), Recording(results=root / "results"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    values = {name: clock.seconds for name, clock in clocks.items()}
    return values | {"peak": peak}, outcome.checkpoint


def run_case(recipe: str, folder: Path) -> None:
    """Measure one recipe on the set in a folder; print the result and the checkpoint as JSON."""
    os.environ["VQLAB_CACHE"] = str(folder / "cache")
    values, checkpoint = stages(recipe, folder / "data", folder)
    print(json.dumps([values, str(checkpoint)]))


def measure(recipe: str, count: int, scored: int | None = None) -> dict[str, float]:
    """Return the CPU-seconds of each stage and of `vqlab predict` on all images, and the peaks.

    scored: number of other images to predict instead.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        run_process([sys.executable, __file__, "--write", str(folder / "data"), str(count)])
        output = run_process([sys.executable, __file__, "--case", recipe, name])[3]
        values, checkpoint = json.loads(output.splitlines()[-1])
        images = folder / "data" / "gear"
        if scored is not None:
            images = folder / "scored" / "gear"
            run_process([sys.executable, __file__, "--write", str(images.parent), str(scored)])
        command = [sys.executable, "-m", "vqlab", "predict", f"{images}/train", f"{images}/test"]
        options = ["--model", checkpoint, "--pictures", "none", "--output", f"{name}/predictions"]
        seconds, _, peak, _ = run_process([*command, *options])
    return values | {"predict": seconds, "predict peak": peak}


def tables(repeats: int) -> Iterator[Table]:
    for recipe in CHOSEN:
        results = {count: measure(recipe, count) for count in SIZES}
        rows = []
        for count, values in results.items():
            smallest = results[SIZES[0]]
            for name in values:
                if name.endswith("peak"):
                    continue
                peak = values["predict peak" if name == "predict" else "peak"]
                cost = Measured.of([1000 * values[name] / count], peak)
                base = Measured.of([1000 * smallest[name] / SIZES[0]])
                what = f"{count:,} images: {name}"
                rows.append(Row(what, cost, base, f"with {SIZES[0]}", unit="CPU-ms per image"))
        if SCORED:
            values = measure(recipe, SIZES[0], SCORED)
            cost = Measured.of([1000 * values["predict"] / SCORED], values["predict peak"])
            rows.append(Row(f"{SCORED:,} images: predict", cost, unit="CPU-ms per image"))
        yield Table(f"Growth: {recipe}", f"gear, {SIDE} px; peak of the whole process.", rows)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--write", folder, count]:
            write_set(Path(folder), int(count))
        case ["--case", recipe, folder]:
            run_case(recipe, Path(folder))
        case _:
            main(tables, repeats=1)
