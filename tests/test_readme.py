"""The README's commands run as they are written, in a copy of the checkout, with a tiny budget."""

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
    for name in ("vqlab", "python"):  # the running environment, found where README says it is
        (binaries / name).symlink_to(Path(sys.executable).parent / name)
    (folder / ".venv/.ready").touch()
    return folder


def test_the_readme_has_commands() -> None:
    assert "make sweep CLASS=cable" in commands() and len(commands()) >= 8


def test_every_picture_and_link_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (REPOSITORY / target).exists(), target


@pytest.mark.slow
def test_every_command_runs(checkout: Path) -> None:
    environment = {
        **os.environ,
        "MAKEFLAGS": "PRESET=tiny TRIALS=2 --no-print-directory",
        "VQLAB_PRESET": "tiny",
        "OMP_NUM_THREADS": "1",
    }
    for command in [*commands(), *(f"{sys.executable} -c '{code}'" for code in pythons())]:
        done = subprocess.run(
            ["bash", "-ec", command], cwd=checkout, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def pythons() -> list[str]:
    return [
        block.replace('preset="quick"', 'preset="tiny"').replace("'", '"')
        for block in blocks("python")
        if block.startswith("import vqlab")
    ]
