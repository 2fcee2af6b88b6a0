"""A command imports only its own module."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer.main

from vqlab.cli import load_commands

PROGRAM = """
import os, sys
import typer.main
from vqlab.cli import load_commands

for name in sys.argv[1:]:
    process = os.fork()
    if not process:  # a fresh process would import typer each time
        group = typer.main.get_group(load_commands(name))
        print(name, name in group.commands, "vqlab.cli.dashboard" in sys.modules, flush=True)
        os._exit(0)
    os.waitpid(process, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_command_imports_its_module_only() -> None:
    names = list(typer.main.get_group(load_commands()).commands)
    names.remove("dashboard")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names, "trian"], capture_output=True, text=True, check=True
    )
    expected = [f"{name} True False" for name in names]
    assert done.stdout.splitlines() == [*expected, "trian False True"]
