"""Tables: metrics, runs, trials, predictions, the check of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from rich.table import Table

from vqlab.cli.data_tables import audit_table as audit_table
from vqlab.cli.data_tables import check_table as check_table
from vqlab.cli.data_tables import prediction_table as prediction_table
from vqlab.cli.metric_tables import AUDITED, HEADLINES
from vqlab.cli.metric_tables import comparison_tables as comparison_tables
from vqlab.cli.metric_tables import figures_table as figures_table
from vqlab.cli.metric_tables import report_table as report_table
from vqlab.cli.metric_tables import thresholds_text as thresholds_text
from vqlab.cli.progress import out
from vqlab.cli.trial_tables import recipes_table as recipes_table
from vqlab.cli.trial_tables import tested_table as tested_table
from vqlab.cli.trial_tables import trials_table as trials_table

if TYPE_CHECKING:
    from vqlab.tracking import RunRecord


def say_notes(notes: Sequence[str]) -> None:
    """What is to be known of the figures above: what is undefined, not promised, or may flatter."""
    for note in notes:
        out.print(f"note: {note}", soft_wrap=not out.is_terminal)


def _explain(table: Table, warned: bool) -> None:
    """The footnote of ⚠ where it is in the table."""
    if warned:
        table.caption, table.caption_justify = AUDITED, "left"


def seeds_table(records: Sequence[RunRecord]) -> Table | None:
    """Mean ± standard deviation of runs that differ in `training.seed` alone; None without any."""
    shown = ["image_auroc", "pixel_auroc", "pixel_ap", "aupro"]
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for record in records:
        if "test/image_auroc" in record.metrics and "training.seed" in record.params:
            settings = {k: v for k, v in record.params.items() if k not in _NO_SETTINGS}
            data = record.tags.get("vqlab.data_fingerprint", "")
            key = (data, record.tags.get("vqlab.category", ""), *sorted(settings.items()))
            groups.setdefault(key, []).append(record)
    table = Table(title="the same settings with several seeds", title_justify="left")
    for column in ("runs", "category", "seeds"):
        table.add_column(column)
    for metric in shown:
        table.add_column(HEADLINES[metric], justify="right")
    for (_, category, *_), runs in groups.items():
        by_seed = {run.params["training.seed"]: run for run in runs}
        if len(by_seed) > 1:
            names = ", ".join(run.run_id[:8] for run in by_seed.values())
            warned = any("vqlab.audit" in run.tags for run in runs)
            category = f"{category} ⚠" if warned else category
            _explain(table, warned)
            cells = [_spread([r.metrics.get(f"test/{m}") for r in by_seed.values()]) for m in shown]
            table.add_row(names, str(category), ", ".join(sorted(by_seed, key=int)), *cells)
    return table if table.row_count else None


_NO_SETTINGS = {"training.seed", "training.device", "training.threads"}
"""What two runs of the same settings may differ in."""


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.3f} ± {stdev(known):.3f}" if len(known) > 1 else "–"


def leaderboard_table(records: Sequence[RunRecord], limit: int) -> Table:
    """Runs with test metrics in the order given; the baseline of their data stands beside."""
    shown = ["image_auroc", "pixel_auroc", "pixel_ap", "aupro"]
    measured = [r for r in records if any(f"test/{key}" in r.metrics for key in shown)]
    table = Table(title=f"{len(measured)} runs measured on test", title_justify="left")
    for column in ("run", "name", "category", "data"):
        table.add_column(column)
    for key in shown:
        table.add_column(HEADLINES[key], justify="right")
    table.add_column("perplexity", justify="right")
    baselines: dict[tuple[str, str], RunRecord] = {}
    for record in measured[:limit]:
        tags = record.tags
        data = tags.get("vqlab.data_fingerprint", "")[:8]
        if record.params.get("data.validation.source") == "test":
            data += f", part {tags.get('vqlab.test_fingerprint', '')[:8]}"
        category = tags.get("vqlab.category", record.experiment)
        if "vqlab.audit" in tags:
            category += " ⚠"
            _explain(table, True)
        if "test_mean_image/image_auroc" in record.metrics:
            baselines.setdefault((category, data), record)
        perplexity = record.metrics.get("codebook/perplexity")
        table.add_row(
            record.run_id[:8], record.name, category, f"{tags.get('vqlab.data', '')} {data}",
            *_cells({k: v for k, v in _split(record.metrics, "test").items()}, shown),
            "–" if perplexity is None else f"{perplexity:.0f}",
        )  # fmt: skip
    for (category, data), record in baselines.items():
        cells = _cells(_split(record.metrics, "test_mean_image"), shown)
        table.add_row("", "mean_image (no learning)", category, data, *cells, "–", style="dim")
    return table


def _cells(metrics: Mapping[str, float], keys: Sequence[str]) -> list[str]:
    return [f"{metrics[key]:.3f}" if key in metrics else "–" for key in keys]


def _split(metrics: Mapping[str, float], split: str) -> dict[str, float]:
    start = f"{split}/"
    return {key[len(start) :]: value for key, value in metrics.items() if key.startswith(start)}
