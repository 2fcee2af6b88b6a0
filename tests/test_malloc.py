"""A single malloc arena of glibc for all threads."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys, threading
from vqlab.malloc import keep_freed_memory, use_one_arena
if sys.argv[1] == "keep":
    assert keep_freed_memory()
ctypes.create_string_buffer(2**26)
if sys.argv[1] == "one":
    assert use_one_arena()
def work(): ctypes.create_string_buffer(1000)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
sys.stdout.flush()
ctypes.CDLL("libc.so.6").malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_threads_share_the_main_arena() -> None:
    arenas = {}
    for mode in ("default", "one"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True
        )
        arenas[mode] = done.stderr.count("Arena ")
    assert arenas["one"] == 1 < arenas["default"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_large_tensors_are_not_mapped_separately() -> None:
    mapped = {}
    for mode in ("default", "keep"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True
        )
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("max mmap bytes"))
        mapped[mode] = int(line.split("=")[1])
    assert mapped["keep"] < 2**26 <= mapped["default"]
