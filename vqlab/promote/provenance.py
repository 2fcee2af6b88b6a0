"""The record of a promotion: tags and description of the version, gates as an artifact."""

from __future__ import annotations

import contextlib
import getpass
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from vqlab.config import dump
from vqlab.promote.comparison import MetricComparison, run_summary
from vqlab.promote.gates.gate import Gate, summary
from vqlab.promote.gates.settings import GateSettings
from vqlab.text import category_text, markdown
from vqlab.tracking import RunRecord, Tracker, Version

GATES = "acceptance/gates.json"
"""Artifact of a promoted run: the gates, their settings and the decision."""


@dataclass(frozen=True)
class Decision:
    """A promotion that all gates allow, or that `--force` does."""

    version: Version
    record: RunRecord
    champion: Version | None
    """The champion that is replaced."""
    comparison: MetricComparison
    reason: str
    gates: tuple[Gate, ...]
    settings: GateSettings
    reproduced: str
    """How closely a fresh process reproduces the scores."""


def log_decision(tracker: Tracker, decision: Decision) -> None:
    """Write the tags and the description of the version, and the artifact `GATES` of its run."""
    tags = _tags(decision)
    tracker.amend(decision.record.run_id).log_json(_as_json(decision, tags), GATES)
    tracker.registry.describe(decision.version, description(decision, tags))
    tracker.registry.set_tags(decision.version, tags)


def _tags(decision: Decision) -> dict[str, str]:
    """Return the tags of a promoted version."""
    record, comparison, champion = decision.record, decision.comparison, decision.champion
    return {
        "vqlab.promoted_from": record.run_id,
        "vqlab.metric": comparison.metric,
        "vqlab.metric_value": repr(comparison.value),
        "vqlab.champion_value": repr(comparison.champion_value),
        "vqlab.replaced": str(champion.version) if champion else "",
        "vqlab.data": record.tags["vqlab.data_fingerprint"],
        **run_summary(record),
        "vqlab.git_commit": record.tags.get("mlflow.source.git.commit", "unknown"),
        "vqlab.promoted_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "vqlab.promoted_by": user_name(),
        "vqlab.reason": decision.reason,
        "vqlab.reproduced": decision.reproduced,
        "vqlab.gates": summary(decision.gates),
    }


def user_name() -> str:
    """Return the name of the user that runs this process, or `unknown`."""
    with contextlib.suppress(Exception):
        return getpass.getuser()
    return "unknown"


def _as_json(decision: Decision, tags: dict[str, str]) -> dict[str, Any]:
    return {
        "category": category_text(decision.record.categories),
        "version": decision.version.version,
        "run_id": decision.record.run_id,
        "replaced": decision.champion.version if decision.champion else None,
        "reason": decision.reason,
        "promoted_at": tags["vqlab.promoted_at"],
        "promoted_by": tags["vqlab.promoted_by"],
        "settings": dump(decision.settings),
        "gates": [gate.as_json() for gate in decision.gates],
    }


def description(decision: Decision, tags: dict[str, str]) -> str:
    """Return the description of a version, in Markdown: reason, gates, data, rollback."""
    record = decision.record
    category = category_text(record.categories)
    lines = [
        f"{markdown(decision.reason)} Promoted {tags['vqlab.promoted_at']} by "
        f"{markdown(tags['vqlab.promoted_by'])}. Gates: {summary(decision.gates)}.",
        "",
        "| gate | result | measured, 95 % interval | limit | |",
        "|---|---|---|---|---|",
        *map(_row, decision.gates),
        "",
        f"Trained by run {markdown(record.name)} ({record.run_id}), detector "
        f"{markdown(record.tags.get('vqlab.detector', 'unknown'))}, data "
        f"{tags['vqlab.data'][:12]}, commit {tags['vqlab.git_commit'][:12]}.",
        "",
        f"Roll back: `vqlab rollback -c {category.replace('`', '')}`. All versions: "
        f"`vqlab history {category.replace('`', '')}`. Gates with their settings: artifact "
        f"`{GATES}` of the run.",
    ]
    return "\n".join(lines)


def _row(gate: Gate) -> str:
    status = gate.status if gate.status in ("passed", "not applicable") else f"**{gate.status}**"
    cells = (gate.name, status, gate.measured, gate.required, markdown(gate.sentence))
    return f"| {' | '.join(cells)} |"
