"""Result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """Value found by a check, with advice unless the state is `ok`."""

    name: str
    value: str
    state: State = "ok"
    """`error`: something essential does not work."""
    advice: str = ""
    """One line: what does not work and what to do."""


def gibibytes(size: float) -> str:
    """Return a number of bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"
