"""The built package and the editable install work, each in a separate virtual environment.

Libraries come from the running environment, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def ran(*command: object, cwd: Path, code: int = 0) -> str:
    others = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VQLAB_", "MLFLOW"))
    }
    environment = {**others, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def environment(folder: Path) -> Path:
    """Return the bin folder of a new environment with the libraries of the running one, without
    vqlab."""
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(paths["purelib"], "zz_libraries.pth").write_text("\n".join(sorted(libraries)))
    return folder / "bin"


def install(binaries: Path, *what: object) -> None:
    pip = [sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--quiet"]
    ran(*pip, "--no-deps", "--no-build-isolation", "--no-index", *what, cwd=binaries)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in a folder with the name of the package."""
    folder = tmp_path_factory.mktemp("clones") / "vqlab"
    skipped = shutil.ignore_patterns(
        "__pycache__", ".*_cache", ".git", ".venv", "mlruns", "results"
    )
    shutil.copytree(REPOSITORY, folder, ignore=skipped)
    return folder


@pytest.fixture(scope="module")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel built from the source package."""
    folder = tmp_path_factory.mktemp("built")
    hatchling = (sys.executable, "-m", "hatchling", "build", "-d", folder)
    ran(*hatchling, "-t", "sdist", cwd=checkout)
    (source,) = folder.glob("vqlab-*.tar.gz")
    shutil.unpack_archive(source, folder / "source")
    (unpacked,) = (folder / "source").iterdir()
    ran(*hatchling, "-t", "wheel", cwd=unpacked)
    binaries = environment(folder / "venv")
    install(binaries, *folder.glob("*.whl"))
    return binaries


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    binaries = environment(tmp_path_factory.mktemp("editable") / "venv")
    install(binaries, "--editable", checkout)
    return binaries


def test_installed_package_contains_all_experiments(installed: Path, tmp_path: Path) -> None:
    program = "from vqlab.experiment_files import shipped; print(shipped())"
    folder = Path(ran(installed / "python", "-c", program, cwd=tmp_path).strip())
    assert folder.is_relative_to(installed.parent)

    def content(top: Path) -> dict[str, bytes]:
        files = (path for path in top.rglob("*") if path.is_file())
        return {path.relative_to(top).as_posix(): path.read_bytes() for path in files}

    assert content(folder) == content(REPOSITORY / "experiments")


def test_installed_package_finds_its_recipes_in_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    vqlab = installed / "vqlab"
    for recipe, detector in (("ablations/vqflow_no_cpc", "vqflow"), ("vqvae", "vqvae")):
        output = ran(vqlab, "config", recipe, "--preset", "tiny", cwd=tmp_path)
        assert yaml.safe_load(output)["detector"]["name"] == detector
    refused = ran(vqlab, "config", "vqfolw", cwd=tmp_path, code=2)
    assert "recipe vqfolw does not exist; did you mean vqflow?" in refused
    assert not list(tmp_path.iterdir())


def test_installed_package_sweeps_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    words = ("sweep", "vqvae", "--category", "cable", "--preset", "tiny", "--n-trials", "2")
    output = ran(installed / "vqlab", *words, "training.epochs=1", cwd=tmp_path)
    assert "best run" in output and (tmp_path / "mlruns/optuna.db").exists()


def test_editable_install_is_imported_from_the_parent_folder(
    editable: Path, checkout: Path
) -> None:
    program = "import vqlab; print(vqlab.__file__, vqlab.load.__name__)"
    output = ran(editable / "python", "-c", program, cwd=checkout.parent).split()
    assert (Path(output[0]), output[1]) == (checkout / "vqlab/__init__.py", "load")


def test_editable_install_finds_the_recipes_of_its_checkout(
    editable: Path, checkout: Path, tmp_path: Path
) -> None:
    (checkout / "experiments/recent.yaml").write_text("base: vqvae\ntraining: {seed: 71}\n")
    output = ran(editable / "vqlab", "settings", "recent", cwd=tmp_path)
    assert yaml.safe_load(output)["training"]["seed"] == 71
