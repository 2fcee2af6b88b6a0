"""Memory allocation of the C library."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8
_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1
"""Parameters of mallopt(3) in glibc."""


def use_one_arena() -> bool:
    """Let all threads allocate from glibc's main arena; return whether that succeeded.

    Other arenas return the memory of large tensors to the system after each use, so that it is
    mapped and zeroed again: scoring in a thread takes a fifth more time than in the main thread.
    Must be called before threads are started. Does nothing with another C library.
    """
    return _mallopt((_M_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Let the process reuse the memory of freed tensors; return whether that succeeded.

    By default a tensor of more than 32 MiB is mapped for itself, and its pages are zeroed at every
    allocation: up to a quarter of the time of a training step, which repeatedly frees and allocates
    the same sizes. Freed memory is not returned to the system before the process ends. Does nothing
    with another C library.
    """
    return _mallopt((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1))


def _mallopt(*parameters: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([bool(mallopt(name, value)) for name, value in parameters])
