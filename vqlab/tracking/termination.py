"""Turn SIGTERM and SIGHUP into an exception, so that a run can be ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

_SIGNALS = ("SIGTERM", "SIGHUP")


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received inside a run; handled like Ctrl-C."""


def raise_on_signals() -> dict[int, Any]:
    """Raise Terminated on SIGTERM and SIGHUP from now on; return the previous handlers.

    Handlers set by others and ignored signals (nohup) stay. Only in the main thread; elsewhere
    nothing changes.
    """
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                handlers[number] = signal.signal(number, _terminate)
    return handlers


def restore_handlers(handlers: Mapping[int, Any]) -> None:
    """Restore the handlers that `raise_on_signals` returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(f"ended by {signal.Signals(number).name}")
