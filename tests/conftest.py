"""Shared fixtures: a small dataset on disk and settings that train in a second or two."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from tiny_set import write_tiny_set

if TYPE_CHECKING:  # expensive imports are in fixtures: xdist's controller runs no test
    from matplotlib.figure import Figure

    from vqlab.tracking import Tracker

REPOSITORY = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OFFLINE = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-quic"
).split()
SIDE = 64
for _name in ("MLFLOW_TRACKING_URI", "VQLAB_UI"):  # tests must not use a developer's server
    os.environ.pop(_name, None)
pytest.register_assert_rewrite("vqlab.testing")
# Property tests use the same examples in every run, so that only a change makes them fail. `make
# test-random` uses others, and more. No deadline: a busy machine is not a failure.
settings.register_profile("fixed", derandomize=True, max_examples=60, deadline=None)
settings.register_profile("random", max_examples=500, deadline=None, print_blob=True)
settings.load_profile("fixed")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed each test and its fixtures, independent of the tests that ran before in its process:
    xdist distributes tests arbitrarily."""
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Exclude the objects of all imported libraries from garbage collection."""
    gc.freeze()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run in the background of a shell, where
    # what tests start would never hear Ctrl-C either
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _write(path: Path, pixels: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX).save(path)  # type: ignore[arg-type]


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use one thread, and neither the developer's feature cache nor weights: tests that need these
    set them."""
    import torch
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def do_not_wait_for_the_disk(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    torch.set_num_threads(1)
    os.environ.pop("VQLAB_WEIGHTS", None)
    os.environ["VQLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in the layout of MVTec AD, 64 px: images of the synthetic cable and fabric."""
    from vqlab.data.synthetic import sample

    root = tmp_path_factory.mktemp("small")
    for category, defects, train in (
        ("cable", ("missing_cable", "cut_outer_insulation"), 14),
        ("fabric", ("hole",), 8),
    ):
        for index in range(train + 4):
            split = "train" if index < train else "test"
            image, _ = sample(category, 0, index)
            _write(root / category / split / "good" / f"{index:03d}.png", image)
        for defect in defects:
            for index in range(3):
                image, mask = sample(category, 0, index, defect)
                _write(root / category / "test" / defect / f"{index:03d}.png", image)
                truth = root / category / "ground_truth" / defect / f"{index:03d}_mask.png"
                _write(truth, mask.astype("uint8") * 255)
    return root


@pytest.fixture(scope="session")
def small(small_root: Path) -> dict[str, object]:
    """The tree of a recipe that trains in about a second."""
    return {
        "data": {"root": str(small_root), "categories": ["cable"], "image_size": 32},
        "detector": {
            "name": "vqvae",
            "hidden": 8,
            "warmup": 2,
            "codebook_size": 32,
            "dim": 16,
            "scoring": {"context_steps": 5},
        },
        "training": {"epochs": 3, "device": "cpu"},
        "evaluation": {"resamples": 50},
    }


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of `tiny_set`, categories `part` and `other`; tests must not write into it."""
    return write_tiny_set(tmp_path_factory.mktemp("set"), ("part", "other"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs: creating its tables takes seconds, copying it does not."""
    from vqlab.tracking import Tracker

    root = tmp_path_factory.mktemp("empty") / "mlruns"
    Tracker.open(root)
    return root


@pytest.fixture(scope="session")
def new_store(empty_store: Path) -> Callable[[Path], Tracker]:
    """A factory of stores without runs, `mlruns/` in a folder."""
    from vqlab.tracking import Tracker

    def make(folder: Path) -> Tracker:
        return Tracker.open(Path(shutil.copytree(empty_store, folder / "mlruns")))

    return make


@pytest.fixture
def empty_mlruns(empty_store: Path, tmp_path: Path) -> Path:
    """A store without runs in the folder of the test, where commands expect it."""
    return Path(shutil.copytree(empty_store, tmp_path / "mlruns"))


@pytest.fixture(scope="module")
def store(
    new_store: Callable[[Path], Tracker], tmp_path_factory: pytest.TempPathFactory
) -> Tracker:
    """A store shared by the tests of a file."""
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def blank_figures() -> Iterator[None]:
    """Replace figures and pictures of images by white ones, for tests that do not look at them:
    drawing takes more than half of the time of a tiny run."""
    from matplotlib.figure import Figure

    from vqlab.plots import results
    from vqlab.run import story
    from vqlab.sweep import result as sweep_result

    def save(figure: Figure, target: Path | BinaryIO, **_: object) -> None:
        Image.new("RGB", (1, 1), "white").save(target, format="png")

    def blank_picture(*_: object) -> Any:
        return np.full((128, 1280, 3), 255, np.uint8)

    def blank_figure(*_: object, **__: object) -> Figure:
        return Figure()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        for name in ("draw_row", "draw_worst"):
            patch.setattr(results, name, blank_picture)
        for name in (
            "score_histogram", "score_by_defect", "roc_figure", "pro_figure",
            "precision_recall_figure", "codebook_usage",
        ):  # fmt: skip
            patch.setattr(results, name, blank_figure)
        patch.setattr(story, "loss_curves", blank_figure)
        patch.setattr(sweep_result, "loss_curves", blank_figure)
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 48 MiB; the test is skipped if mounting is not permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("no permission to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs trained since the start of the test."""
    from vqlab.training import Trainer

    trained: list[int] = []
    plain = Trainer._epoch

    def counted(self: Trainer, epoch: int) -> dict[str, float]:
        trained.append(epoch)
        return plain(self, epoch)

    monkeypatch.setattr(Trainer, "_epoch", counted)
    return trained


@pytest.fixture
def every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the training state after every epoch, however short."""
    from vqlab.run import fit

    monkeypatch.setattr(fit, "STATE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium without background requests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install)")
    if CHROMIUM is None:
        pytest.skip("no chromium (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Address of a PostgreSQL server; the test is skipped if none is installed."""
    from postgres_server import NoPostgres, postgres_server

    try:
        with postgres_server() as address:
            yield address
    except NoPostgres as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def mlflow_ui(browser: Any, store: Tracker) -> Iterator[str]:
    """Address of the server that `vqlab ui` starts for the store of the file, at a free port."""
    from mlflow_server import free_port, serving

    from vqlab.tracking import ui_command

    port = free_port()
    arguments, environment = ui_command(store.root, port=port)
    with (
        serving(arguments, environment, port, store.root / "log") as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("VQLAB_UI", address)
        yield address


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page in a new browser profile, wide enough for all columns."""
    context = browser.new_context(viewport={"width": 2600, "height": 2400})
    context.set_default_timeout(60_000)  # milliseconds
    yield context.new_page()
    context.close()
