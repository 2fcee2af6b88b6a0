"""A cell that differs in scoring only is not trained, and gives the metrics of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_benchmark import plan_of, write_benchmark
from tiny_set import tiny_recipe

from vqlab.benchmark import CellChanged, Event, run_benchmark
from vqlab.run import TRAINING_CPU, Recording, run
from vqlab.tracking import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures")]
BANK = {"name": "memory_bank", "bank_size": 40}
FLOW = {
    "name": "vqflow",
    "pattern": {"codebook_size": 8, "coverage": 30},
    "concept": {"codebook_size": 2},
    "flow": {"blocks": [1]},
}


@pytest.mark.parametrize(
    ("detector", "scoring", "trained"),
    [
        (None, {"error_smoothing": 0.05}, 2),
        (BANK, {"smoothing": 0.1}, 0),
        (FLOW, {"smoothing": 0.1}, 2),
    ],
    ids=["vqvae", "memory_bank", "vqflow"],
)
def test_cell_that_differs_in_scoring_is_not_trained(
    detector: dict[str, Any] | None,
    scoring: dict[str, Any],
    trained: int,
    root: Path,
    tmp_path: Path,
    new_store: Callable[[Path], Tracker],
    epochs: list[int],
) -> None:
    recipe = tiny_recipe(root, epochs=2)
    if detector is not None:
        recipe["detector"] = detector
        recipe["features"] = {"backbone": "filters"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    name = str(tmp_path / "recipe.yaml")
    changes = {f"detector.scoring.{key}": value for key, value in scoring.items()}
    path = write_benchmark(
        tmp_path, root, recipes={"first": name, "second": {"recipe": name, "set": changes}},
        categories=["part"], seeds=[0],
    )  # fmt: skip
    plan, store = plan_of(path, root), new_store(tmp_path)
    events: list[Event] = []
    result = run_benchmark(plan, store, results=tmp_path / "results", on_event=events.append)
    assert len(epochs) == trained
    first, second = (result.report.results.runs[index] for index in (0, 1))
    reused = [e.state.reused for e in events if isinstance(e, CellChanged) and e.state.reused]
    assert reused == [f"training of run {first.run_id}"]
    assert second.tags["vqlab.reused"] == f"run {first.run_id}"
    assert second.metrics[TRAINING_CPU] == first.metrics[TRAINING_CPU]

    (tmp_path / "alone").mkdir()
    separate = new_store(tmp_path / "alone")
    scratch = separate.find(
        run(plan.cells[1].config, separate, Recording(results=tmp_path / "results")).run_id
    )
    tested = {key: value for key, value in scratch.metrics.items() if key.startswith("test/")}
    assert len(tested) > 10
    assert {key: second.metrics[key] for key in tested} == tested
    assert any(first.metrics[key] != value for key, value in tested.items())
