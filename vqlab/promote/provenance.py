"""The record of a promotion: tags and description of the version, gates as an artifact."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from vqlab.config import dump
from vqlab.promote.comparison import MetricComparison, run_summary
from vqlab.promote.gates.gate import Gate, summary
from vqlab.promote.gates.settings import GateSettings
from vqlab.text import category_text, markdown
from vqlab.tracking import RunRecord, Tracker, Version, user_name

GATES = "acceptance/gates.json"
"""Artifact of a promoted run: the gates, their settings and the decision."""
REPORT = "acceptance/report.html"
"""Artifact of a promoted run: its acceptance report."""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Decision:
    """A promotion or its refusal."""

    record: RunRecord
    champion: Version | None
    """The champion to compare with and to replace."""
    comparison: MetricComparison
    reason: str
    gates: tuple[Gate, ...]
    settings: GateSettings
    version: Version | None = None
    """The new champion; None if it was refused."""
    reproduced: str = ""
    """How closely a fresh process reproduces the scores."""
    at: str = field(default_factory=_now)
    by: str = field(default_factory=user_name)

    @property
    def category(self) -> str:
        return category_text(self.record.categories)


def log_promotion(tracker: Tracker, decision: Decision, version: Version, page: str) -> None:
    """Write the tags and the description of the new champion, and the artifacts `GATES` and
    `REPORT` of its run. page: the acceptance report."""
    amended = tracker.amend(decision.record.run_id)
    amended.log_json(_as_json(decision, version), GATES)
    amended.log_text(page, REPORT)
    tracker.registry.describe(version, description(decision))
    tracker.registry.set_tags(version, _tags(decision))


def _tags(decision: Decision) -> dict[str, str]:
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
        "vqlab.promoted_at": decision.at,
        "vqlab.promoted_by": decision.by,
        "vqlab.reason": decision.reason,
        "vqlab.reproduced": decision.reproduced,
        "vqlab.gates": summary(decision.gates),
    }


def _as_json(decision: Decision, version: Version) -> dict[str, Any]:
    return {
        "category": decision.category,
        "version": version.version,
        "run_id": decision.record.run_id,
        "replaced": decision.champion.version if decision.champion else None,
        "reason": decision.reason,
        "promoted_at": decision.at,
        "promoted_by": decision.by,
        "settings": dump(decision.settings),
        "gates": [gate.as_json() for gate in decision.gates],
    }


def description(decision: Decision) -> str:
    """Return the description of a version, in Markdown: reason, gates, data, rollback."""
    record, category = decision.record, decision.category.replace("`", "")
    tags = {key: markdown(tag) for key, tag in _tags(decision).items()}
    lines = [
        f"{markdown(decision.reason)} Promoted {decision.at} by {markdown(decision.by)}. "
        f"Gates: {summary(decision.gates)}.",
        "",
        "| gate | result | measured, 95 % interval | limit | |",
        "|---|---|---|---|---|",
        *map(_row, decision.gates),
        "",
        f"Trained by run {markdown(record.name)} ({record.run_id}), detector "
        f"{markdown(record.tags.get('vqlab.detector', 'unknown'))}, data "
        f"{tags['vqlab.data'][:12]}, commit {tags['vqlab.git_commit'][:12]}.",
        "",
        f"Roll back: `vqlab rollback -c {category}`. All versions: `vqlab history {category}`. "
        f"Acceptance report and gates: artifacts `{REPORT}` and `{GATES}` of the run.",
    ]
    return "\n".join(lines)


def _row(gate: Gate) -> str:
    status = gate.status if gate.status in ("passed", "not applicable") else f"**{gate.status}**"
    unbroken = [text.replace(" ", "\u00a0") for text in (status, gate.measured, gate.required)]
    return f"| {' | '.join((gate.name, *unbroken, markdown(gate.sentence)))} |"
