"""Rollback: restore an earlier champion of a category."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from vqlab.errors import UserError
from vqlab.tracking import Tracker, Version, user_name


@dataclass(frozen=True)
class Rollback:
    """The champion after a rollback."""

    version: int
    run_id: str
    reason: str
    """One sentence."""


def rollback(tracker: Tracker, category: str, to: int | None = None) -> Rollback:
    """Restore an earlier champion: the previous one, or version `to`.

    Repeated rollbacks go further back: a version that was rolled back is skipped. Raises UserError
    if there is no such version, or its checkpoint cannot be used.
    """
    registry = tracker.registry
    with registry.lock():
        champion = registry.by_alias(category)
        if champion is None:
            raise registry.no_champion(category)
        target = _target(tracker, champion, to)
        try:
            registry.checkpoint(target)
        except UserError as error:
            message = f"version {target.version} of {category} cannot be used: {error}"
            raise UserError(message) from None
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        rolled_back = {"at": time, "by": user_name(), "to": str(target.version)}
        registry.set_tags(
            champion, {f"vqlab.rolled_back_{key}": value for key, value in rolled_back.items()}
        )
        registry.set_tags(target, {"vqlab.restored_at": time})
        registry.set_champion(target, champion, back=True)  # last: a kill before changes nothing
    reason = (
        f"version {target.version} is the champion of {category} again; it replaces version "
        f"{champion.version}."
    )
    return Rollback(target.version, target.run_id, reason)


def _target(tracker: Tracker, champion: Version, to: int | None) -> Version:
    """Return the version to restore. Raises UserError, listing the others, if there is none."""
    category = champion.category
    versions = {version.version: version for version in tracker.registry.versions(category)}
    history = tracker.registry.history(category)
    choices = ", ".join(str(number) for number in sorted(versions) if number != champion.version)
    choose = f"choose a version with --to ({choices})" if choices else "promote another run instead"
    if to is None and len(history) < 2:
        raise UserError(
            f"category {category} has no champion before version {champion.version}; {choose}."
        )
    number = history[-2] if to is None else to
    if number == champion.version:
        raise UserError(f"version {number} is already the champion of {category}; {choose}.")
    if number not in versions:
        raise UserError(f"category {category} has no version {number}; {choose}.")
    return versions[number]
