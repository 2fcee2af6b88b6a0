"""Memory allocation of the C library."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
"""Parameter of mallopt(3) in glibc."""


def use_one_arena() -> bool:
    """Let all threads allocate from glibc's main arena; return whether that succeeded.

    Other arenas return the memory of large tensors to the system after each use, so that it is
    mapped and zeroed again: scoring in a thread takes a fifth more time than in the main thread.
    Must be called before threads are started. Does nothing with another C library.
    """
    try:
        return bool(ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 1))
    except (OSError, AttributeError):
        return False
