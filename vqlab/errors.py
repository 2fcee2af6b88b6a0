"""The error for mistakes of users, in a module without heavy imports."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user, in one sentence: what must be what; the value; what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return `did you mean cable?` for the closest of `names` to `word`; empty if none is close."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[near[0]]}?" if near else ""
