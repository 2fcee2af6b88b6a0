"""Several objectives, costs, and constraints on the chosen trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_set import tiny_recipe

from vqlab.model import Model
from vqlab.sweep import SweepResult, make_comparison, make_space, sweep
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")
WIDTHS = {"detector.hidden": {"choices": [4, 16]}}
FRONT = ["validation/pixel_auroc", "cost/parameters", "cost/cpu_seconds_per_image"]


def run_sweep(root: Path, store: Tracker, trials: int = 4, **space: Any) -> SweepResult:
    tree = {"space": WIDTHS, "validations": 0, **space}
    # the trial with its settings is the best on these anomalies, and therefore the winner
    recipe = tiny_recipe(root)
    recipe["data"] |= {"synthetic_defects": 2, "validation": {"kinds": "generic"}}
    return sweep(
        make_comparison(make_space(tree), recipe),
        store,
        trials=trials,
        results=store.root / "results",
    )


def parameters(store: Tracker, run_id: str | None) -> int:
    model = Model.load(store.find(str(run_id)).checkpoint(), "cpu")
    return sum(weights.numel() for weights in model.detector.parameters())


@pytest.fixture(scope="module")
def front(root: Path, store: Tracker) -> SweepResult:
    return run_sweep(root, store, objective=FRONT)


def test_pareto_front_of_quality_and_cost(front: SweepResult, store: Tracker) -> None:
    result = front
    assert {row.state for row in result.trials} == {"COMPLETE"}
    assert all(len(row.values) == 3 and row.values[0] == row.value for row in result.trials)
    sizes = {row.params["detector.hidden"]: row.values[1] for row in result.trials}
    assert len(sizes) == 2 and sizes[4] < sizes[16]
    assert parameters(store, result.best.run_id) == sizes[result.best.params["detector.hidden"]]
    assert all(row.values[2] > 0 for row in result.trials)
    assert result.best.value == max(row.value or 0 for row in result.trials)
    page = store.find(result.parent_id).artifact("study/study.html").read_text(encoding="utf-8")
    assert ">Pareto front</h2>" in page


def test_trial_that_violates_a_constraint_is_chosen_last(
    front: SweepResult, root: Path, store: Tracker
) -> None:
    sizes = {row.params["detector.hidden"]: row.values[1] for row in front.trials}
    small = run_sweep(root, store, limits={"cost/parameters": {"high": sizes[4]}})
    violating = [row for row in small.trials if "violates its constraint" in row.reason]
    assert {row.params["detector.hidden"] for row in violating} == {16}
    assert small.best.params["detector.hidden"] == 4
    none = run_sweep(root, store, trials=2, limits={"codebook/perplexity": {"low": 1e6}})
    assert all("codebook/perplexity" in row.reason for row in none.trials)
    assert none.best.value == max(row.value or 0 for row in none.trials)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"objective": ["cost/parameters"]}, "may only come second"),
        ({"objective": ["validation/pixel_auroc", "test/aupro"]}, "use validation/aupro"),
        ({"objective": ["validation/aupro", "validation/aupro"]}, "each once"),
        ({"objective": []}, "one or more"),
        ({"limits": {"test/image_auroc": {"low": 0.9}}}, "use validation/image_auroc"),
        ({"limits": {"train/loss": {"high": 1}}}, "validation/…, codebook/…"),
        ({"limits": {"cost/parameters": {}}}, "low: NUMBER"),
        ({"limits": {"cost/parameters": {"low": 1, "high": 2}}}, "low: NUMBER"),
    ],
)
def test_invalid_objective_or_constraint_raises(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_space({"space": WIDTHS, **space})


def test_space_serialization_round_trip() -> None:
    tree = {
        "objective": FRONT, "validations": 2, "scorings": 7, "space": WIDTHS,
        "limits": {"cost/parameters": {"high": 10_000}},
    }  # fmt: skip
    space = make_space(tree)
    assert make_space(space.tree) == space and space.directions[1] == "minimize"
