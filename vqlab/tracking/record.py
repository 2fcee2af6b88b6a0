"""Stored runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from vqlab.errors import UserError
from vqlab.text import category_text
from vqlab.tracking.artifacts import CHECKPOINT, CONFIG, MissingArtifact
from vqlab.tracking.categories import categories_of, matches_categories


@dataclass(frozen=True)
class RunRecord:
    """A stored run."""

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
    """Seconds; None while the run is RUNNING."""

    _artifact: Callable[[str], Path] = field(repr=False, compare=False)

    def artifact(self, path: str) -> Path:
        """Return the local path of an artifact; download it if necessary.

        Raises UserError if the run has no such artifact.
        """
        return self._artifact(path)

    @property
    def categories(self) -> tuple[str, ...]:
        return categories_of(self.tags)

    def require_categories(self, text: str) -> None:
        """Raise UserError unless the run was trained on the categories that `text` names."""
        if not matches_categories(text, self.categories):
            trained = category_text(self.categories) or "no category"
            raise UserError(
                f"run {self.short} was trained on {trained}, not {text}; choose a run of {text}."
            )

    def config(self) -> dict[str, Any]:
        """Return the settings of the run (artifact config.yaml). Raises UserError if missing."""
        text = self._artifact(CONFIG).read_text(encoding="utf-8")
        tree: dict[str, Any] = yaml.safe_load(text)
        return tree

    def checkpoint(self) -> Path:
        """Return the local path of the checkpoint.

        Raises UserError if there is none; if a sweep deleted it, with the command to retrain it.
        """
        try:
            return self._artifact(CHECKPOINT)
        except MissingArtifact:
            if self.deletion_note:
                raise UserError(self.deletion_note) from None
            raise

    @property
    def deletion_note(self) -> str:
        """Message about a checkpoint deleted by a sweep, with the command to retrain it; empty if
        the run has a checkpoint or is not a trial."""
        number, study = self.tags.get("vqlab.trial"), self.tags.get("vqlab.study")
        if self.tags.get("vqlab.kind") != "trial" or self.status == "RUNNING":
            return ""
        try:
            self._artifact(CHECKPOINT)
        except MissingArtifact:
            pass
        else:
            return ""
        deleted = f"the checkpoint of run {self.short} was not kept: it is trial {number} of study"
        if self.tags.get("optuna.state") != "COMPLETE":
            return f"{deleted} {study}, which ended early; only a complete trial can be retrained."
        return (
            f"{deleted} {study}, which keeps only its best trials; to retrain and keep it, "
            f"repeat the sweep's command with `--test {number}` added (make: TEST={number})."
        )

    @property
    def short(self) -> str:
        """Name, ID prefix and status, for messages."""
        return f"{self.name} ({self.run_id[:8]}, {self.status})"


def ranked(runs: Iterable[RunRecord], key: str, ascending: bool) -> list[RunRecord]:
    """Return runs by a metric, best (largest unless `ascending`) first, those without it last."""
    sign = 1.0 if ascending else -1.0
    return sorted(runs, key=lambda run: _rank(run.metrics.get(key), sign))


def _rank(value: float | None, sign: float) -> tuple[bool, float]:
    missing = value is None or value != value
    return missing, 0.0 if value is None or missing else sign * value
