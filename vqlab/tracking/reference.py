"""References to runs: IDs, unique ID prefixes and names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqlab.errors import UserError
from vqlab.tracking.record import RunRecord

_SHORTEST_PREFIX = 4
"""Minimum length of an ID prefix."""


def match_run(reference: str, records: Sequence[RunRecord]) -> RunRecord | None:
    """Return the run that a reference names; None if there is none.

    reference: a name, one of `other_names`, or the prefix of an ID, in this order. Raises UserError
    if several runs match.
    """
    for matches in (
        [r for r in records if r.name == reference],
        [r for r in records if reference in other_names(r.tags)],
        [r for r in records if _is_prefix(reference, r.run_id)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = ", ".join(f"{r.run_id[:12]} ({r.status}, {r.start:%F %T})" for r in matches)
            raise UserError(
                f"{reference!r} is ambiguous; {len(matches)} runs match: {listed}; give a run ID."
            )
    return None


def no_such_run(reference: str, records: Sequence[RunRecord], root: Path) -> UserError:
    """Return the error that no run of the store in `root` matches, with similar or latest runs."""
    if not records:
        return UserError(f"there is no run {reference!r}; {root} contains no runs.")
    names_of = {r.run_id: {r.name} | other_names(r.tags) for r in records}
    names = difflib.get_close_matches(reference, set().union(*names_of.values()), n=5)
    near = [r for r in records if names_of[r.run_id] & set(names)][:5]
    label = "similar runs" if near else "latest runs"
    listed = ", ".join(r.short for r in near or records[:5])
    return UserError(f"there is no run {reference!r}; {label}: {listed}.")


def other_names(tags: Mapping[str, str]) -> set[str]:
    """Return additional names of a run: the study's name, study and trial number
    (`cable-vqvae-1a2b3c4d-003`), or detector and category (`vqvae-cable`)."""
    study, detector = tags.get("vqlab.study", ""), tags.get("vqlab.detector", "")
    names = {
        "study": study,
        "trial": f"{study}-{int(tags.get('vqlab.trial', '0')):03d}",
        "train": f"{detector}-{tags.get('vqlab.category', '')}",
    }
    name = names.get(tags.get("vqlab.kind", ""), "")
    return {name} if name else set()


def _is_prefix(reference: str, run_id: str) -> bool:
    return len(reference) >= _SHORTEST_PREFIX and run_id.startswith(reference)
