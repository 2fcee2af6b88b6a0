"""Commands started by torchrun: several processes, of which only rank 0 prints."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vqlab.errors import UserError

_TIMEOUT = 60.0
"""Seconds that other ranks wait for rank 0 to print an error."""


def is_distributed() -> bool:
    """Return whether torchrun started several processes."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    """Return whether this is rank 0 or the only process."""
    return not is_distributed() or os.environ.get("RANK", "0") == "0"


def require_single_process(command: str, instead: str) -> None:
    """Raise UserError if torchrun started several processes. instead: what to do."""
    if not is_distributed():
        return
    if not is_main_process():
        time.sleep(_TIMEOUT)  # torchrun stops all as soon as one exits
    raise UserError(
        f"`vqlab {command}` must run in one process; torchrun started {os.environ['WORLD_SIZE']}. "
        f"Only `vqlab train` supports torchrun; {instead}."
    )


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes of a torchrun launch; do nothing in a single process."""
    if not is_distributed():
        yield
        return
    from vqlab.nn import distributed

    try:
        with distributed.process_group():
            yield
    except KeyboardInterrupt:
        if is_main_process():
            raise
        raise SystemExit(130) from None
