"""The commands of the README run unchanged in a copy of the checkout, with a small budget."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SKIPPED = {"make test"}  # this is the test run itself; .ci/run calls it


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [
        line.partition("  #")[0].strip() for block in blocks("sh") for line in block.split("\n")
    ]
    return [line for line in lines if line and line not in SKIPPED]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("experiments", "vqlab", "Makefile", "pyproject.toml", "README.md"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    binaries = folder / ".venv/bin"
    binaries.mkdir(parents=True)
    for name in ("vqlab", "python"):  # the running environment, linked where the README expects it
        (binaries / name).symlink_to(Path(sys.executable).parent / name)
    (folder / ".venv/.ready").touch()
    return folder


def test_readme_has_commands() -> None:
    assert "make sweep CLASS=cable" in commands() and len(commands()) >= 8


@pytest.mark.slow
def test_every_command_runs(checkout: Path) -> None:
    environment = {
        **os.environ,
        "MAKEFLAGS": "PRESET=tiny TRIALS=2 --no-print-directory",
        "VQLAB_PRESET": "tiny",
        "OMP_NUM_THREADS": "1",
    }
    for command in [*commands(), *(f"{sys.executable} -c '{code}'" for code in pythons())]:
        process = subprocess.run(
            ["bash", "-ec", command], cwd=checkout, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, f"{command}\n{process.stdout}{process.stderr}"


def pythons() -> list[str]:
    return [
        block.replace('preset="quick"', 'preset="tiny"').replace("'", '"')
        for block in blocks("python")
        if block.startswith("import vqlab")
    ]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the detector, recipe and space of the README."""
    folder = tmp_path_factory.mktemp("example")
    (code,) = [block for block in blocks("python") if "@register" in block]
    recipe, space = blocks("yaml")
    (folder / "experiments/sweeps").mkdir(parents=True)
    (folder / "my_detector.py").write_text(code, encoding="utf-8")
    (folder / "my_recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "experiments/sweeps/my_detector.yaml").write_text(space, encoding="utf-8")
    return folder


def in_example(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_example_detector_passes_the_contract(example: Path) -> None:
    check = "from vqlab.testing import check_detector; check_detector('my_detector')"
    process = in_example(example, "-c", check, VQLAB_DETECTORS="my_detector.py")
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_example_detector_can_be_trained_and_swept(example: Path) -> None:
    environment = {"VQLAB_DETECTORS": "my_detector.py", "VQLAB_PRESET": "tiny"}
    on = ("my_recipe.yaml", "--category", "cable")
    process = in_example(example, "-m", "vqlab", "train", *on, **environment)
    assert process.returncode == 0, process.stdout + process.stderr
    swept = ("-m", "vqlab", "sweep", *on, "--n-trials")
    for words in (("2",), ("4", "--workers", "2")):
        process = in_example(example, *swept, *words, **environment)
        assert process.returncode == 0, process.stdout + process.stderr
        assert "best run: trial" in process.stdout
    image = next((example / "data/synthetic/cable/test").rglob("*.png"))
    promote = ("-m", "vqlab", "promote", "--category", "cable")
    assert in_example(example, *promote, **environment).returncode == 0
    predict = ("-m", "vqlab", "predict", "--category", "cable", str(image))
    process = in_example(example, *predict, **environment)
    assert process.returncode == 0, process.stdout + process.stderr
