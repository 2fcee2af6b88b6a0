"""`make bench BENCH=startup`: CPU-seconds and peak memory of complete processes.

The lower bound of a command is a process that only imports the libraries it needs. The first step
of a training is measured on cached features, until the first call of the optimizer.
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
IMAGES = {"train": 40, "test": 2}
"""Number of images of the dataset: in the training folder, and in each test folder."""
CATEGORY = "cable"
RESNET = ["features.backbone=resnet18", "features.weights=random"]
TRAININGS = {
    "vqvae": ["--preset", "tiny"],
    "memory_bank": ["--preset", "tiny", *RESNET, "detector.bank_size=5000"],
    "vqflow": RESNET,
}
"""Presets and settings of the models that predict: images of 256 px, one epoch. `vqflow` has its
default size: 10,000 codes."""
FIRST_STEP = """
import os
from torch.optim.optimizer import register_optimizer_step_pre_hook
from vqlab.cli import main

register_optimizer_step_pre_hook(lambda *_: os._exit(0))
main()
"""
CLIENT = "from mlflow import MlflowClient; MlflowClient('{uri}').search_experiments()"
OPTIMIZER = "torch.optim.Adam([torch.zeros(1)])"
FLOORS = {
    "torch": "import torch",
    "numba": "import torch, numba",
    "numba, store": f"import torch, numba; {CLIENT}",
    "optimizer": f"import torch; {OPTIMIZER}; {CLIENT}",
    "timm, optimizer": f"import torch, timm; {OPTIMIZER}; {CLIENT}",
}
"""Programs of the floors. torch's optimizers import `torch._dynamo`, as does torchvision, which
timm imports; the client of MLflow opens the store of the runs. Loading a model needs no timm."""
FLOOR_NAMES = {
    "torch": "`import torch`",
    "numba": "`import torch, numba`",
    "numba, store": "torch, numba, MlflowClient",
    "optimizer": "torch, an optimizer, MlflowClient",
    "timm, optimizer": "the same and timm",
}


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
    uri = f"sqlite:///{root / 'first' / 'mlflow.db'}"
    commands = {name: [PYTHON, "-c", code.format(uri=uri)] for name, code in FLOORS.items()}
    rows: dict[str, tuple[str, str]] = {}

    def add(text: str, floor: str, command: Sequence[object]) -> None:
        name = f"row {len(rows)}"
        commands[name], rows[name] = list(map(str, command)), (text, floor)

    output = ["--output", root / "predictions"]
    for detector in TRAININGS:
        command = [*VQLAB, "predict", image, "--model", root / f"{detector}.safetensors", *output]
        floor = "torch" if detector == "vqvae" else "numba"
        add(f"`predict IMAGE`, {detector}, 256 px, from a file", floor, command)
    command = [*VQLAB, "predict", image, "--category", CATEGORY, "--mlruns", store, *output]
    add("`predict IMAGE`, vqflow, champion of a category", "numba, store", command)
    command = [PYTHON, "-m", "vqlab.runtime", root / "export" / "model.onnx", image]
    add("`python -m vqlab.runtime model.onnx IMAGE`, memory_bank, exported", "", command)
    for detector in ("vqvae", "vqflow"):
        command = [PYTHON, "-c", FIRST_STEP, *training(detector, root / "first", root)]
        floor = "optimizer" if detector == "vqvae" else "timm, optimizer"
        add(f"`train {detector}` (quick) to its first step", floor, command)
    command = [*VQLAB, "leaderboard", "--mlruns", root / "many"]
    add(f"`leaderboard` of {RUNS:,} runs in SQLite", "", command)
    measured = interleave_processes(commands, repeats, cwd=root)
    for name, (text, floor) in rows.items():
        floor_name = FLOOR_NAMES.get(floor, "")
        yield Row(text, measured[name], floor=measured.get(floor), floor_name=floor_name)


def training(detector: str, store: Path, root: Path) -> list[str]:
    """Return the arguments of a quick training on the synthetic set of `root`."""
    words = ["train", detector, "--preset", "quick", "--category", CATEGORY]
    weights = [] if detector == "vqvae" else RESNET
    folders = ["--data", root / "data", "--mlruns", store, "--output", root / "results"]
    return [*words, *weights, *map(str, folders)]


def prepare(root: Path) -> None:
    """Write the data, a model of each detector, a champion, an exported model, and a store of many
    runs."""
    from vqlab.tracking import Tracker

    run([*VQLAB, "data", "generate", "--output", root / "data", "--category", CATEGORY])
    for folder in (root / "data" / CATEGORY).glob("*/*"):
        for path in sorted(folder.glob("*.png"))[IMAGES.get(folder.parent.name, IMAGES["test"]) :]:
            path.unlink()
    store = root / "mlruns"
    for detector, settings in TRAININGS.items():
        words = ["train", detector, "--category", CATEGORY]
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
    words = ["export", CATEGORY, "--model", root / "memory_bank.safetensors"]
    run([*VQLAB, *words, "--output", root / "export", "--mlruns", store])
    copy_runs(store / "mlflow.db", root / "many" / "mlflow.db")
    run([*VQLAB, "leaderboard", "--mlruns", root / "many"])  # prepares the database
    run([PYTHON, "-c", FIRST_STEP, *training("vqflow", root / "first", root)])  # and the features


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
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # bytecode is written once, as usual
    yield Table("Help", "a fresh process each", list(help_rows(repeats)))
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as folder:
        root = Path(folder)
        os.environ["VQLAB_CACHE"] = str(root / "cache")
        prepare(root)
        inputs = "one thread; synthetic cable; random weights of resnet18; a fresh process each"
        yield Table("Commands", inputs, list(command_rows(root, repeats)))


if __name__ == "__main__":
    main(tables)
