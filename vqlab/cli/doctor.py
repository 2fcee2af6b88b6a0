"""`vqlab doctor`: check the machine for problems."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import Data, Tracking

if TYPE_CHECKING:
    from vqlab.cli.fit_width import FittedTable
    from vqlab.doctor import Finding

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@app.command(short_help="Check this machine for problems.")
def doctor(
    data: Data = None,
    full: Annotated[
        bool, typer.Option("--full", help="Query the GPU with PyTorch (takes seconds).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Check Python, packages, cores, memory, disk, threads, GPU, hub, weights, data, stores, cache
    and ports, without creating or downloading anything.

    Exit status: 1 if something essential does not work.
    """
    from vqlab.doctor import run_checks

    findings = run_checks(mlruns, data, full)
    failed = any(finding.state == "error" for finding in findings)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        typer.echo(json.dumps({"ok": not failed, "findings": rows}, indent=2))
    else:
        from vqlab.cli.terminal import marked, out

        out.print(_table(findings))
        for finding in findings:
            if finding.advice:
                style = _STYLES[finding.state]
                advice = marked(finding.state, style, f": {finding.name}: {finding.advice}")
                out.print(advice, soft_wrap=not out.is_terminal)
        if not failed:
            out.print(marked("No errors found", "bold green"))
    if failed:
        raise typer.Exit(1)


def _table(findings: list[Finding]) -> FittedTable:
    from vqlab.cli.fit_width import Column, FittedTable, Row

    columns = [Column(name, text=True) for name in ("", "state", "value")]
    rows = [
        Row([each.name, each.state, each.value], "" if each.state == "ok" else _STYLES[each.state])
        for each in findings
    ]
    return FittedTable("vqlab doctor", columns, rows)
