"""Commands of vqlab, in this process and in others, which are forked from a server that has
imported vqlab.

Imports take longer than most tests do in a process. Use `sys.executable` if the start of a process
is tested: its imports, its environment, its entry point.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SECONDS = 400
"""How long to wait for a process; much longer than any takes."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["vqlab.cli", "vqlab.run", "vqlab.sweep", "vqlab.predict", "vqlab.promote"]
    + ["torch._dynamo"]  # imported by the first optimizer
)


def ensure_server() -> None:
    """Start the server of this process unless it is running."""
    with pytest.MonkeyPatch.context() as patch:  # libraries read these variables on import
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        multiprocessing.forkserver.ensure_running()


class Result(NamedTuple):
    """Exit status and output of a process."""

    status: int
    stdout: str
    stderr: str


class ForkedProcess:
    """A process that calls a function; the leader of a new process group.

    function: must be importable, so not a local one. cwd: its working directory. It inherits the
    environment of this process.
    """

    def __init__(self, function: Callable[..., Any], *arguments: object, cwd: Path) -> None:
        self._result: Result | None = None
        self._folder = Path(tempfile.mkdtemp())
        self._files = [self._folder / name for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        environment = {**os.environ, **ENVIRONMENT}
        ensure_server()
        call = (function, arguments, cwd, environment, self._files)
        self._process = CONTEXT.Process(target=_call, args=call)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def is_running(self) -> bool:
        return self._process.is_alive()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds while the process is running."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert self.is_running() and time.monotonic() < deadline, self._printed()
            time.sleep(0.02)

    def stdout(self) -> str:
        """Return the standard output so far."""
        return self._files[0].read_text()

    def first_line(self) -> str:
        """Wait for the first line of the standard output."""
        self.wait_until(lambda: "\n" in self.stdout())
        return self.stdout().partition("\n")[0]

    def kill(self) -> Result:
        """Kill the process group, as `kill -9` does, unless the process has ended."""
        if self.is_running():
            os.killpg(self.pid, signal.SIGKILL)
        return self.result()

    def result(self) -> Result:
        """Wait for the process to end; return its result."""
        if self._result is None:
            self._process.join(SECONDS)
            assert self._process.exitcode is not None, f"still running after {SECONDS} s"
            self._result = Result(self._process.exitcode, *self._printed())
            shutil.rmtree(self._folder)
        return self._result

    def _printed(self) -> tuple[str, str]:
        stdout, stderr = (file.read_text() for file in self._files)
        return stdout, stderr


def call(*arguments: object, answer: str = "", status: int = 0) -> str:
    """Run `vqlab ARGUMENTS` in this process and return its output; errors are raised.

    answer: standard input for its prompts. status: the expected exit status.
    """
    from typer.testing import CliRunner

    from vqlab.cli import load_commands

    words = [str(each) for each in arguments]
    result = CliRunner().invoke(load_commands(), words, input=answer, catch_exceptions=False)
    assert result.exit_code == status, (words, result.output)
    return result.output


def refusal(*arguments: object) -> str:
    """Run `vqlab ARGUMENTS` in this process, which must raise UserError; return its message."""
    from vqlab.errors import UserError

    with pytest.raises(UserError) as refused:
        call(*arguments)
    return str(refused.value)


def start_command(*arguments: object, cwd: Path) -> ForkedProcess:
    """Start `vqlab ARGUMENTS` in a process."""
    return ForkedProcess(_command, *arguments, cwd=cwd)


def run_command(*arguments: object, cwd: Path, status: int = 0) -> Result:
    """Run `vqlab ARGUMENTS`, which must exit with this status."""
    result = start_command(*arguments, cwd=cwd).result()
    assert result.status == status, result.stdout + result.stderr
    return result


def start_program(program: str, *arguments: object, cwd: Path) -> ForkedProcess:
    """Start `python -c PROGRAM ARGUMENTS`."""
    return ForkedProcess(_program, program, *arguments, cwd=cwd)


def _command(*arguments: object) -> None:
    from vqlab.cli import main

    sys.argv = ["vqlab", *map(str, arguments)]
    main()


def _program(program: str, *arguments: object) -> None:
    sys.argv = ["-c", *map(str, arguments)]
    exec(compile(program, "program", "exec"), {"__name__": "__main__"})


def _call(
    function: Callable[..., Any], arguments: tuple[object, ...], cwd: Path,
    environment: dict[str, str], files: list[Path],
) -> None:  # fmt: skip
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for file, descriptor in zip(files, (1, 2), strict=True):
        os.dup2(os.open(file, os.O_WRONLY), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
    os.chdir(cwd)
    function(*arguments)
