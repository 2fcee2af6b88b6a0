"""Tables: metrics, runs, trials, predictions, the check of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from rich.table import Table

from vqlab.cli.progress import out, settings_text

if TYPE_CHECKING:
    from vqlab.compare import Comparison
    from vqlab.data import CategoryAudit, CheckReport
    from vqlab.evaluation import Report
    from vqlab.model import Model
    from vqlab.predict import PredictedFile
    from vqlab.sweep import SweepResult
    from vqlab.tracking import RunRecord

HEADLINES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1max",
    "aupro": "AUPRO",
    "false_reject_rate": "false rejects",
    "escape_rate": "escapes",
}


AUDITED = (
    "⚠ here a trivial statistic of the images separates test normals from test defects, so image "
    "metrics may flatter (vqlab data audit): judge by pixel metrics."
)
"""Footnote of the category of a run whose data audit warns."""


def report_table(
    title: str, rows: Sequence[tuple[str, Report]], promised: float | None = None
) -> Table:
    """Metrics of several reports, a column each (per category and their mean where several).

    promised: the share of false rejects that their thresholds promise, all categories together.
    """
    columns: dict[str, Mapping[str, float]] = {}
    for name, report in rows:
        marks = {c: " ⚠" if c in report.warned else "" for c in report.per_category}
        if len(marks) > 1:
            each = report.per_category.items()
            columns |= {f"{name} {c}{marks[c]}": metrics for c, metrics in each}
            name += " mean"
        columns[name + max(marks.values(), default="")] = _with_intervals(report)
    told = {} if promised is None else {"false_reject_rate": f"\n(promised ≤ {promised:.3f})"}
    return _metrics_table(title, columns, told)


def figures_table(
    title: str, rows: Mapping[str, tuple[Mapping[str, float], str]], warned: bool = False
) -> Table:
    """Metric keys such as `test/aupro`, a column per (metrics, split).

    warned: the data audit warns of the test images.
    """
    marks = {
        split: " ⚠" if warned and split.startswith("test") else "" for _, split in rows.values()
    }
    columns = {
        name + marks[split]: _split(figures, split) for name, (figures, split) in rows.items()
    }
    return _metrics_table(title, columns)


def say_notes(notes: Sequence[str]) -> None:
    """What is to be known of the figures above: what is undefined, not promised, or may flatter."""
    for note in notes:
        out.print(f"note: {note}")


def _metrics_table(
    title: str,
    columns: Mapping[str, Mapping[str, float]],
    told: Mapping[str, str] | None = None,
) -> Table:
    """told: by metric, what to say behind its name."""
    table = Table(title=title, title_justify="left")
    _explain(table, any("⚠" in name for name in columns))
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for key, words in HEADLINES.items():
        cells = [_cell(metrics, key) for metrics in columns.values()]
        if set(cells) != {"–"}:
            table.add_row(words + (told or {}).get(key, ""), *cells)
    return table


def _explain(table: Table, warned: bool) -> None:
    """The footnote of ⚠ where it is in the table."""
    if warned:
        table.caption, table.caption_justify = AUDITED, "left"


def _with_intervals(report: Report) -> dict[str, float]:
    """The mean metrics, and as `…_low` and `…_high` their 95 % intervals where there are any."""
    keyed = report.keyed("")
    return {key[1:]: value for key, value in keyed.items() if key.count("/") == 1}


def _cell(metrics: Mapping[str, float], key: str) -> str:
    if key not in metrics:
        return "–"
    if f"{key}_low" not in metrics:
        return f"{metrics[key]:.3f}"
    return f"{metrics[key]:.3f} [dim]{metrics[f'{key}_low']:.2f}–{metrics[f'{key}_high']:.2f}[/]"


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


def prediction_table(rows: Sequence[PredictedFile], model: Model) -> Table:
    """Score and verdict of every file."""
    title = f"{model.category}: threshold {model.thresholds.image:.4g}"
    table = Table(title=title, title_justify="left")
    for column in ("file", "score", "verdict"):
        table.add_column(column, justify="right" if column == "score" else "left")
    for row in rows:
        verdict = "[red]defect[/]" if row.prediction.defect else "[green]good[/]"
        table.add_row(str(row.path), f"{row.prediction.score:.4g}", verdict)
    return table


def check_table(report: CheckReport) -> None:
    """The check's rows, then every warning and error on a line of its own."""
    table = Table(title=f"{report.root} ({report.source})", title_justify="left")
    for column in ("category", "train", "test good", "test defects", "masks", "size", "published"):
        table.add_column(
            column, justify="right" if column[:4] in ("trai", "test", "mask") else "left"
        )
    for row in report.rows:
        counts = (str(count) for count in row.counts)
        table.add_row(row.category, *counts, str(row.masks), row.sizes, row.published)
    out.print(table)
    for warning in report.warnings:
        out.print(f"[yellow]warning[/]: {warning}")
    for error in report.errors:
        out.print(f"[red]error[/]: {error}")


def audit_table(rows: Sequence[CategoryAudit], statistics: Mapping[str, str]) -> None:
    """How well each statistic (name → words) separates the test set, a row per category, then
    every warning on a line of its own."""
    title = "image AUROC of trivial statistics (↑ ↓: defects have higher, lower values)"
    table = Table(title=title, title_justify="left")
    table.add_column("category")
    for words in statistics.values():
        table.add_column(words, justify="right")
    for row in rows:
        cells = [_audit_cell(row, name) for name in statistics]
        table.add_row(row.category + (" ⚠" if row.warnings else ""), *cells)
    out.print(table)
    for row in rows:
        for warning in row.warnings:
            out.print(f"[yellow]warning[/]: {warning}")


def _audit_cell(row: CategoryAudit, name: str) -> str:
    if name not in row.aurocs:
        return "–"
    cell = f"{row.aurocs[name]:.3f} {'↑' if row.higher[name] else '↓'}"
    return f"[bold yellow]{cell}[/]" if name in row.warned else cell


def trials_table(result: SweepResult) -> Table:
    """Every trial of a study: recipe where there are several, state, value, seconds, settings."""
    table = Table(title=f"study {result.study}", title_justify="left")
    several = ["recipe"] if result.best.recipe else []
    words = result.objective.partition("/")[2].replace("_", " ")
    for column in ("trial", *several, "state", words, "s"):
        table.add_column(column, justify="left" if column in several else "right")
    table.add_column("settings")
    for row in result.trials:
        value = "–" if row.value is None else f"{row.value:.4f}"
        seconds = "–" if row.seconds is None else f"{row.seconds:.0f}"
        params = {key: row.params[key] for key in row.params if key not in several}
        text = settings_text(params) + (f" ({row.reason})" if row.reason else "")
        style = "bold green" if row.number == result.best.number else ""
        named = [row.recipe for _ in several]
        table.add_row(str(row.number), *named, row.state, value, seconds, text, style=style)
    return table


def tested_table(result: SweepResult) -> Table:
    """Validation against test, of every trial that was scored on test, and for what it was."""
    table = Table(title="validation → test, of the trials scored on test", title_justify="left")
    own = result.objective.partition("/")[2]
    names = list(dict.fromkeys((own, "image_auroc", "pixel_auroc", "aupro")))
    for column in ("trial", "for", "run", *(HEADLINES.get(name, name) for name in names)):
        table.add_column(column, justify="left" if column in ("for", "run") else "right")
    for trial in result.tested:
        pairs = (
            (trial.validation.get(f"validation/{n}"), trial.test.get(f"test/{n}")) for n in names
        )
        cells = [" → ".join("–" if v is None else f"{v:.4f}" for v in pair) for pair in pairs]
        style = "bold green" if trial.number == result.best.number else ""
        of = f"{trial.number} ({trial.recipe})" if trial.recipe else str(trial.number)
        table.add_row(of, trial.why, trial.run_id[:8], *cells, style=style)
    return table


def recipes_table(result: SweepResult) -> Table:
    """What became of each recipe of a study: trials, its best one, seconds of a complete trial."""
    words = result.objective.partition("/")[2].replace("_", " ")
    table = Table(title="the recipes, each at its best on validation", title_justify="left")
    for column in ("recipe", "trials", "complete", words, "trial", "run", "s per trial"):
        table.add_column(column, justify="left" if column in ("recipe", "run") else "right")
    for recipe, best in result.recipes.items():
        rows = [row for row in result.trials if row.recipe == recipe]
        done = [row for row in rows if row.state == "COMPLETE"]
        seconds = [row.seconds for row in done if row.seconds is not None]
        cells = ["–", "–", "–", "–"]
        if best is not None:
            cells = [f"{best.value:.4f}", str(best.number), str(best.run_id)[:8]]
            cells.append(f"{mean(seconds):.0f}" if seconds else "–")
        style = "bold green" if recipe == result.best.recipe else ""
        table.add_row(recipe, str(len(rows)), str(len(done)), *cells, style=style)
    return table


def comparison_tables(comparison: Comparison) -> list[Table]:
    """For every category each headline metric of both runs, the difference and how sure it is."""
    from vqlab.compare import MEAN

    tables = []
    for category, differences in comparison.differences.items():
        warned = category in comparison.warned or (category == MEAN and bool(comparison.warned))
        table = Table(title=category + " ⚠" * warned, title_justify="left")
        _explain(table, warned)
        table.add_column("")
        for run in (comparison.first, comparison.second):
            table.add_column(f"{run.name} ({run.run_id[:8]})", justify="right")
        table.add_column("difference, 95 % interval", justify="right")
        table.add_column("p", justify="right")
        for key, words in HEADLINES.items():
            if key in differences:
                found = differences[key]
                low, high = found.interval
                style = "bold" if not low <= 0 <= high else ""
                pair = (f"{value:.3f}" for value in comparison.values[category][key])
                moved = f"{found.value:+.3f}  [{low:+.3f}, {high:+.3f}]"
                table.add_row(words, *pair, moved, f"{found.p:.3f}", style=style)
        tables.append(table)
    return tables
