"""Whether more or less of a metric is better, by its key."""

from __future__ import annotations

import re

_LESS = re.compile(
    r"(.*_)?(loss|nll|error|rate|seconds|time|dead_codes|dead|clipped|gradient_norm)(_low|_high)?"
)
"""Names of metrics, without split and category, of which less is better: losses, costs and shares
of wrong decisions."""


def less_is_better(key: str) -> bool:
    """Return whether less of a metric such as `test/escape_rate` or `train/loss` is better.

    Every key under `train/` is a term of the loss, or the size of its gradient.
    """
    split, _, name = key.rpartition("/")
    return split == "train" or bool(_LESS.fullmatch(name))
