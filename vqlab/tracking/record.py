"""A run as it is stored, and what became of its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from vqlab.errors import UserError
from vqlab.tracking.categories import categories_of
from vqlab.tracking.run import CHECKPOINT, CONFIG, MissingArtifact


@dataclass(frozen=True)
class RunRecord:
    """A run as it is stored: what a table of runs shows."""

    run_id: str
    name: str
    experiment: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    """The last value of every key."""
    start: datetime
    duration: float | None
    """Seconds; None while the run lasts."""

    _artifact: Callable[[str], Path] = field(repr=False, compare=False)

    def artifact(self, path: str) -> Path:
        """Where the artifact `path` lies on this machine, downloaded if a server has it. Raises
        UserError where the run has none of that name."""
        return self._artifact(path)

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories that the run is about."""
        return categories_of(self.tags)

    def config(self) -> dict[str, Any]:
        """The settings of the run: its artifact config.yaml. Raises UserError without one."""
        text = self._artifact(CONFIG).read_text(encoding="utf-8")
        tree: dict[str, Any] = yaml.safe_load(text)
        return tree

    def checkpoint(self) -> Path:
        """Return the run's checkpoint on this machine.

        Raises UserError if it has none, with what brings it back if a sweep deleted it.
        """
        try:
            return self._artifact(CHECKPOINT)
        except MissingArtifact:
            if self.not_kept:
                raise UserError(self.not_kept) from None
            raise

    @property
    def not_kept(self) -> str:
        """The sentence on a checkpoint that the run's sweep deleted, with what brings it back;
        empty where the run has its checkpoint, or never was a trial."""
        number, study = self.tags.get("vqlab.trial"), self.tags.get("vqlab.study")
        if self.tags.get("vqlab.kind") != "trial" or self.status == "RUNNING":
            return ""
        try:
            self._artifact(CHECKPOINT)
        except MissingArtifact:
            pass
        else:
            return ""
        deleted = f"the checkpoint of run {self.short} is not kept: it is trial {number} of study"
        if self.tags.get("optuna.state") != "COMPLETE":
            return (
                f"{deleted} {study}, which ended early; only a complete trial can be brought back."
            )
        category = self.tags.get("vqlab.category", "CATEGORY")
        return (
            f"{deleted} {study}, which keeps its best trials only; to train it again and keep it, "
            f"repeat the sweep's command with `--test {number}` (make sweep CLASS={category} "
            f"TEST={number}, and what else you gave)."
        )

    @property
    def short(self) -> str:
        """Name and the beginning of the id, for sentences."""
        return f"{self.name} ({self.run_id[:8]}, {self.status})"
