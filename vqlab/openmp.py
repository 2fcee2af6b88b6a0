"""Wait policy of the threads of numerical libraries.

OpenMP threads spin while they wait for work. If the cores are shared, spinning takes several times
the CPU time of the work itself; with `OMP_WAIT_POLICY=passive` they sleep. It is read by libgomp
(bundled with torch and scikit-learn on Linux, and linked by numba) and by the OpenMP of LLVM and
Intel (torch on macOS and Windows), where it means `KMP_BLOCKTIME=0`. `OPENBLAS_THREAD_TIMEOUT` does
the same for OpenBLAS in numpy and scipy (log2 of clock cycles, at least 4).

Libraries read these variables once, when they are loaded: `import vqlab` sets them before importing
torch or numpy, and child processes inherit them. They have no effect if torch was imported before.
Variables that the user set are not changed.
"""

from __future__ import annotations

import os

DEFAULTS = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""Environment variables and their values if the user sets none."""
_EQUIVALENT = {"OMP_WAIT_POLICY": ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
"""Other variables that set the same policy."""
VARIABLES = (*DEFAULTS, *(name for names in _EQUIVALENT.values() for name in names))
"""All environment variables that set how threads wait."""


def set_defaults() -> None:
    """Set `DEFAULTS` in the environment, except policies that the user set."""
    for name, value in DEFAULTS.items():
        if not any(variable in os.environ for variable in _EQUIVALENT.get(name, ())):
            os.environ.setdefault(name, value)


def requested_threads() -> int | None:
    """Return the number of threads in OMP_NUM_THREADS (the first one of a list); None if unset."""
    number = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(number) if number.isdigit() and int(number) > 0 else None
