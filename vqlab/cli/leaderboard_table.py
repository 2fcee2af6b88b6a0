"""The leaderboard as a table, and a summary of runs that differ only in their seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import yaml

from vqlab.cli.columns import Column, fitted_table
from vqlab.cli.fit_width import FittedTable
from vqlab.cli.metric_tables import AUDITED, split_of
from vqlab.cli.progress import settings_text
from vqlab.metrics import METRICS, Ranking, headlines, less_is_better, metric_title, rate_counts

if TYPE_CHECKING:
    from vqlab.tracking import RunRecord

_FIRST = ("features.backbone", "data.image_size", "preset", "training.epochs", "training.seed")
"""Settings shown before others."""
_NOT_SHOWN = {
    "data.root", "data.good", "data.bad", "data.categories", "data.memory_mib", "detector.name",
    "features.cache", "training.device", "training.threads", "training.validate_every",
}  # fmt: skip
"""Settings of the execution, not of the model."""
_BY_RANK = sorted(headlines(2), key=lambda name: METRICS[name].headline)
"""Metrics of the columns, most important first."""
_SEEDS = [name for name in _BY_RANK if isinstance(METRICS[name], Ranking)]
_NO_SETTINGS = {"training.seed", "training.device", "training.threads"}
"""Settings in which runs of one seed group may differ."""


@dataclass(frozen=True)
class Row:
    """A run of the leaderboard."""

    run: RunRecord
    champion: bool
    settings: dict[str, Any]
    """Settings in which rows of the same category and detector differ."""

    @property
    def category(self) -> str:
        return self.run.tags.get("vqlab.category", self.run.experiment)

    @property
    def detector(self) -> str:
        return self.run.tags.get("vqlab.detector", self.run.name)

    @property
    def data(self) -> str:
        """Source and fingerprint of the data, and that of the test images if validation uses some
        of them: rows that differ here are not comparable."""
        tags = self.run.tags
        data = f"{tags.get('vqlab.data', '')} {tags.get('vqlab.data_fingerprint', '')[:8]}".strip()
        if self.run.params.get("data.validation.source") == "test":
            data += f", part {tags.get('vqlab.test_fingerprint', '')[:8]}"
        return data

    @property
    def warned(self) -> bool:
        return "vqlab.audit" in self.run.tags


@dataclass(frozen=True)
class Board:
    """The first rows of `total`, best by `metric` first."""

    rows: list[Row]
    total: int
    metric: str

    def table(self, width: int) -> FittedTable:
        """Return the table for a terminal of `width` characters, baselines below the runs."""
        rows, baselines = self.rows, self._baselines()
        every = [*rows, *baselines]
        columns = [Column("run", [_id(row) for row in rows] + ["baseline"] * len(baselines))]
        detectors = [row.detector for row in rows] + ["mean_image"] * len(baselines)
        columns.append(Column("detector", detectors))
        categories = [row.category + " ⚠" * row.warned for row in every]
        if len(set(categories)) > 1:
            columns.append(Column("category", categories))
        if self._several_data():
            columns.append(Column("data", [row.data for row in every], wraps=True))
        columns += self._figures(baselines)
        texts = [settings_text(_short(row.settings)) for row in rows] + [""] * len(baselines)
        if any(texts):
            columns.append(Column("differs in", texts, wraps=True))
        names = [row.run.name for row in rows] + ["no-learning baseline"] * len(baselines)
        columns.append(Column("name", names, rank=30))
        styles = ["bold green" if row.champion else "" for row in rows] + ["dim"] * len(baselines)
        notes = ["★ champion"] * any(row.champion for row in rows)
        notes += [AUDITED] * any(row.warned for row in every)
        return fitted_table(self._title(), columns, width, styles, "\n".join(notes))

    def _several_data(self) -> bool:
        """Return whether rows of one category were measured on different images."""
        return len({(row.category, row.data) for row in self.rows}) > len(
            {row.category for row in self.rows}
        )

    def _title(self) -> str:
        order = "ascending" if less_is_better(self.metric) else "descending"
        shown = "" if self.total == len(self.rows) else f", {len(self.rows)} shown"
        lines = [f"{self.total} runs measured on test{shown}, sorted by {self.metric}, {order}"]
        categories = {row.category + " ⚠" * row.warned for row in self.rows}
        sources = {row.run.tags.get("vqlab.data", "") for row in self.rows}
        if len(categories) == 1:
            lines.append(f"category: {categories.pop()}")
            sources = {row.data for row in self.rows}
        if len(sources) == 1 and not self._several_data():
            lines.append(f"data: {sources.pop()}")
        return "\n".join(lines)

    def _figures(self, baselines: Sequence[Row]) -> list[Column]:
        """Return the columns of numbers: sorting metric, other metrics, run time, perplexity."""
        split, _, name = self.metric.rpartition("/")
        header = metric_title(name) if split == "test" else self.metric
        figures = [self._column(header.replace("/", "/ "), self.metric, baselines, 0)]
        for rank, name in enumerate(_BY_RANK, 1):
            if self.metric != f"test/{name}":
                figures.append(
                    self._column(metric_title(name), f"test/{name}", baselines, 2 * rank)
                )
        seconds = [row.run.duration for row in self.rows]
        cells = ["–" if value is None else f"{value:.0f}" for value in seconds]
        figures.append(Column("seconds", cells + ["–"] * len(baselines), rank=9, number=True))
        if self.metric != "codebook/perplexity":
            figures.append(self._column("perplexity", "codebook/perplexity", baselines, 20))
        return [column for column in figures if set(column.cells) != {"–"}]

    def _column(self, header: str, key: str, baselines: Sequence[Row], rank: int) -> Column:
        split, _, name = key.partition("/")
        below = f"test_mean_image/{name}" if split == "test" else ""
        cells = [_number(row.run.metrics, key) for row in self.rows]
        cells += [_number(row.run.metrics, below) for row in baselines]
        return Column(header, cells, rank, number=True)

    def _baselines(self) -> list[Row]:
        """Return the first row of each category and data that has baseline metrics."""
        first: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            if "test_mean_image/image_auroc" in row.run.metrics:
                first.setdefault((row.category, row.data), row)
        return list(first.values())


def make_board(
    runs: Sequence[RunRecord], total: int, metric: str, champions: Iterable[str] = ()
) -> Board:
    """Return the leaderboard of `runs`, in their order. champions: run IDs."""
    champions = set(champions)
    whole = [Row(run, _model(run) in champions, _settings(run)) for run in runs]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in whole:
        groups.setdefault((row.category, row.detector), []).append(row)
    differing = {
        key: {
            name
            for row in rows
            for name in row.settings
            if len({str(other.settings.get(name)) for other in rows}) > 1
        }
        for key, rows in groups.items()
    }
    rows = [
        Row(row.run, row.champion, _ordered(row.settings, differing[row.category, row.detector]))
        for row in whole
    ]
    return Board(rows, total, metric)


def _model(run: RunRecord) -> str:
    """Return the ID of the run that trained the model of `run`."""
    return run.tags.get("vqlab.model_run", run.run_id)


def _settings(run: RunRecord) -> dict[str, Any]:
    """Return the settings of a run's model, including those its sweep chose after training."""
    chosen = {key.removeprefix("vqlab."): value for key, value in run.tags.items()}
    texts = {key: chosen.get(key, value) for key, value in run.params.items()}
    settings = {key: _value(text) for key, text in texts.items() if key not in _NOT_SHOWN}
    if "vqlab.preset" in run.tags:
        settings["preset"] = run.tags["vqlab.preset"]
    if "vqlab.model_run" in run.tags:
        settings["evaluates"] = run.tags["vqlab.model_run"][:8]
    return settings


def _value(text: str) -> Any:
    """Parse a setting as MLflow stores it: a number, a list, or text."""
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        pass
    return yaml.safe_load(text) if text.startswith("[") else text


def _ordered(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    first = [name for name in _FIRST if name in names]
    rest = [name for name in settings if name in names and name not in first]
    return {name: settings[name] for name in [*first, *rest] if name in settings}


def _short(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten settings: join lists, keep the last part of a path."""
    return {
        key: "+".join(map(str, value))
        if isinstance(value, list)
        else Path(value).name
        if key == "features.weights"
        else value
        for key, value in settings.items()
    }


def _id(row: Row) -> str:
    return row.run.run_id[:8] + (" ★" if row.champion else "")


def _number(metrics: Mapping[str, float], key: str) -> str:
    """Format a metric, a rate with its counts of images."""
    if key not in metrics:
        return "–"
    if not key.startswith("test"):
        return f"{metrics[key]:.4g}"
    split, _, name = key.rpartition("/")
    count = rate_counts(split_of(metrics, split)).get(name)
    return f"{metrics[key]:.3f}" + (f" ({count})" if count else "")


def seeds_table(records: Sequence[RunRecord], width: int) -> FittedTable | None:
    """Mean ± standard deviation of runs that differ only in `training.seed`; None without any."""
    groups: dict[tuple[object, ...], dict[str, RunRecord]] = {}
    for record in records:
        if "test/image_auroc" in record.metrics and "training.seed" in record.params:
            settings = {k: v for k, v in record.params.items() if k not in _NO_SETTINGS}
            key = (record.tags.get("vqlab.data_fingerprint", ""), *sorted(settings.items()))
            groups.setdefault(key, {}).setdefault(record.params["training.seed"], record)
    several = [by_seed for by_seed in groups.values() if len(by_seed) > 1]
    if not several:
        return None
    firsts = [next(iter(by_seed.values())) for by_seed in several]
    warned = [any("vqlab.audit" in run.tags for run in by.values()) for by in several]
    categories = [run.tags.get("vqlab.category", "") for run in firsts]
    columns = [
        Column("category", [c + " ⚠" * w for c, w in zip(categories, warned, strict=True)]),
        Column("detector", [run.tags.get("vqlab.detector", "") for run in firsts], rank=9),
        Column("seeds", [" ".join(sorted(by, key=int)) for by in several], wraps=True),
    ]
    for rank, name in enumerate(_SEEDS, 1):
        values = [[run.metrics.get(f"test/{name}") for run in by.values()] for by in several]
        cells = [_spread(each) for each in values]
        columns.append(Column(metric_title(name), cells, rank, number=True))
    runs = [" ".join(run.run_id[:8] for run in by.values()) for by in several]
    columns.append(Column("runs", runs, rank=10, wraps=True))
    title = "same settings, several seeds"
    return fitted_table(title, columns, width, caption=AUDITED if any(warned) else "")


def _spread(values: Sequence[float | None]) -> str:
    defined = [value for value in values if value is not None]
    return f"{mean(defined):.3f} ± {stdev(defined):.3f}" if len(defined) > 1 else "–"
