"""`make bench BENCH=startup`: CPU-seconds and peak memory of whole processes until they are useful.

The floor of commands that compute is `import torch`. The first step of a training is measured on
cached features, until the optimiser is called first.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from measure import Row, Table, interleave_processes, main

PYTHON = sys.executable
VQLAB = [PYTHON, "-m", "vqlab"]
ANOMALIB = Path(PYTHON).with_name("anomalib")
RUNS = 1000
CATEGORY = "cable"
RESNET = ["features.backbone=resnet18", "features.weights=random"]
TRAININGS = {
    "vqvae": [],
    "memory_bank": [*RESNET, "detector.bank_size=5000"],
    "vqflow": RESNET,
}
"""Settings of the models that predict: images of 256 px, one epoch."""
FIRST_STEP = """
import os
from torch.optim.optimizer import register_optimizer_step_pre_hook
from vqlab.cli import main

register_optimizer_step_pre_hook(lambda *_: os._exit(0))
main()
"""


def help_rows(repeats: int) -> Iterator[Row]:
    """Yield the help of `vqlab`, and the slowest help of a command."""
    from typer.main import get_group

    from vqlab.cli import load_commands

    names = [
        [name, *inner]
        for name, command in get_group(load_commands()).commands.items()
        if not command.hidden
        for inner in ([], *([each] for each in getattr(command, "commands", ())))
    ]
    every = {" ".join(words): [*VQLAB, *words, "--help"] for words in names}
    times = interleave_processes(every, 1)
    slowest = max(times, key=lambda name: times[name].median)
    commands = {"": [*VQLAB, "--help"], slowest: every[slowest]}
    if ANOMALIB.exists():
        commands["anomalib"] = [str(ANOMALIB), "--help"]
    measured = interleave_processes(commands, repeats)
    reference = measured.get("anomalib")
    yield Row("`vqlab --help`", measured[""], reference, "`anomalib --help`")
    what = f"slowest help of {len(every)} commands: `vqlab {slowest} --help`"
    yield Row(what, measured[slowest], reference, "`anomalib --help`")


def command_rows(root: Path, repeats: int) -> Iterable[Row]:
    """Yield prediction, training to its first step, and the leaderboard. root: working folder."""
    store, image = root / "mlruns", next((root / "data").rglob("test/good/*.png"))
    commands = {"torch": [PYTHON, "-c", "import torch"]}
    what = {}

    def add(name: str, text: str, command: Sequence[object]) -> None:
        commands[name], what[name] = list(map(str, command)), text

    output = ["--output", root / "results"]
    for detector in TRAININGS:
        checkpoint = root / f"{detector}.safetensors"
        command = [*VQLAB, "predict", image, "--model", checkpoint, *output]
        add(f"predict {detector}", f"`predict IMAGE`, {detector}, 256 px, from a file", command)
    command = [*VQLAB, "predict", image, "--category", CATEGORY, "--mlruns", store, *output]
    add("champion", "`predict IMAGE`, vqflow, champion of a category", command)
    for detector in ("vqvae", "vqflow"):
        command = [PYTHON, "-c", FIRST_STEP, *training(detector, root / "first", root)]
        add(f"first step {detector}", f"`train {detector}` (quick) to its first step", command)
    command = [*VQLAB, "leaderboard", "--mlruns", root / "many"]
    add("leaderboard", f"`leaderboard` of {RUNS:,} runs in SQLite", command)
    measured = interleave_processes(commands, repeats, cwd=root)
    for name, text in what.items():
        yield Row(text, measured[name], floor=measured["torch"], floor_name="`import torch`")


def training(detector: str, store: Path, root: Path) -> list[str]:
    """Return the arguments of a quick training on the synthetic set of `root`."""
    words = ["train", detector, "--preset", "quick", "--category", CATEGORY]
    weights = [] if detector == "vqvae" else RESNET
    folders = ["--data", root / "data", "--mlruns", store, "--output", root / "results"]
    return [*words, *weights, *map(str, folders)]


def prepare(root: Path) -> None:
    """Write the data, a model of each detector, a champion, and a store of many runs."""
    from vqlab.tracking import Tracker

    run([*VQLAB, "data", "generate", "--output", root / "data", "--category", CATEGORY])
    store = root / "mlruns"
    for detector, settings in TRAININGS.items():
        words = ["train", detector, "--preset", "tiny", "--category", CATEGORY]
        folders = ["--data", root / "data", "--mlruns", store, "--output", root / "results"]
        run([*VQLAB, *words, *folders, "data.image_size=256", "training.epochs=1", *settings])
    tracker = Tracker.open(store)
    for record in tracker.runs():
        checkpoint = record.checkpoint()
        (root / f"{record.tags['vqlab.detector']}.safetensors").symlink_to(checkpoint)
        if record.tags["vqlab.detector"] == "vqflow":
            name = str(checkpoint.relative_to(record.artifact("")))
            version = tracker.registry.register(record.run_id, name, CATEGORY)
            tracker.registry.set_champion(version, None)
    copy_runs(store / "mlflow.db", root / "many" / "mlflow.db")
    run([*VQLAB, "leaderboard", "--mlruns", root / "many"])  # prepares the database


def copy_runs(source: Path, target: Path) -> None:
    """Write a database with `RUNS` runs, copies of those in `source`."""
    target.parent.mkdir()
    with (
        contextlib.closing(sqlite3.connect(source)) as original,
        contextlib.closing(sqlite3.connect(target)) as database,
    ):
        original.backup(database)
        ids = [row[0] for row in database.execute("SELECT run_uuid FROM runs")]
        for number in range(RUNS - len(ids)):
            keys = (uuid.UUID(int=number).hex, ids[number % len(ids)])
            for table in ("runs", "latest_metrics", "params", "tags"):
                rows = database.execute(f"PRAGMA table_info({table})")
                names = [row[1] for row in rows if row[1] != "run_uuid"]
                columns = ", ".join(names)
                database.execute(
                    f"INSERT INTO {table} (run_uuid, {columns}) "
                    f"SELECT ?, {columns} FROM {table} WHERE run_uuid = ?",
                    keys,
                )
        database.commit()


def run(command: Sequence[object]) -> None:
    """Run a command without its output. Raises CalledProcessError if it fails."""
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


def tables(repeats: int) -> Iterator[Table]:
    yield Table("Help", "a fresh process each", list(help_rows(repeats)))
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as folder:
        root = Path(folder)
        os.environ["VQLAB_CACHE"] = str(root / "cache")
        prepare(root)
        inputs = "one thread; synthetic cable; random weights of resnet18; a fresh process each"
        yield Table("Commands", inputs, list(command_rows(root, repeats)))


if __name__ == "__main__":
    main(tables)
