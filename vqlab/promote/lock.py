"""The lock of the champions: of two concurrent promotions, the second compares with the first."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from vqlab.tracking import Tracker

P = ParamSpec("P")
R = TypeVar("R")


def one_at_a_time(
    change: Callable[Concatenate[Tracker, P], R],
) -> Callable[Concatenate[Tracker, P], R]:
    """Hold the registry's lock while `change`, a function of a tracker, runs."""

    @wraps(change)
    def locked(tracker: Tracker, /, *args: P.args, **named: P.kwargs) -> R:
        with tracker.registry.lock():
            return change(tracker, *args, **named)

    return locked
