"""The error for invalid input, in a module without heavy imports."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Invalid input, described in one sentence: who must be what; got what; what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class ScoreError(UserError):
    """The anomaly map or score of an image is not finite."""

    def __init__(self) -> None:
        super().__init__(
            "the scores of an image must be finite numbers; got NaN or infinity: the model is "
            "damaged; train it again."
        )


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return `did you mean cable?` for the closest of `names` to `word`; empty if none is close."""
    by_lower = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"did you mean {by_lower[matches[0]]}?" if matches else ""
