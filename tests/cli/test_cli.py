"""The command line: commands in a new process, one-sentence errors, fast --help."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import run_command
from PIL import Image

from vqlab.cli import main
from vqlab.version import __version__

Tree = dict[str, Any]
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def recipe(small: Tree, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(small))
    return path


@pytest.fixture(scope="module")
def training(
    small: Tree, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder in which `vqlab train` ran for one epoch, and its output."""
    folder = tmp_path_factory.mktemp("training")
    shutil.copytree(empty_store, folder / "mlruns")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small))
    result = run_command("train", "recipe.yaml", "training.epochs=1", cwd=folder)
    return folder, result.stdout


def test_help_imports_no_heavy_libraries(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from vqlab.cli import load_commands\n"
        "try: load_commands()(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'mlflow', 'optuna', 'timm', 'numpy', 'pandas', 'sklearn', 'cv2'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.strip() == "[]"
    verbs = (
        "train sweep settings predict evaluate promote rollback leaderboard correlate ui dashboard "
        "doctor data"
    )
    for verb in verbs.split():
        assert verb in done.stdout


def test_train_then_predict_in_a_new_process(training: tuple[Path, str], small: Tree) -> None:
    folder, printed = training
    for words in (
        "MVTec AD layout",
        "image AUROC",
        "AUPRO",
        "mean_image",
        "pictures: results/cable",
    ):
        assert words in printed
    assert "epoch 1 of 1" in printed
    board = run_command("leaderboard", "--category", "cable", cwd=folder).stdout
    assert "recipe epochs=1" in board and "mean_image" in board
    images = Path(small["data"]["root"]) / "cable/test/good"
    command = [sys.executable, "-m", "vqlab", "predict", str(images), "--model", "vqvae-cable"]
    predicted = subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    verdicts = {"pass", "reject"}
    assert any(word in predicted.stdout for word in verdicts)
    assert "held-out normal images" in predicted.stdout and "held-out" in printed
    table = (folder / "results/predictions/scores.csv").read_text().splitlines()
    assert {line.split(",")[4] for line in table[1:]} <= verdicts
    assert len(table) == 1 + len(list(images.iterdir()))
    of_run = {
        line.split(",")[1]: line.split(",")[4]
        for line in (folder / "results/cable/scores.csv").read_text().splitlines()
    }
    for line in table[1:]:
        file, score = line.split(",")[:2]
        assert of_run["/".join(Path(file).parts[-4:])] == score  # the same bits in a new process


def test_config_prints_a_valid_recipe(recipe: Path, tmp_path: Path) -> None:
    printed = run_command("config", recipe, "training.batch_size=3", cwd=tmp_path).stdout
    tree = yaml.safe_load(printed)
    assert tree["training"]["batch_size"] == 3 and tree["detector"]["name"] == "vqvae"
    (tmp_path / "whole.yaml").write_text(printed)
    assert yaml.safe_load(run_command("config", "whole.yaml", cwd=tmp_path).stdout) == tree


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["train", "none.yaml"], ["recipe none.yaml does not exist"]),
        (["train", "RECIPE", "training.epoch=2"], ["did you mean training.epochs?"]),
        (["train", "RECIPE", "training.epochs=-1"], ["training.epochs", "got -1"]),
        (["train", "RECIPE", "training.learning_rate=fast"], ["training.learning_rate", "'fast'"]),
        (["train", "RECIPE", "detector=vqvea"], ["did you mean vqvae"]),
        (["train", "RECIPE", "--category", "tube"], ["tube", "cable", "mvtec.com", "spot-diff"]),
        (["train", "RECIPE", "--data", "nowhere"], ["nowhere"]),
        (["train", "RECIPE", "--data", "EMPTY"], ["EMPTY"]),
        (["train", "RECIPE", "--preset", "ful"], ["preset must be one of full"]),
        (["train", "training.epochs=2"], ["first argument must be a recipe"]),
        (["train", "--resume", "nobody"], ["there is no run 'nobody'"]),
        (["train", "RECIPE", "--resume", "nobody"], ["recipe.yaml; remove", "start a new run"]),
        (["train", "vqvae", "--resume", "nobody"], ["got vqvae; remove"]),
        (
            ["train", "RECIPE", "training.epochs=2", "--resume", "nobody", "-c", "cable"],
            ["training.epochs=2 --category cable; remove"],
        ),
        (["train", "--resume", "nobody", "--preset", "full"], ["got --preset full; remove"]),
        (["train", "--resume", "nobody", "--data", "EMPTY"], ["there is no run 'nobody'"]),
        (["predict", "RECIPE", "--model", "none.safetensors"], ["none.safetensors"]),
        (["predict", "RECIPE"], ["champion", "--category"]),
        (["predict", "RECIPE", "--category", "cable"], ["no tracked runs", "sweep first"]),
        (["evaluate", "--category", "cable"], ["no tracked runs"]),
        (["compare", "one", "two"], ["no tracked runs"]),
        (["promote", "--category", "cable"], ["no tracked runs"]),
        (["rollback", "--category", "cable"], ["no tracked runs"]),
        (["leaderboard"], ["no tracked runs"]),
        (["leaderboard", "--json", "--csv"], ["mutually exclusive"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_user_error_is_one_sentence(
    arguments: list[str],
    messages: list[str],
    recipe: Path,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "EMPTY").mkdir()
    if messages == ["there is no run 'nobody'"]:
        shutil.copytree(empty_store, tmp_path / "mlruns")
    places = {"RECIPE": str(recipe), "EMPTY": str(tmp_path / "EMPTY")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vqlab", *(places.get(word, word) for word in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("vqlab: ") and "Traceback" not in error
    for word in messages:
        assert word in error
    assert not (tmp_path / "results").exists()
    if arguments[0] not in ("train", "sweep"):  # read-only commands create nothing
        assert {path.name for path in tmp_path.iterdir()} <= {"EMPTY", "recipe.yaml"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "RECIPE"],
        ["sweep", "RECIPE"],
        ["train", "RECIPE", "data.root=null"],
        ["sweep", "all", "data.root=null"],
        ["data", "check", "ROOT"],
        ["data", "check"],
        ["data", "show"],
        ["data", "audit", "ROOT"],
        ["data", "validation"],
        ["data", "generate"],
    ],
    ids=" ".join,
)
def test_misspelt_category_is_suggested(
    arguments: list[str],
    recipe: Path,
    small: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"RECIPE": str(recipe), "ROOT": small["data"]["root"]}
    (tmp_path / "experiments").symlink_to(EXPERIMENTS)
    monkeypatch.chdir(tmp_path)
    words = [places.get(word, word) for word in arguments]
    monkeypatch.setattr(sys, "argv", ["vqlab", *words, "--category", "Cabel"])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert "Cabel" in error and error.endswith("did you mean cable?\n")
    assert not (tmp_path / "data").exists()


def test_version(tmp_path: Path) -> None:
    assert run_command("--version", cwd=tmp_path).stdout == f"vqlab {__version__}\n"


def test_predict_never_deletes_other_files(training: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = training
    other_file = tmp_path / "photos"
    other_file.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(other_file / "part.png")
    arguments = ("predict", other_file, "--model", "vqvae-cable", "--output")
    result = run_command(*arguments, other_file, cwd=folder, status=2)
    assert "part.png" in result.stderr and (other_file / "part.png").exists()
    (other_file / "broken.png").write_text("no image")
    result = run_command(*arguments, tmp_path / "predictions", cwd=folder, status=3)
    table = (tmp_path / "predictions/scores.csv").read_text()
    assert "broken.png" in result.stderr and table.count("\n") == 3


def test_read_only_store_fails_before_training(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("a file where the folder should be")
    result = run_command("train", recipe, cwd=tmp_path, status=2)
    assert "mlruns" in result.stderr and "epoch" not in result.stdout


def test_deprecated_options_and_commands_work(tmp_path: Path) -> None:
    done = run_command("settings", "smoke", cwd=tmp_path)
    assert done.stdout == run_command("config", "smoke", cwd=tmp_path).stdout
    assert done.stderr == ("vqlab: settings is now called config; the old name will be removed.\n")
    done = run_command("sweep", "vqvae", "--trials=0", "--results", "out", cwd=tmp_path, status=2)
    assert "--trials is now called --n-trials" in done.stderr
    assert "--results is now called --output" in done.stderr and "--n-trials" in done.stderr
    done = run_command("watch", tmp_path, "--settle", "1", cwd=tmp_path, status=2)
    assert "--settle is now called --unchanged-for" in done.stderr
    done = run_command("data", "make", "--to", "x", "--category", "no", cwd=tmp_path, status=2)
    assert "data make is now called data generate" in done.stderr
    assert "--to is now called --output" in done.stderr
    done = run_command("rollback", "-c", "cable", "--to", "1", cwd=tmp_path, status=2)
    assert "now called" not in done.stderr
