"""Rollback: an earlier champion of a category becomes the champion again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from vqlab.errors import UserError
from vqlab.tracking import Tracker, Version


@dataclass(frozen=True)
class Rollback:
    """The champion after a rollback."""

    version: int
    run_id: str
    reason: str
    """One sentence."""


def rollback(tracker: Tracker, category: str, to: int | None = None) -> Rollback:
    """Make an earlier champion the champion again: the one before in the history, or version `to`.

    Going back again goes further back: a version that was rolled back is not taken again. Raises
    UserError if there is no such version, or its checkpoint cannot be used.
    """
    registry = tracker.registry
    present = registry.at(category)
    if present is None:
        raise registry.no_champion(category)
    target = _target(tracker, present, to)
    try:
        registry.checkpoint(target)
    except UserError as error:
        raise UserError(f"version {target.version} of {category} cannot be used: {error}") from None
    registry.crown(target, present, back=True)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    registry.set_tags(
        present, {"vqlab.rolled_back_at": now, "vqlab.rolled_back_to": str(target.version)}
    )
    registry.set_tags(target, {"vqlab.restored_at": now})
    reason = (
        f"version {target.version} is the champion of {category} again, instead of version "
        f"{present.version}."
    )
    return Rollback(target.version, target.run_id, reason)


def _target(tracker: Tracker, present: Version, to: int | None) -> Version:
    """Return the version to go back to. Raises UserError, listing the others, if there is none."""
    category = present.category
    versions = {version.version: version for version in tracker.registry.versions(category)}
    history = tracker.registry.history(category)
    others = ", ".join(str(number) for number in sorted(versions) if number != present.version)
    choose = f"choose a version with --to ({others})" if others else "promote another run instead"
    if to is None and len(history) < 2:
        raise UserError(
            f"category {category} has no champion before version {present.version} to go back to; "
            f"{choose}."
        )
    number = history[-2] if to is None else to
    if number == present.version:
        raise UserError(f"version {number} is the champion of {category} already; {choose}.")
    if number not in versions:
        raise UserError(f"category {category} has no version {number}; {choose}.")
    return versions[number]
