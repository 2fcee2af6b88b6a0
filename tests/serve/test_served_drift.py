"""The server reports the drift test of `vqlab watch`."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from inspection import opened
from prometheus_client.parser import text_string_to_metric_families
from servers import error_of, running

from vqlab.model import Model
from vqlab.predict import load_model
from vqlab.serve import ServeSettings
from vqlab.watch import WatchSettings, read_drift_state, watch_folder

DRIFT = "/v1/categories/part/drift"


def watch(model: Model, watched: Path, files: list[Path]) -> None:
    """Judge files; the output folder is that of `part`."""
    folder = watched.parent / "in"
    folder.mkdir(exist_ok=True)
    for number, file in enumerate(files, len(list(folder.iterdir()))):
        shutil.copyfile(file, folder / f"{number:03}.png")
    settings = WatchSettings(folder, watched / "part", unchanged_for=0, patience=0, poll=0.01)
    watch_folder(model, settings, threading.Event(), once=True)


def gauges(address: str) -> dict[str, float]:
    """Return the drift metrics of `part`, with the stream as a suffix if there is one."""
    text = requests.get(f"{address}/metrics", timeout=10).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {
        s.name + s.labels.get("stream", ""): s.value
        for s in samples
        if s.name.startswith("vqlab_drift_")
    }


@pytest.fixture
def good_parts(images: Path) -> list[Path]:
    """150 normal parts."""
    files = sorted((images / "part").glob("*/good/*.png"))
    return [files[number * 7 % len(files)] for number in range(150)]


@pytest.fixture
def model(trained_store: Path) -> Model:
    return load_model("champion", "part", trained_store)


def test_drift_is_served_and_measured(
    model: Model, trained_store: Path, tmp_path: Path, good_parts: list[Path], defect_file: Path
) -> None:
    watched = tmp_path / "watched"
    settings = ServeSettings(
        mlruns=trained_store, categories=("part",), watched=watched, poll_seconds=0.05
    )
    assert read_drift_state(watched / "part") is None
    with running(settings) as address:
        assert requests.get(address + DRIFT, timeout=10).json() is None
        assert gauges(address) == {}
        watch(model, watched, good_parts)
        answer = requests.get(address + DRIFT, timeout=10).json()
        state = read_drift_state(watched / "part")
        assert state is not None and 0 < state.wealth < 100
        assert set(state.wealths) == {"score", "noise"}
        assert answer == {
            "tested": 150, "wealth": state.wealth, "wealths": state.wealths, "level": 0.01,
            "alarm": None, "current": True,
        }  # fmt: skip
        watch(model, watched, [defect_file] * 30)
        alarm = requests.get(address + DRIFT, timeout=10).json()
        assert alarm["tested"] == 180 and alarm["alarm"].startswith(
            "parts have differed since about part "
        )
        deadline = time.monotonic() + 60
        while gauges(address).get("vqlab_drift_alarm") != 1:  # until the next poll
            assert time.monotonic() < deadline
        metrics = gauges(address)
        assert metrics["vqlab_drift_wealth"] == pytest.approx(alarm["wealth"])
        for stream, wealth in alarm["wealths"].items():
            assert metrics[f"vqlab_drift_stream_wealth{stream}"] == pytest.approx(wealth)
        missing = requests.get(f"{address}/v1/categories/prat/drift", timeout=10)
        assert missing.status_code == 404 and "did you mean part?" in error_of(missing)
        while requests.get(address + DRIFT, timeout=10).json() is not None:
            # repeated in case a reader has restored it from the log
            damage(watched / "part/watch.db")
            assert time.monotonic() < deadline


def damage(database: Path) -> None:
    """Overwrite an SQLite database and delete its write-ahead log."""
    for log in database.parent.glob(f"{database.name}-*"):
        log.unlink(missing_ok=True)
    database.write_bytes(b"damaged")


@pytest.mark.slow
def test_the_page_shows_drift(
    browser: Any,
    model: Model,
    trained_store: Path,
    tmp_path: Path,
    good_parts: list[Path],
    defect_file: Path,
) -> None:
    watched = tmp_path / "watched"
    watch(load_model(str(_run(trained_store, 1)), "part", trained_store), watched, good_parts[:1])
    settings = ServeSettings(mlruns=trained_store, watched=watched)
    with running(settings) as address, opened(browser, f"{address}#category=part") as page:
        page.wait_for_selector("#drift:not([hidden])")
        assert page.text_content("#drift") == (
            f"No drift alarm in 1 watched parts (wealth {_displayed(watched)}, alarm at 100). "
            "These parts were judged by another version."
        )
        watch(model, watched, good_parts[1:] + [defect_file] * 30)
        page.reload()
        page.wait_for_selector("#drift.problem")
        assert page.text_content("#drift").startswith(
            "Drift alarm: parts have differed since about part "
        )
        page.select_option("#category", "lid")
        page.wait_for_selector("#drift", state="hidden")


def _displayed(watched: Path) -> str:
    state = read_drift_state(watched / "part")
    assert state is not None
    stream = max(state.wealths, key=state.wealths.__getitem__)
    return f"{state.wealth:.2g} by {stream}"


def _run(mlruns: Path, seed: int) -> str:
    from vqlab.tracking import Tracker

    return Tracker.open(mlruns).find(f"part{seed}").run_id
