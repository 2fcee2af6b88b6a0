"""Helpers that watch a folder in a process that may be killed, and read its output."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from vqlab.model import Model
from vqlab.watch import Status, WatchSettings, Webhook, watch_folder
from vqlab.watch import judging as watch_module
from vqlab.watch.lines import Lines
from vqlab.watch.store import Store


def watch_once(model: Model, folder: Path, output: Path, **settings: Any) -> Status:
    """Judge every file of a folder without waiting; return the last status."""
    values: dict[str, Any] = {"unchanged_for": 0, "patience": 0, "poll": 0.01, **settings}
    settings_of = WatchSettings(folder, output, **values)
    return watch_folder(model, settings_of, threading.Event(), once=True)


POINTS = {
    "before the commit": (Store, "add"),
    "after the commit": (Lines, "update"),
    "before the move": (watch_module, "place"),
    "after the move": (Store, "placed"),
}


def watch_until_killed(point: str, checkpoint: Path, folder: Path, output: Path, url: str) -> None:
    """Watch in this process, which is killed when it reaches a point for the third time."""
    owner, name = POINTS[point]
    function, calls = getattr(owner, name), 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    setattr(owner, name, counted)
    hook = Webhook.of(url, os.environ["VQLAB_WEBHOOK_SECRET"])
    watch_once(Model.load(checkpoint), folder, output, sort="move", webhook=hook)


def lines_of(output: Path) -> list[dict[str, Any]]:
    """Return the lines of `parts.jsonl`, which must be complete."""
    text = (output / "parts.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]
