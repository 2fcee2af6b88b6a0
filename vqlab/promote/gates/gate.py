"""A gate: one requirement of a promotion, with its measured value and its limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vqlab.metrics import Interval

Status = Literal["passed", "failed", "warning", "not applicable"]
LimitKind = Literal["minimum", "maximum", "above", "below"]
"""`above` and `below` exclude the limit itself."""
_SIGNS: dict[LimitKind, str] = {"minimum": "≥", "maximum": "≤", "above": ">", "below": "<"}
STATUSES: tuple[Status, ...] = ("failed", "warning", "passed", "not applicable")


@dataclass(frozen=True)
class Gate:
    """The result of one gate."""

    name: str
    status: Status
    sentence: str
    """One sentence, without the measured value's interval and limit."""
    value: float | None = None
    interval: Interval | None = None
    """95 % interval of the value."""
    limit: float | None = None
    limit_is: LimitKind = "maximum"
    form: str = ".4g"
    """Format specification of value, interval and limit."""
    unit: str = ""
    comparison: bool = False
    """Whether the gate compares with the champion; `--force` overrides these."""

    @property
    def measured(self) -> str:
        """Value with its interval, e.g. `+0.0120 [-0.0030, +0.0270]`; empty without a value."""
        if self.value is None:
            return ""
        text = self._number(self.value)
        if self.interval is not None:
            text += f" [{self._number(self.interval.low)}, {self._number(self.interval.high)}]"
        return f"{text} {self.unit}".rstrip()

    @property
    def required(self) -> str:
        """Limit, e.g. `≥ -0.0200` or `> +0.0000`; empty without a limit."""
        if self.limit is None:
            return ""
        return f"{_SIGNS[self.limit_is]} {self._number(self.limit)} {self.unit}".rstrip()

    def _number(self, value: float) -> str:
        return format(value, self.form)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        tree = asdict(self)
        interval = self.interval and {"low": self.interval.low, "high": self.interval.high}
        return tree | {"interval": interval, "measured": self.measured, "required": self.required}


def failed(gates: Iterable[Gate], forced: bool = False) -> list[Gate]:
    """Return the failed gates; forced: without comparisons with the champion."""
    return [g for g in gates if g.status == "failed" and not (forced and g.comparison)]


def summary(gates: Sequence[Gate]) -> str:
    """Return e.g. `7 passed, 1 warning (code), 2 not applicable`."""
    parts = []
    for status in ("passed", "failed", "warning", "not applicable"):
        names = [gate.name for gate in gates if gate.status == status]
        if names:
            text = f"{len(names)} {status}"
            parts.append(
                f"{text} ({', '.join(names)})" if status in ("failed", "warning") else text
            )
    return ", ".join(parts) or "no gates"
