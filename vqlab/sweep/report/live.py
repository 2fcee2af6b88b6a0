"""Annotate studies for optuna-dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import optuna

from vqlab.sweep.report.copies import quiet
from vqlab.text import visible


def annotate(
    study: optuna.Study, objectives: Sequence[str], dataset: str, links: Mapping[str, str]
) -> None:
    """Name the objectives of a new study, and save a note with dataset, directions and links.

    links: addresses by title. A study with named objectives is not changed, so that a note edited
    by a user is preserved.
    """
    if study.metric_names is not None:
        return
    goals = [
        f"`{name}` ({'higher' if direction.name == 'MAXIMIZE' else 'lower'} is better)"
        for name, direction in zip(objectives, study.directions, strict=True)
    ]
    pages = " · ".join(f"[{title}](<{address}>)" for title, address in links.items())
    note = (
        f"Dataset: `{visible(dataset).replace('`', chr(39))}`\n\n"
        f"Objective: {', '.join(goals)}\n\n"
        f"In the MLflow UI: {pages}"
    )
    with quiet():
        with suppress(ModuleNotFoundError):  # optuna-dashboard may be missing
            from optuna_dashboard import save_note

            save_note(study, note)
        study.set_metric_names(list(objectives))
