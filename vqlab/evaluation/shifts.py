"""Errors of a model under capture shifts: a table of false rejects and escapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vqlab.evaluation.thresholds import Thresholds, guarantee_limit

AS_CAPTURED = "as captured"
"""Severity of the row without a shift."""


@dataclass(frozen=True)
class ShiftErrors:
    """Errors on the images of a `ShiftTable` under one shift."""

    shift: str
    """Key of `vqlab.data.SHIFTS`; empty without a shift."""
    severity: str
    """`mild`, `strong` or `as captured`."""
    strength: float
    """In the unit of the shift."""
    false_rejects: int
    """Rejected normal images."""
    escapes: int
    """Passed anomalous images."""

    @property
    def title(self) -> str:
        """E.g. `jpeg 50 (strong)`."""
        if not self.shift:
            return AS_CAPTURED
        return f"{self.shift} {self.strength:g} ({self.severity})"


@dataclass(frozen=True)
class ShiftTable:
    """Errors of a model on the same test images under every capture shift."""

    normals: int
    """Number of normal images."""
    anomalies: int
    """Number of anomalous images."""
    trained: tuple[str, ...]
    """Shifts that the model was trained to tolerate (`data.shifts`)."""
    rows: tuple[ShiftErrors, ...]
    """The first one is without a shift."""

    @property
    def metrics(self) -> dict[str, float]:
        """Rates by key, such as `shift/jpeg_strong/false_reject_rate`."""
        values: dict[str, float] = {}
        for row in self.rows:
            name = f"{row.shift}_{row.severity}" if row.shift else "none"
            if self.normals:
                values[f"shift/{name}/false_reject_rate"] = row.false_rejects / self.normals
            if self.anomalies:
                values[f"shift/{name}/escape_rate"] = row.escapes / self.anomalies
        return values

    def above_promise(self, thresholds: Thresholds) -> tuple[ShiftErrors, ...]:
        """Return the rows with significantly more false rejects than promised, see
        `guarantee_limit`; none without a promise."""
        most = guarantee_limit(thresholds, self.normals)
        return tuple(row for row in self.rows if most is not None and row.false_rejects > most)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ShiftTable:
        """Restore a table from `as_json`."""
        rows = tuple(ShiftErrors(**row) for row in tree["rows"])
        return cls(tree["normals"], tree["anomalies"], tuple(tree["trained"]), rows)
