"""`make bench`: CPU-seconds and memory of what users wait for, one row each.

Every row runs in a process of its own, so that its peak memory is its own. Machines are shared and
noisy: compare rows of one run.
"""

from __future__ import annotations

import argparse
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS = {
    "start": "vqlab --help, whole process, best of 5",
    "training": "one epoch of the default recipe at 256 px, batch 8, per image",
    "paper": "one epoch of the published recipe at 256 px, batch 16, per image",
    "scoring": "one 256 px image scored by the default recipe",
}


def measure_start() -> tuple[float, str]:
    best = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "vqlab", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, used)
    return best, "CPU-s"


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure_training(recipe: str, scoring: bool) -> tuple[float, str]:
    import torch

    from vqlab.data import load_dataset
    from vqlab.recipes import recipe_tree
    from vqlab.run import calibrate_and_assess, make_trainer, resolve

    torch.set_num_threads(1)
    config = resolve(recipe_tree(recipe, ["training.epochs=2"], category="cable"))
    splits = load_dataset(config.data)
    trainer = make_trainer(config, splits, torch.device("cpu"))
    marks: list[float] = []
    trainer.fit(lambda epoch, metrics: marks.append(cpu()))
    if not scoring:
        return (marks[1] - marks[0]) / len(splits.train), "CPU-s per image"
    model, _ = calibrate_and_assess(config, trainer, splits, "")
    before = cpu()
    model.score_set(splits.test)
    return (cpu() - before) / len(splits.test), "CPU-s per image"


def run_row(name: str) -> None:
    if name == "start":
        value, unit = measure_start()
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    else:
        recipe = "paper/vqvae" if name == "paper" else "vqvae"
        value, unit = measure_training(recipe, scoring=name == "scoring")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name:10} {value:8.3f} {unit:16} peak {peak / 2**20:5.2f} GiB   {ROWS[name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bench", choices=["all", "metrics", "serve", "sweep", *ROWS], nargs="?", default="all"
    )
    parser.add_argument("--row", choices=list(ROWS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bench in ("metrics", "serve", "sweep"):
        sys.argv = sys.argv[:1]
        script = Path(__file__).with_name(f"{arguments.bench}.py")
        runpy.run_path(str(script), run_name="__main__")
        return
    if arguments.row:
        run_row(arguments.row)
        return
    print(f"threads: 1; cores here: {os.cpu_count()}")
    for name in ROWS if arguments.bench == "all" else [arguments.bench]:
        command = [sys.executable, str(Path(__file__)), "--row", name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": tempfile.gettempdir()}
        subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
