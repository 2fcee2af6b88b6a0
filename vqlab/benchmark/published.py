"""Published figures of other methods, shown next to measured ones."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from vqlab.benchmark.results import Results
from vqlab.config import Settings, read_recipe, validate
from vqlab.data.datasets import DATASETS, Counts
from vqlab.evaluation import MEAN
from vqlab.experiment_files import PUBLISHED, find, names
from vqlab.metrics import get_metric
from vqlab.types import UserError

Figures = dict[str, float]
"""Percentages by metric."""


class Method(Settings):
    """Figures of one method on one dataset, in percent."""

    name: str
    setting: str
    """How it was trained and evaluated."""
    source: str
    """Paper, table or file from which the figures were copied."""
    link: str = ""
    metrics: Figures
    """Means over all categories, as printed."""
    categories: dict[str, Figures] = {}


class PublishedFile(Settings):
    """Content of a file in experiments/published."""

    dataset: str
    """Name of a dataset of `vqlab.data.datasets`."""
    count: int
    """Number of categories behind the means."""
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class Published:
    """A published method. Values are shares, like those of the benchmark."""

    dataset: str
    method: Method
    count: int
    """Categories of the dataset."""
    categories: tuple[str, ...]
    """Those of the benchmark."""

    def mean(self, metric: str) -> float | None:
        """Return the published mean over all categories of the dataset."""
        value = self.method.metrics.get(metric)
        return None if value is None else value / 100

    def value(self, category: str, metric: str) -> float | None:
        """Return the figure of one category."""
        value = self.method.categories.get(category, {}).get(metric)
        return None if value is None else value / 100

    def for_column(self, column: str, metric: str) -> tuple[float | None, str]:
        """Return the figure for a column of a table (a category, or `MEAN`), and its description.

        The mean is that over the benchmark's categories if each has a figure, else the published
        mean over all.
        """
        if column != MEAN:  # a category of this name may be of another dataset
            value = self.value(column, metric) if column in self.categories else None
            return value, "published"
        subset = self.subset_mean(metric)
        if subset is None or len(self.categories) == self.count:
            return self.mean(metric), f"published, {self.count} categories"
        count = len(self.categories)
        return subset, f"published, {count} {'category' if count == 1 else 'categories'}"

    def subset_mean(self, metric: str) -> float | None:
        """Return the mean over the benchmark's categories; None if one has no figure."""
        values = [self.value(category, metric) for category in self.categories]
        numbers = [value for value in values if value is not None]
        return fmean(numbers) if numbers and len(numbers) == len(values) else None


def matching_published(results: Results) -> list[Published]:
    """Return published figures on the categories of a benchmark.

    A category counts as published if its name and its numbers of test images are those of the
    dataset.
    """
    published = []
    for name in names(PUBLISHED):
        file = read_published(name)
        dataset = next(each for each in DATASETS if each.name == file.dataset)
        categories = tuple(
            category
            for category in results.plan.categories
            if _has_counts(results, category, dataset.published(category))
        )
        if categories:
            published += [
                Published(dataset.name, each, file.count, categories) for each in file.methods
            ]
    return published


def read_published(name: str) -> PublishedFile:
    """Return a file of experiments/published. Raises UserError for an unknown metric or setting."""
    path = find(name, PUBLISHED)
    try:
        file = validate(PublishedFile, read_recipe(path))
        datasets = [dataset.name for dataset in DATASETS]
        if file.dataset not in datasets:
            raise UserError(f"dataset must be one of {', '.join(datasets)}; got {file.dataset}.")
        for method in file.methods:
            for metric in (*method.metrics, *(m for v in method.categories.values() for m in v)):
                get_metric(metric)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return file


def _has_counts(results: Results, category: str, counts: Counts | None) -> bool:
    """Return whether a category has these numbers of normal and of anomalous test images."""
    labels = next(iter(results.measured[results.methods[0]][category].values())).evidence.labels
    anomalous = int(labels.sum())
    return counts is not None and (len(labels) - anomalous, anomalous) == tuple(counts[1:])
