"""The leaderboard as a table, and a summary of runs that differ only in their seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqlab.cli.fit_width import Column, FittedTable, from_columns
from vqlab.cli.metric_tables import AUDIT_NOTE
from vqlab.cli.progress import settings_text
from vqlab.metrics import (
    METRICS,
    Ranking,
    headlines,
    lower_is_better,
    metric_title,
    of_split,
    rate_counts,
)
from vqlab.tracking.run_settings import differing, mean_and_deviation, run_settings, seed_groups

if TYPE_CHECKING:
    from vqlab.tracking import RunRecord

_BY_RANK = sorted(headlines(2), key=lambda name: METRICS[name].headline)
"""Metrics of the columns, most important first."""


@dataclass(frozen=True)
class Row:
    """A run of the leaderboard."""

    run: RunRecord
    champion: bool
    settings: dict[str, Any]
    """Settings in which rows of the same category and detector differ."""
    baseline: bool = False
    """Whether the row shows the run's baseline without learning."""

    @property
    def category(self) -> str:
        return self.run.tags.get("vqlab.category", self.run.experiment)

    @property
    def title(self) -> str:
        """The category, marked if its test images have a data-audit warning."""
        return self.category + " ⚠" * self.warned

    @property
    def detector(self) -> str:
        if self.baseline:
            return "mean_image"
        return self.run.tags.get("vqlab.detector", self.run.name)

    @property
    def data(self) -> str:
        """Source and fingerprint of the data, and the fingerprint of the test images if validation
        uses some of them: rows with different values are not comparable."""
        tags = self.run.tags
        data = f"{tags.get('vqlab.data', '')} {tags.get('vqlab.data_fingerprint', '')[:8]}".strip()
        if self.run.params.get("data.validation.source") == "test":
            data += f", part {tags.get('vqlab.test_fingerprint', '')[:8]}"
        return data

    @property
    def warned(self) -> bool:
        return "vqlab.audit" in self.run.tags

    def metric(self, key: str) -> str:
        """Format a metric, a rate with its counts of images."""
        split, _, name = key.rpartition("/")
        if self.baseline:
            split = f"{split}_mean_image"
            key = f"{split}/{name}"
        metrics = self.run.metrics
        if key not in metrics:
            return "–"
        if not split.startswith("test"):
            return f"{metrics[key]:.4g}"
        count = rate_counts(of_split(metrics, split)).get(name)
        return f"{metrics[key]:.3f}" + (f" ({count})" if count else "")


@dataclass(frozen=True)
class Board:
    """The first rows of `total`, best by `metric` first."""

    rows: list[Row]
    total: int
    metric: str

    def table(self) -> FittedTable:
        """Return the table, baselines below the runs."""
        rows = [*self.rows, *self._baselines()]
        text = Column("", text=True, unbroken=True)
        ids = ["baseline" if r.baseline else r.run.run_id[:8] + " ★" * r.champion for r in rows]
        columns = [
            (replace(text, header="run"), ids),
            (replace(text, header="detector"), [row.detector for row in rows]),
        ]
        if len({row.title for row in rows}) > 1:
            columns.append((replace(text, header="category"), [row.title for row in rows]))
        if self._several_datasets():
            columns.append((Column("data", text=True), [row.data for row in rows]))
        columns += self._numbers(rows)
        settings = [settings_text(_short(row.settings)) for row in rows]
        if any(settings):
            columns.append((Column("differs in", text=True), settings))
        names = ["no-learning baseline" if row.baseline else row.run.name for row in rows]
        columns.append((replace(text, header="name", rank=30), names))
        styles = ["dim" if r.baseline else "bold green" if r.champion else "" for r in rows]
        notes = ["★ champion"] * any(row.champion for row in rows)
        notes += [AUDIT_NOTE] * any(row.warned for row in rows)
        return from_columns(self._title(), columns, styles, "\n".join(notes))

    def _several_datasets(self) -> bool:
        """Return whether rows of one category were measured on different images."""
        datasets = {(row.category, row.data) for row in self.rows}
        return len(datasets) > len({row.category for row in self.rows})

    def _title(self) -> str:
        order = "ascending" if lower_is_better(self.metric) else "descending"
        limited = "" if self.total == len(self.rows) else f", {len(self.rows)} shown"
        runs = "1 run" if self.total == 1 else f"{self.total} runs"
        lines = [f"{runs} measured on test{limited}, sorted by {self.metric}, {order}"]
        titles = {row.title for row in self.rows}
        sources = {row.run.tags.get("vqlab.data", "") for row in self.rows}
        if len(titles) == 1:
            lines.append(f"category: {titles.pop()}")
            sources = {row.data for row in self.rows}
        if len(sources) == 1 and not self._several_datasets():
            lines.append(f"data: {sources.pop()}")
        return "\n".join(lines)

    def _numbers(self, rows: Sequence[Row]) -> list[tuple[Column, list[str]]]:
        """Return columns: the metric to sort by, other metrics, run time, perplexity."""
        split, _, name = self.metric.rpartition("/")
        title = metric_title(name) if split == "test" else self.metric.replace("/", "/ ")
        metrics = {self.metric: (title, 0)}
        for rank, name in enumerate(_BY_RANK, 1):
            metrics.setdefault(f"test/{name}", (metric_title(name), 2 * rank))
        metrics.setdefault("codebook/perplexity", ("perplexity", 20))
        columns = [
            (Column(title, rank=rank), [row.metric(key) for row in rows])
            for key, (title, rank) in metrics.items()
        ]
        durations = [None if row.baseline else row.run.duration for row in rows]
        seconds = ["–" if value is None else f"{value:.0f}" for value in durations]
        columns.insert(-1, (Column("seconds", rank=9), seconds))
        return [(column, cells) for column, cells in columns if set(cells) != {"–"}]

    def _baselines(self) -> list[Row]:
        """Return a row for each category and dataset that has baseline metrics."""
        first: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            if "test_mean_image/image_auroc" in row.run.metrics:
                baseline = Row(row.run, champion=False, settings={}, baseline=True)
                first.setdefault((row.category, row.data), baseline)
        return list(first.values())


def make_board(
    runs: Sequence[RunRecord], total: int, metric: str, champions: Iterable[str] = ()
) -> Board:
    """Return the leaderboard of `runs`, in their order. champions: run IDs."""
    champions = set(champions)
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    rows = [
        Row(run, run.tags.get("vqlab.model_run", run.run_id) in champions, run_settings(run))
        for run in runs
    ]
    for row in rows:
        groups[row.category, row.detector].append(row)
    by_run = {
        row.run.run_id: replace(row, settings=settings)
        for group in groups.values()
        for row, settings in zip(group, differing([row.settings for row in group]), strict=True)
    }
    return Board([by_run[run.run_id] for run in runs], total, metric)


def _short(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the file name of the weights only."""
    return {k: Path(v).name if k == "features.weights" else v for k, v in settings.items()}


def seeds_table(records: Sequence[RunRecord]) -> FittedTable | None:
    """Return mean ± standard deviation of runs that differ only in `training.seed`; None if there
    are none."""
    by_seed = seed_groups([run for run in records if "test/image_auroc" in run.metrics])
    if not by_seed:
        return None
    runs = [list(group.values()) for group in by_seed]
    warned = [any("vqlab.audit" in run.tags for run in group) for group in runs]
    categories = [group[0].tags.get("vqlab.category", "") for group in runs]
    titles = [name + " ⚠" * mark for name, mark in zip(categories, warned, strict=True)]
    text = Column("", text=True, unbroken=True)
    columns = [
        (replace(text, header="category"), titles),
        (
            replace(text, header="detector", rank=9),
            [g[0].tags.get("vqlab.detector", "") for g in runs],
        ),
        (Column("seeds", text=True), [" ".join(sorted(group, key=int)) for group in by_seed]),
    ]
    names = [name for name in _BY_RANK if isinstance(METRICS[name], Ranking)]
    for rank, name in enumerate(names, 1):
        cells = [mean_and_deviation(group, f"test/{name}") for group in runs]
        columns.append((Column(metric_title(name), rank=rank), cells))
    ids = [" ".join(run.run_id[:8] for run in group) for group in runs]
    columns.append((Column("runs", text=True, rank=10), ids))
    return from_columns(
        "same settings, several seeds", columns, caption=AUDIT_NOTE if any(warned) else ""
    )
