"""Views of a sweep in the MLflow UI: a table and charts of its trials, and a description."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vqlab.data import Splits
from vqlab.run import PICTURES, TEST_METRICS, example_pictures, experiment_of, run_name
from vqlab.sweep.comparison import Comparison
from vqlab.sweep.events import TrialKey, TrialRow
from vqlab.sweep.report.study_data import plain
from vqlab.sweep.space.compile import Plan
from vqlab.sweep.trial.selection import CHOSEN
from vqlab.text import category_text, folder_name
from vqlab.tracking import ExperimentPages, Tracker, picture_address
from vqlab.tracking.views import (
    DURATION,
    Chart,
    Runs,
    View,
    bar,
    chart_view,
    line,
    metric,
    param,
    pictures,
    scatter,
    table_view,
    tag,
    tagged,
)

PICTURE = "study/best.png"
"""Artifact of the sweep's own run: a test image in six panels, by the best trial."""
OBJECTIVE = "objective"
"""Metric of a complete trial: the value of its first objective."""
_PERPLEXITY = ("codebook/perplexity",)
"""Used before a trial has logged its perplexity."""


@dataclass(frozen=True)
class StudyPages:
    """The pages of one sweep."""

    tracker: Tracker
    comparison: Comparison
    splits: Splits
    study: str
    """Name of the sweep."""

    @cached_property
    def pages(self) -> ExperimentPages:
        return self.tracker.pages(experiment_of(self.splits))

    @property
    def table(self) -> str:
        """Key of the view of the trials as a table."""
        return f"{self._mark}-table"

    @property
    def charts(self) -> str:
        """Key of the view of the trials as charts."""
        return f"{self._mark}-charts"

    @property
    def table_link(self) -> str:
        """Address of the page with the trials as a table."""
        return self.pages.link(self.pages.table(self.table))

    @property
    def charts_link(self) -> str:
        """Address of the page with the trials as charts and test pictures."""
        return self.pages.link(self.pages.charts(self.charts))

    @property
    def all_links(self) -> dict[str, str]:
        """Addresses of these pages, by title."""
        return {"all trials": self.table_link, "charts and test pictures": self.charts_link}

    @property
    def dataset(self) -> str:
        """Categories, location and source of the images."""
        splits = self.splits
        return f"{category_text(splits.categories)} in {splits.root} ({splits.source})"

    @property
    def title(self) -> str:
        """The sweep's name without the category, which is the name of the experiment."""
        return self.study.removeprefix(folder_name(category_text(self.splits.categories)) + "-")

    @property
    def _mark(self) -> str:
        return self.study.rpartition("-")[2]

    def save(self, logged: Iterable[str] = ()) -> None:
        """Store both views. logged: keys of metrics that the trials logged, as far as known."""
        self.pages.save(self._views(sorted(set(logged))))

    def _views(self, logged: list[str]) -> dict[str, View]:
        minimize = self.comparison.first.space.directions[0] == "minimize"
        where = tagged({"vqlab.kind": "trial", "vqlab.study": self.study})
        runs = Runs(where, OBJECTIVE, ascending=minimize)
        recipe = ["vqlab.recipe"] if "" not in self.comparison.plans else []
        columns = [
            *map(tag, ("vqlab.trial", "optuna.state", *recipe)),
            *map(metric, (OBJECTIVE, *self._other_objectives, *TEST_METRICS)),
            *map(param, self._searched),
            DURATION,
        ]
        return {
            self.table: table_view(f"{self.title}: trials", columns, runs),
            self.charts: chart_view(
                f"{self.title}: charts and pictures", self._charts(logged), runs, columns, logged
            ),
        }

    @property
    def _other_objectives(self) -> tuple[str, ...]:
        return self.comparison.objectives[1:]

    @property
    def _searched(self) -> list[str]:
        """Names of the searched settings among the parameters of runs."""
        settings: dict[str, None] = {}
        for plan in self.comparison.plans.values():
            for setting in plan.space.axes:
                settings[setting if setting in plan.sampled else f"{CHOSEN}{setting}"] = None
        return list(settings)

    def _charts(self, logged: list[str]) -> list[Chart]:
        perplexities = [key for key in logged if key.endswith("perplexity")]
        perplexities = perplexities if logged else list(_PERPLEXITY)
        names = list(example_pictures(self.splits))[:PICTURES]
        return [
            *(line("Objective", key) for key in self.comparison.objectives),
            bar("Objective", OBJECTIVE),
            *([pictures("Test pictures", names)] if names else []),
            *(line("Codebook perplexity", key) for key in perplexities),
            *(scatter("Objective by setting", name, OBJECTIVE) for name in self._searched),
        ]

    @property
    def links(self) -> str:
        """Links to both views in Markdown, relative to the server."""
        return (
            f"{self.title}: [all trials]({self.pages.table(self.table)}) · "
            f"[charts and test pictures]({self.pages.charts(self.charts)})"
        )

    def described(
        self, best: TrialRow, test: Mapping[str, float], reason: str, parent: str | None
    ) -> str:
        """Return the description of a finished sweep, in Markdown.

        test: test metrics of the best trial. reason: why it won. parent: the sweep's own run, if it
        has PICTURE.
        """
        figures = [f"{self.comparison.objective} {best.value:.4f}"]
        figures += [f"{key} {test[key]:.4f}" for key in TEST_METRICS if key in test]
        picture = ""
        if parent is not None:
            address = picture_address(parent, PICTURE)
            picture = f"![a test image, scored by the best trial]({address})\n\n"
        settings = "\n".join(f"- `{key}`: {value}" for key, value in best.params.items())
        return (
            f"{self.links} · [best trial]({self.pages.run(str(best.run_id))}): "
            f"{best.key}, {', '.join(figures)}\n\n{reason}\n\n{picture}{settings}\n"
        )


def trial_name(plan: Plan, key: TrialKey, params: Mapping[str, Any]) -> str:
    """Return the name of a trial's run, beginning with the parts that differ.

    Of one recipe: number, sampled settings, detector. Of several: number, recipe, settings.
    """
    words = {setting: plain(value) for setting, value in params.items()}
    if key.recipe:
        return run_name(f"{key.number:03d} {key.recipe}", words)
    return run_name(f"{key.number:03d}", words, str(plan.config.detector["name"]))


def objective_metrics(comparison: Comparison, values: Sequence[float]) -> dict[str, float]:
    """Return the metrics of a complete trial's objectives: the first as OBJECTIVE, and costs, which
    are not among its validation metrics."""
    named_values = dict(zip(comparison.objectives, values, strict=True))
    costs = {key: value for key, value in named_values.items() if key.startswith("cost/")}
    return {OBJECTIVE: values[0], **costs}
