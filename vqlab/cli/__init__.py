"""Command line: each command parses its options, calls one package and prints.

To start fast, only the module of the called command is imported, and heavy libraries are imported
inside the commands.
"""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import sys
import warnings
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from vqlab.cli.options import RENAMED
from vqlab.cli.processes import is_main_process
from vqlab.errors import UserError
from vqlab.text import visible_lines

app = typer.Typer(
    name="vqlab",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: drawing it with rich would double its time
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Vector-quantised detectors of visual defects: train on normal images, compare, select "
    "on validation, promote, predict.\n\nSettings are dotted paths in recipes, on the command line "
    "and in sweeps: `vqlab train vqvae training.epochs=10 detector.codebook_size=256`.",
)


def _version(print_version: bool) -> None:
    if print_version:
        from vqlab.version import __version__

        typer.echo(f"vqlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


data_app = typer.Typer(no_args_is_help=True, help="Check, show and generate datasets.")
app.add_typer(data_app, name="data")

_COMMANDS = {
    "train": ("train", "config", "settings"),
    "sweep": ("sweep",),
    "benchmark": ("benchmark", "reproduce"),
    "worker": ("worker",),
    "models": ("predict", "evaluate"),
    "champions": ("promote", "history", "rollback"),
    "threshold": ("threshold",),
    "export": ("export",),
    "serve": ("serve",),
    "watch": ("watch",),
    "feedback": ("feedback",),
    "leaderboard": ("leaderboard",),
    "compare": ("compare",),
    "runs": ("runs",),
    "studies": ("studies",),
    "ui": ("ui",),
    "dashboard": ("dashboard",),
    "correlate": ("correlate",),
    "data": ("data",),
    "cache": ("data",),
    "doctor": ("doctor",),
}
"""Modules in the order of `vqlab --help`, and the commands that each adds to `app`."""
FULL_COLLECTION = 200
"""Collections of the second generation between two full ones (Python's default: 10). A full one
visits all objects; while torch and MLflow are imported, these take a fifth of the CPU time."""


def load_commands(command: str | None = None) -> typer.Typer:
    """Return `app` with this command; with all commands if None or unknown."""
    modules = [module for module, commands in _COMMANDS.items() if command in commands]
    for module in modules or _COMMANDS:
        import_module(f"vqlab.cli.{module}")
    return app


def main() -> NoReturn:
    """Run the command line. A UserError is printed as one sentence to stderr, with status 2."""
    _print_renamed(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that the encoding lacks
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    os.environ.setdefault("MPLBACKEND", "Agg")
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTION)
    atexit.register(_freeze)
    try:
        load_commands(next(iter(sys.argv[1:]), None))(standalone_mode=True)
    except UserError as error:
        _exit(str(error), 2)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            file = error.filename or "the file being written"
            _exit(f"disk full while writing {file}; free some space and re-run the command.", 2)
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            _exit(f"permission denied: {error.filename}; change its permissions or the path.", 2)
        raise
    raise SystemExit(0)


def _freeze() -> None:
    """Exclude all objects from the collections with which Python ends, 0.4 CPU-s after torch was
    imported, unless these close SQLite databases: MLflow leaves its connections open."""
    if "sqlite3" not in sys.modules:
        gc.freeze()


_default_showwarning = warnings.showwarning


def _show_warning(
    message: Warning | str, category: type[Warning], *arguments: Any, **keywords: Any
) -> None:
    """Print a warning of vqlab as one sentence, and others as Python does."""
    if category.__module__.partition(".")[0] == "vqlab":
        print(f"vqlab: warning: {visible_lines(str(message))}", file=sys.stderr)
    else:
        _default_showwarning(message, category, *arguments, **keywords)


def _print_renamed(arguments: list[str]) -> None:
    """Print the new names of renamed options and commands in the arguments."""
    command = " ".join(arguments[:1])
    options = [each.partition("=")[0] for each in arguments if each.startswith("--")]
    for name in (command, " ".join(arguments[:2]), *options):
        new = RENAMED.get(name) or RENAMED.get(f"{command} {name}")
        if new and is_main_process():
            text = f"vqlab: {name} is now called {new}; the old name will be removed."
            print(text, file=sys.stderr)


def _exit(sentence: str, status: int) -> NoReturn:
    sys.stdout.flush()
    if is_main_process():  # all processes of a distributed training end with the same sentence
        print(f"vqlab: {visible_lines(sentence)}", file=sys.stderr)
    raise SystemExit(status)
