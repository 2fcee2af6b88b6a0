"""Helpers for promotions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vqlab.tracking import Tracker

METRIC = "test/image_auroc"
Tree = dict[str, Any]

Train = Callable[..., str]


def champion(tracker: Tracker) -> int | None:
    version = tracker.registry.by_alias("part")
    return version.version if version else None
