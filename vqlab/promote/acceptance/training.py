"""Training facts of a model: data, user, code, settings."""

from __future__ import annotations

import csv
from collections import Counter
from typing import Any

from vqlab.config import dump, flatten
from vqlab.errors import UserError
from vqlab.html_page import escape, paragraph, table
from vqlab.run import THRESHOLD_OF, resolve
from vqlab.text import category_text
from vqlab.tracking import RunRecord, Version

_SPLITS = "data/splits.csv"


def training_facts(record: RunRecord, version: Version | None) -> dict[str, str]:
    """Return facts on the training of a run as markup, by name; empty where unknown."""
    tags = record.tags
    commit = tags.get("mlflow.source.git.commit", "")
    if tags.get("vqlab.git_dirty") == "true":
        commit += " with uncommitted changes"
    study = tags.get("vqlab.study", "")
    if study and "vqlab.trial" in tags:
        study += f", trial {tags['vqlab.trial']}"
    machine = [tags.get(f"vqlab.{key}", "") for key in ("device", "cpu")]
    packages = [f"{key} {tags[f'vqlab.{key}']}" for key in ("python", "torch")
                if f"vqlab.{key}" in tags]  # fmt: skip
    facts = {
        "run": f"{record.name} ({record.run_id})",
        "thresholds moved from run": tags.get(THRESHOLD_OF, ""),
        "study": study,
        "started": f"{record.start:%Y-%m-%d %H:%M} UTC{_seconds(record)}",
        "started by": tags.get("mlflow.user", ""),
        "detector": ", ".join(
            tags[key] for key in ("vqlab.detector", "vqlab.backbone") if key in tags
        ),
        "categories": category_text(record.categories),
        "data": tags.get("vqlab.data", ""),
        "images": _images(record),
        "data fingerprint": tags.get("vqlab.data_fingerprint", ""),
        "test fingerprint": tags.get("vqlab.test_fingerprint", ""),
        "validation": tags.get("vqlab.validation", ""),
        "seed": tags.get("vqlab.seed", ""),
        "processes": tags.get("vqlab.processes", ""),
        "preset": tags.get("vqlab.preset", ""),
        "code": commit or f"installed package, version {tags.get('vqlab.version', 'unknown')}",
        "packages": ", ".join([f"vqlab {tags.get('vqlab.version', '?')}", *packages]),
        "machine": ", ".join(filter(None, machine)),
        "checkpoint SHA-256": version.tags.get("vqlab.checkpoint_sha256", "") if version else "",
    }
    return {name: escape(text) for name, text in facts.items() if text}


def _seconds(record: RunRecord) -> str:
    return f", {record.duration:.0f} s" if record.duration is not None else ""


def _images(record: RunRecord) -> str:
    """Return e.g. `120 train, 19 held out, 57 validation, 88 test`."""
    try:
        with record.artifact(_SPLITS).open(newline="", encoding="utf-8") as file:
            counts = Counter(row["split"] for row in csv.DictReader(file))
    except (UserError, KeyError, ValueError):
        return ""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def settings_table(record: RunRecord) -> str:
    """Return the settings of a run that differ from the defaults of its detector."""
    try:
        changed = changed_settings(record.config())
    except UserError:  # of an older version
        changed = {name: (value, "") for name, value in record.params.items()}
    if not changed:
        return paragraph("None.")
    rows = [[escape(name), escape(_text(value)), escape(_text(default))]
            for name, (value, default) in changed.items()]  # fmt: skip
    return table(("setting", "value", "default"), rows, "settings")


def changed_settings(tree: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return value and default of each setting that differs, by path. Raises UserError if the
    settings are invalid."""
    config = resolve(tree)
    default = resolve({"detector": {"name": config.detector["name"]}})
    values, defaults = flatten(dump(config)), flatten(dump(default))
    return {
        name: (value, defaults.get(name))
        for name, value in values.items()
        if value != defaults.get(name)
    }


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
