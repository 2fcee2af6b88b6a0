"""The versions of a category: when and why each became champion, and which one replaced it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vqlab.promote.comparison import champion_run
from vqlab.tracking import Tracker, Version

State = Literal["champion", "previous", "former", "rolled back", "registered"]


@dataclass(frozen=True)
class VersionRecord:
    """A registered version. Texts are empty where an older vqlab did not record them."""

    version: int
    state: State
    """`previous`: what `rollback` restores; `former`: an earlier champion; `registered`: never a
    champion."""
    run_id: str
    run: str
    """Name of the run, or `version <number>` if it was deleted."""
    promoted_at: str
    """ISO 8601."""
    promoted_by: str
    replaced: int | None
    """Version that was champion before; None for the first champion."""
    metric: str
    value: float | None
    champion_value: float | None
    """Value of the version that was replaced, on the same data."""
    gates: str
    """Summary of the gates."""
    reason: str
    rolled_back_at: str = ""
    rolled_back_by: str = ""
    rolled_back_to: int | None = None
    restored_at: str = ""


def history(tracker: Tracker, category: str) -> list[VersionRecord]:
    """Return the versions of a category, newest first. Raises UserError if there are none."""
    registry = tracker.registry
    versions = registry.versions(category)
    if not versions:
        raise registry.no_champion(category)
    champions = registry.history(category)
    replaced = {_integer(version.tags.get("vqlab.replaced", "")) for version in versions}
    return [_record(tracker, each, _state(each, champions, replaced)) for each in versions]


def _state(version: Version, champions: list[int], replaced: set[int | None]) -> State:
    """Return the state of a version. champions: in order; replaced: versions that a promotion
    replaced."""
    number = version.version
    if champions[-1:] == [number]:
        return "champion"
    if champions[-2:-1] == [number]:
        return "previous"
    if number in champions:
        return "former"
    if "vqlab.rolled_back_at" in version.tags:
        return "rolled back"
    return "former" if number in replaced else "registered"


def _record(tracker: Tracker, version: Version, state: State) -> VersionRecord:
    tags, number = version.tags, version.version
    run = tracker.get(version.run_id) or champion_run(tracker, version)
    if state == "registered":  # its promotion was interrupted
        tags = {}
    return VersionRecord(
        version=number,
        state=state,
        run_id=version.run_id,
        run=run.name if run else f"version {number}",
        promoted_at=tags.get("vqlab.promoted_at", ""),
        promoted_by=tags.get("vqlab.promoted_by", ""),
        replaced=_integer(tags.get("vqlab.replaced", "")),
        metric=tags.get("vqlab.metric", ""),
        value=_number(tags.get("vqlab.metric_value", "")),
        champion_value=_number(tags.get("vqlab.champion_value", "")),
        gates=tags.get("vqlab.gates", ""),
        reason=tags.get("vqlab.reason", ""),
        rolled_back_at=tags.get("vqlab.rolled_back_at", ""),
        rolled_back_by=tags.get("vqlab.rolled_back_by", ""),
        rolled_back_to=_integer(tags.get("vqlab.rolled_back_to", "")),
        restored_at=tags.get("vqlab.restored_at", ""),
    )


def _integer(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
