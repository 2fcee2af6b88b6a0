"""`torchrun … -m vqlab train`: several processes give the result of one, stop together, and print
once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_set import tiny_recipe

from vqlab.checkpoint import load_checkpoint
from vqlab.cli.processes import is_main_process, require_single_process
from vqlab.config import merge
from vqlab.errors import UserError
from vqlab.run import Recording, resolve, run
from vqlab.tracking import RunRecord, Tracker

REPOSITORY = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TRAIN = ["-m", "vqlab", "train"]
UNEVEN = {"batch_size": 5, "epochs": 4, "learning_rate": 0.003}
"""Of 11 images: batches shared 3 and 2, and a last one of a single image."""


def torchrun(folder: Path, *words: str, start: list[str] = TRAIN) -> Done:
    """Start two processes of the command in `folder`."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*TORCHRUN, *start, *words],
        cwd=folder, env=env, capture_output=True, text=True, timeout=400,
    )  # fmt: skip


def written(folder: Path, tree: dict[str, Any]) -> str:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return "recipe.yaml"


def only_run(folder: Path) -> RunRecord:
    (record,) = Tracker.open(folder / "mlruns").runs()
    return record


def assert_close(record: RunRecord, other: RunRecord, tolerance: float = 1e-3) -> None:
    """Assert that models and metrics are close."""
    states = [load_checkpoint(each.checkpoint())[0] for each in (record, other)]
    for key, tensor in states[0].items():
        if key.startswith(("encoder", "decoder", "quantizer", "levels", "concepts", "coverage")):
            torch.testing.assert_close(
                tensor, states[1][key], rtol=tolerance, atol=tolerance, msg=key
            )
    trained = [key for key in other.metrics if key.startswith(("train/", "codebook/"))]
    assert "train/loss" in trained
    for key in trained:
        assert record.metrics[key] == pytest.approx(other.metrics[key], rel=tolerance), key


def train_single(folder: Path, tree: dict[str, Any]) -> RunRecord:
    tracker = Tracker.open(folder / "one")
    return tracker.find(run(resolve(tree), tracker, test=False).run_id)


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_a_single_process(root: Path, tmp_path: Path) -> None:
    tree = tiny_recipe(root, **UNEVEN)
    done = torchrun(tmp_path, written(tmp_path, tree))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 4 of 4") == 1 and "Traceback" not in done.stderr
    record = only_run(tmp_path)
    assert record.status == "FINISHED" and record.tags["vqlab.processes"] == "2"
    assert "test/image_auroc" in record.metrics and "test_mean_image/image_auroc" in record.metrics
    assert_close(record, train_single(tmp_path, tree))


def test_sweep_requires_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    require_single_process("sweep", "…")
    for key, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    assert not is_main_process()
    monkeypatch.setattr("vqlab.cli.processes._TIMEOUT", 0.0)
    with pytest.raises(UserError, match="must run in one process; torchrun started 2"):
        require_single_process("sweep", "use --workers")
    monkeypatch.setenv("WORLD_SIZE", "1")
    require_single_process("sweep", "…")
    assert is_main_process()


@pytest.mark.slow
@pytest.mark.usefixtures("every_state")
def test_interrupted_training_resumes_distributed(root: Path, tmp_path: Path) -> None:
    """Training starts in one process and resumes in two, with validation, averaged weights and the
    best epoch."""
    tree = tiny_recipe(root, **UNEVEN, ema=0.5, validate_every=1, select="best_on_validation")
    tracker = Tracker.open(tmp_path / "mlruns")

    def stop(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(resolve(tree), tracker, Recording(name="stopped"), on_epoch=stop)
    done = torchrun(tmp_path, "--resume", "stopped")
    assert done.returncode == 0, done.stderr
    assert "epoch 3 of 4" in done.stdout and "epoch 2 of 4" not in done.stdout
    record, single = only_run(tmp_path), train_single(tmp_path, tree)
    assert record.status == "FINISHED"
    assert record.tags["vqlab.selected_epoch"] == single.tags["vqlab.selected_epoch"]
    assert_close(record, single)


def ended(done: Done) -> str:
    """Return the error of a failed command, one sentence."""
    assert done.returncode != 0 and "process group" not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("vqlab: ")]
    return sentence


@pytest.mark.slow
def test_user_error_is_one_sentence(root: Path, tmp_path: Path) -> None:
    recipe = written(tmp_path, tiny_recipe(root, **UNEVEN))
    assert "recipe nothing does not exist" in ended(torchrun(tmp_path, "nothing"))
    output = ended(torchrun(tmp_path, recipe, "training.batch_size=1"))
    assert "training.batch_size must be at least the number of processes, 2" in output
    output = ended(torchrun(tmp_path, recipe, "detector.commitment=1e38", "detector.warmup=7"))
    assert re.search(r"training diverged.* The model after epoch [12] is saved", output)
    runs = Tracker.open(tmp_path / "mlruns").runs()
    assert [record.status for record in runs] == ["FAILED"]
    assert runs[0].checkpoint().exists()
    sweep = torchrun(tmp_path, "sweep", recipe, start=["-m", "vqlab"])
    assert "`vqlab sweep` must run in one process" in ended(sweep)


@pytest.mark.slow
def test_user_error_on_one_machine_ends_all_processes(root: Path, tmp_path: Path) -> None:
    """The second process runs where the dataset is missing or different."""
    tree = merge(tiny_recipe(root, **UNEVEN), {"data": {"root": "set"}})
    recipe = str(tmp_path / written(tmp_path, tree))
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "set").symlink_to(root)
    script = tmp_path / "start.sh"
    script.write_text(f'[ "$RANK" = 1 ] && cd {other}\nexec {sys.executable} -m vqlab train "$@"\n')
    start = ["--no-python", "sh", str(script)]
    output = ended(torchrun(tmp_path, recipe, start=start))
    assert "process 1 on " in output and "set" in output
    assert only_run(tmp_path).tags["vqlab.failure"] in output
    assert only_run(tmp_path).status == "FAILED"
