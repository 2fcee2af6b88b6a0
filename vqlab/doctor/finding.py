"""What one check says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What there is, and where that is too little: what would not work and what to do."""

    name: str
    value: str
    state: State = "ok"
    """`error`: something essential would not work."""
    advice: str = ""
    """One line; empty where the state is `ok`."""


def amount(size: float) -> str:
    """Return a number of bytes in GiB."""
    return f"{size / 2**30:.1f} GiB"
