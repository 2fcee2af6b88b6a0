"""Build the acceptance report of a decision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from vqlab.errors import UserError
from vqlab.evaluation import Thresholds
from vqlab.html_page import definitions, escape, page, paragraph, table
from vqlab.promote.acceptance.figures import category_table, metrics_table
from vqlab.promote.acceptance.pictures import test_pictures
from vqlab.promote.acceptance.training import settings_table, training_facts
from vqlab.promote.check import thresholds_of
from vqlab.promote.gates.gate import STATUSES, Gate, summary
from vqlab.promote.provenance import Decision
from vqlab.text import folder_name, shell_word
from vqlab.tracking.errors import probe, user_errors

_FOLDER = "acceptance"
_STYLE = """
:root{--good:#197f48;--bad:#c81e2c;--warn:#8f4d00}
@media screen and (prefers-color-scheme:dark){:root{--good:#5fd08f;--bad:#ff9191;--warn:#f0b35a}}
body{max-width:1100px}
.passed,.promoted{color:var(--good)}.failed,.refused{color:var(--bad)}.warning{color:var(--warn)}
.not{color:var(--muted)}.status{font-weight:600}
.decision{border-left:4px solid;padding:.2rem .8rem;margin:.8rem 0}
.decision p{color:var(--ink)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin:.4rem 0;
font-size:15px}
dt{color:var(--muted)}dd{margin:0;overflow-wrap:anywhere;min-width:0}
table.gates,table.settings{white-space:normal;width:100%}
table.gates td:nth-child(-n+4){white-space:nowrap}
pre{background:var(--best);padding:.6rem .8rem;overflow-x:auto;font-size:14px}
.pictures img{background:#fff;border-radius:3px}
@media screen and (max-width:760px){
dl{grid-template-columns:1fr;gap:0}dt{margin-top:.4rem}
table.gates thead{display:none}table.gates tr{display:block;padding:.4rem 0;
border-bottom:1px solid var(--line)}
table.gates td{display:block;border:0;padding:.05rem 0;white-space:normal!important}
table.gates td:empty{display:none}table.gates td:first-child{font-weight:600}
table.gates td:nth-child(3):before,table.gates td:nth-child(4):before{content:attr(data-head) ": ";
color:var(--muted)}
}
@media print{dl{font-size:11px}pre{font-size:11px;white-space:pre-wrap}}
"""


def require_space(folder: Path) -> None:
    """Raise UserError unless a report can be written to `folder`."""
    probe(folder / _FOLDER)


def write_page(page: str, decision: Decision, folder: Path) -> Path:
    """Write the page to `folder/acceptance/<category>-v<version>.html`, or `…-refused.html`.

    Raises UserError if it cannot be written; an earlier report is then unchanged.
    """
    end = f"v{decision.version.version}" if decision.version else "refused"
    file = folder / _FOLDER / f"{folder_name(decision.category)}-{end}.html"
    partial = file.with_name(f".{file.name}.part")
    with user_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(page, encoding="utf-8", errors="backslashreplace")
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
    return file


def acceptance_page(decision: Decision, champion: Mapping[str, float]) -> str:
    """Return the page. champion: the champion's test metrics on the same images, by key."""
    record, category = decision.record, decision.category
    title = f"Acceptance report: {category}"
    if decision.version is not None:
        title += f", version {decision.version.version}"
    try:
        thresholds = thresholds_of(record)
    except UserError:
        thresholds = None
    number = decision.champion.version if decision.champion else None
    champion_name = f"champion (version {number})"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _decision(decision),
        "<h2>Gates</h2>",
        paragraph(f"{summary(decision.gates)}.", "muted"),
        _gates(decision.gates),
        "<h2>Test metrics, with 95 % intervals</h2>",
        metrics_table(record, champion, champion_name),
        category_table(record),
        "<h2>Thresholds</h2>" + _thresholds(thresholds) if thresholds else "",
        "<h2>Training</h2>",
        definitions(training_facts(record, decision.version)),
        "<h3>Settings that differ from the defaults</h3>",
        settings_table(record),
        test_pictures(record),
        _notes(record.tags.get("vqlab.audit", ""), thresholds),
        _rollback(decision),
    ]
    return page(title, "\n".join(part for part in parts if part), style=_STYLE)


def _decision(decision: Decision) -> str:
    style = "promoted" if decision.version is not None else "refused"
    word = "Promoted" if decision.version is not None else "Not promoted"
    at = f"{datetime.fromisoformat(decision.at):%Y-%m-%d %H:%M} UTC"
    return (
        f'<div class="decision {style}"><strong>{word}</strong>{paragraph(decision.reason)}'
        f"{paragraph(f'Decided {at} by {decision.by}.', 'muted')}</div>"
    )


def _gates(gates: tuple[Gate, ...]) -> str:
    order = sorted(gates, key=lambda gate: STATUSES.index(gate.status))
    rows = [
        [
            escape(gate.name),
            f'<span class="status {gate.status}">{escape(gate.status)}</span>',
            escape(gate.measured),
            escape(gate.required),
            escape(gate.sentence),
        ]
        for gate in order
    ]
    return table(("gate", "result", "measured", "limit", ""), rows, "gates")


def _thresholds(thresholds: Thresholds) -> str:
    calibration = thresholds.calibration
    promised = thresholds.promised
    return definitions(
        {
            "image threshold": escape(f"{thresholds.image:.6g}: images above it are rejected"),
            "review": escape(f"above {thresholds.review:.6g}") if thresholds.review else "",
            "pixel threshold": escape(f"{thresholds.pixel:.6g}"),
            "method": escape(thresholds.method or "unknown"),
            "target false-reject rate": escape(f"at most {promised:.3g}") if promised else "none",
            "chosen on": escape(f"{calibration.count} normal images") if calibration else "",
        }
    )


def _notes(audit: str, thresholds: Thresholds | None) -> str:
    notes = [audit] if audit else []
    notes += thresholds.notes if thresholds else ()
    return "<h2>Notes</h2>" + "".join(map(paragraph, notes)) if notes else ""


def _rollback(decision: Decision) -> str:
    category = shell_word(decision.category)
    lines = [f"vqlab history {category}"]
    if decision.version is None:
        return f"<h2>Versions</h2><pre>{escape(lines[0])}</pre>"
    if decision.champion is not None:
        number = decision.champion.version
        lines.append(f"vqlab rollback -c {category}          # the previous champion")
        lines.append(f"vqlab rollback -c {category} --to {number}   # version {number}")
        text = f"This version replaced version {number}, which can be restored at any time."
    else:
        text = (
            "This version is the first champion of its category; there is no earlier one to "
            "restore."
        )
    commands = "\n".join(map(escape, lines))
    return f"<h2>How to roll back</h2>{paragraph(text)}<pre>{commands}</pre>"
