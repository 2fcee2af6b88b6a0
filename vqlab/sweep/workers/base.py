"""Launchers start the workers of a study and keep them alive.

A worker needs the name of its study and the addresses of the two stores, no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Launcher(Protocol):
    """Starts workers; they end by themselves when the study has its trials."""

    def start(self, study: str) -> None:
        """Start the workers of a study."""

    def tend(self) -> int:
        """Start again what was killed; how many workers are alive."""

    def stop(self) -> None:
        """End all of them, within seconds; nothing happens to those that ended."""

    def complaint(self) -> str:
        """Why the last worker that failed did; empty where none has."""


class ExternalWorkers:
    """No workers of its own: it waits for those that others start (`vqlab worker STUDY`, a Slurm
    array), until the study has its trials."""

    def __init__(self, finished: Callable[[], bool]) -> None:
        self._finished = finished

    def start(self, study: str) -> None:
        pass

    def tend(self) -> int:
        return int(not self._finished())

    def stop(self) -> None:
        pass

    def complaint(self) -> str:
        return ""
