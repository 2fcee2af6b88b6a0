"""Settings of the thread pools of the numerical libraries, read by them once, when they are loaded.

OpenMP's threads spin while they wait for work. Beside another busy process the spinning takes
several times the CPU time of the work itself; `OMP_WAIT_POLICY=passive` lets them sleep. It is read
by libgomp (the copies that torch and scikit-learn bundle on Linux, and the one numba links to) and
by LLVM's and Intel's OpenMP (torch on macOS and Windows), where it stands for `KMP_BLOCKTIME=0`.
`OPENBLAS_THREAD_TIMEOUT` does the same for the OpenBLAS inside numpy and scipy, whose threads are
not OpenMP's; its unit is the logarithm of clock cycles, 4 its least value.

`import vqlab` sets these before anything of the package imports torch or numpy, and processes that
are started from here inherit them. A variable that the user set is left alone. Where torch was
imported before vqlab, its OpenMP has read the environment already and nothing changes: set the
variable in the shell, or import vqlab first.
"""

from __future__ import annotations

import os

DEFAULTS = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""Environment variables and the values they get where the user set none."""
_SAME = {"OMP_WAIT_POLICY": ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
"""Variables by which a user may have decided the same thing."""
VARIABLES = (*DEFAULTS, *(name for names in _SAME.values() for name in names))
"""All environment variables that decide how threads wait."""


def set_defaults() -> None:
    """Set `DEFAULTS` in the environment of this process, where the user decided nothing."""
    for name, value in DEFAULTS.items():
        if not any(other in os.environ for other in _SAME.get(name, ())):
            os.environ.setdefault(name, value)


def requested_threads() -> int | None:
    """Return the number of threads that the user asked for by OMP_NUM_THREADS; None where unset.

    OpenMP takes a list, a number for each level of nesting; the first one counts here.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None
