"""Wait policy of OpenMP threads: set by `import vqlab` unless the user has set it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqlab.openmp import VARIABLES, requested_threads


def environment(**set_by_user: str) -> dict[str, str]:
    others = {k: v for k, v in os.environ.items() if k not in VARIABLES and k != "OMP_NUM_THREADS"}
    return {**others, **set_by_user}


def python(program: str, **set_by_user: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env=environment(**set_by_user), check=True,
        capture_output=True, text=True,
    )  # fmt: skip


def wait_variables(**set_by_user: str) -> dict[str, str]:
    """Return the environment variables of a process that imported vqlab."""
    program = (
        "import sys, os, json, vqlab; assert not {'torch', 'numpy'} & set(sys.modules)\n"
        f"print(json.dumps({{n: os.environ[n] for n in {VARIABLES} if n in os.environ}}))"
    )
    variables: dict[str, str] = json.loads(python(program, **set_by_user).stdout)
    return variables


def test_waiting_threads_sleep() -> None:
    assert wait_variables() == {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}


@pytest.mark.parametrize(
    ("name", "value", "policy"),
    [
        ("OMP_WAIT_POLICY", "active", "active"),
        ("GOMP_SPINCOUNT", "1000", None),
        ("KMP_BLOCKTIME", "200", None),
        ("OPENBLAS_THREAD_TIMEOUT", "20", "passive"),
    ],
)
def test_variables_set_by_the_user_are_not_changed(
    name: str, value: str, policy: str | None
) -> None:
    variables = wait_variables(**{name: value})
    assert variables[name] == value and variables.get("OMP_WAIT_POLICY") == policy


def bundled_libgomp() -> list[Path]:
    torch = importlib.util.find_spec("torch")
    assert torch is not None and torch.origin is not None
    package = Path(torch.origin).parent
    bundled = [*package.glob("lib/libgomp*"), *package.parent.glob("*.libs/libgomp*")]
    return sorted(bundled)


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is bundled on Linux only")
def test_bundled_openmp_libraries_use_the_setting() -> None:
    libraries = bundled_libgomp()
    if not libraries:
        pytest.skip("torch and scikit-learn bundle no libgomp here")
    load = f"import ctypes\nfor path in {[str(p) for p in libraries]}: ctypes.CDLL(path)"
    before = python(load, OMP_DISPLAY_ENV="verbose").stderr
    assert "GOMP_SPINCOUNT = '0'" not in before, "threads sleep by default"
    after = python(f"import vqlab\n{load}", OMP_DISPLAY_ENV="verbose").stderr
    assert after.count("OMP_WAIT_POLICY = 'PASSIVE'") == len(libraries), libraries
    assert after.count("GOMP_SPINCOUNT = '0'") == len(libraries), libraries


@pytest.mark.parametrize(
    ("value", "threads"), [("3", 3), (" 4,2", 4), ("", None), ("0", None), ("many", None)]
)
def test_requested_threads(
    value: str, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert requested_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert requested_threads() is None
