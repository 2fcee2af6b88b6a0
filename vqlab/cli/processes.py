"""Verbs under torchrun: several processes of one command, of which the first alone speaks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vqlab.errors import UserError

_PATIENCE = 60.0
"""Seconds that the others give the first process to say what is wrong."""


def several() -> bool:
    """Whether torchrun started this process as one of several."""
    started = "TORCHELASTIC_RUN_ID" in os.environ
    return started and int(os.environ.get("WORLD_SIZE", "1")) > 1


def first() -> bool:
    """Whether this process speaks for all: the first one, or the only one."""
    return not several() or os.environ.get("RANK", "0") == "0"


def alone(verb: str, instead: str) -> None:
    """Raise UserError under torchrun: the verb is not for several processes of one command."""
    if not several():
        return
    if not first():
        time.sleep(_PATIENCE)  # torchrun ends all as soon as one ends: the first speaks before
    raise UserError(
        f"`vqlab {verb}` must be one process; torchrun started {os.environ['WORLD_SIZE']}, "
        f"which only `vqlab train` can be; {instead}."
    )


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that torchrun started are one group; one process stays as it is."""
    if not several():
        yield
        return
    from vqlab.nn import distributed

    try:
        with distributed.process_group():
            yield
    except KeyboardInterrupt:
        if first():
            raise
        raise SystemExit(130) from None
