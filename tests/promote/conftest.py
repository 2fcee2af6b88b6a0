"""Runs that can be promoted, and a store without champions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from promotions import METRIC, Train, Tree
from tiny_set import baseline_recipe

from vqlab.data import Splits, load_dataset
from vqlab.promote.reproduce import Reproduction
from vqlab.run import Outcome, Recording, resolve, run
from vqlab.tracking import Tracker


@pytest.fixture(scope="module")
def tested(root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(
        resolve(baseline_recipe(root)),
        store,
        Recording(name="tested", results=tmp_path_factory.mktemp("results")),
    )


@pytest.fixture
def tracker(store: Tracker) -> Iterator[Tracker]:
    """The store, without champions."""
    yield store
    client = store._client
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)


@pytest.fixture(scope="module")
def splits(root: Path) -> Splits:
    """Splits of all runs of `train`; the synthetic anomalies are generated once."""
    return load_dataset(resolve(baseline_recipe(root)).data)


@pytest.fixture
def train(root: Path, splits: Splits, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Train:
    """A trained run whose test metric is what the test says; nothing is scored for it."""
    skipped = Reproduction(0, True)
    monkeypatch.setattr("vqlab.promote.promotion.reproduce", lambda record, data: skipped)
    monkeypatch.setattr(
        "vqlab.promote.promotion.with_shift_table", lambda tracker, record, data, most: record
    )

    def make(name: str, value: float | None, tree: Tree | None = None, **tags: str) -> str:
        config, same = resolve(tree or baseline_recipe(root)), None if tree else splits
        outcome = run(config, tracker, Recording(name=name), splits=same, test=False)
        added = tracker.amend(outcome.run_id)
        added.set_tags({key.replace("__", "."): tag for key, tag in tags.items()})
        if value is not None:
            added.log_metrics({METRIC: value})
        return outcome.run_id

    return make
