"""Launchers start the workers of a study and keep them alive.

A worker needs only the name of its study and the addresses of the two stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Launcher(Protocol):
    """Start workers. They end by themselves when the study reaches its target."""

    def start(self, study: str) -> None:
        """Start the workers of a study."""

    def poll(self) -> int:
        """Restart killed workers; return how many are alive."""

    def stop(self) -> None:
        """Stop all workers, within seconds."""

    def error(self) -> str:
        """Return the error of the last worker that failed; empty if none did."""


class ExternalWorkers:
    """Wait for workers that are started elsewhere (`vqlab worker STUDY`, a Slurm array) until the
    study is complete."""

    def __init__(self, finished: Callable[[], bool]) -> None:
        self._finished = finished

    def start(self, study: str) -> None:
        pass

    def poll(self) -> int:
        return int(not self._finished())

    def stop(self) -> None:
        pass

    def error(self) -> str:
        return ""
