"""A complete benchmark: ordinary runs, nothing trained twice, the report and its values."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from tiny_benchmark import plan_of, write_benchmark

from vqlab.benchmark import BenchmarkResult, CellChanged, Event, find_benchmark, run_benchmark
from vqlab.benchmark.cell import CHECKPOINT_SIZE, CPU_PER_IMAGE, PEAK_MEMORY
from vqlab.benchmark.plan import Plan
from vqlab.run import TRAINING_CPU, Recording, run
from vqlab.tracking import Tracker
from vqlab.tracking.run_filter import RunFilter
from vqlab.types import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures")]


@pytest.fixture(scope="module")
def plan(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return plan_of(write_benchmark(tmp_path_factory.mktemp("plan"), root), root)


@pytest.fixture(scope="module")
def result(plan: Plan, store: Tracker) -> BenchmarkResult:
    return run_benchmark(plan, store, results=store.root.parent / "results")


@pytest.fixture(scope="module")
def tables(result: BenchmarkResult) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(result.tables.read_text())
    return figures


def test_each_model_is_an_ordinary_run(result: BenchmarkResult, plan: Plan, store: Tracker) -> None:
    runs = store.runs(kinds=["train"], tags={"vqlab.benchmark": result.key})
    assert len(runs) == len(plan.cells) == 12
    assert RunFilter(study=result.key).select(runs) == runs
    assert all(run.status == "FINISHED" and "test/image_auroc" in run.metrics for run in runs)
    assert {run.experiment for run in runs} == {"part", "other", "joint"}
    assert {run.tags["vqlab.recipe"] for run in runs} == {"plain", "<b>smooth</b>"}
    for cost in (TRAINING_CPU, CPU_PER_IMAGE, PEAK_MEMORY, CHECKPOINT_SIZE):
        assert all(run.metrics[cost] > 0 for run in runs), cost
    benchmark = find_benchmark(result.key, store)
    assert benchmark is not None and benchmark.status == "FINISHED"
    assert benchmark.artifact("report.html").read_bytes() == result.page.read_bytes()


def test_values_equal_those_of_the_runs(plan: Plan, store: Tracker, tables: dict[str, Any]) -> None:
    cells = [c for c in tables["cells"] if (c["recipe"], c["categories"]) == ("plain", ["part"])]
    values = [cell["metrics"]["test/aupro"] for cell in cells]
    assert len(values) == 2 and all(store.get(cell["run_id"]) for cell in cells)
    displayed = tables["metrics"]["aupro"]["plain"]
    assert displayed["part"]["mean"] == pytest.approx(mean(values))
    assert displayed["part"]["standard_deviation"] == pytest.approx(stdev(values))
    assert displayed["mean"]["mean"] == pytest.approx(
        mean(displayed[category]["mean"] for category in plan.categories)
    )
    joint = next(c for c in tables["cells"] if len(c["categories"]) == 2)
    assert tables["metrics"]["aupro"]["plain, joint"]["other"]["mean"] == pytest.approx(
        joint["metrics"]["test/other/aupro"]
    )
    assert "image_auroc" in tables["metrics"] and "escape_rate" in tables["metrics"]


def test_statistics_of_the_values(plan: Plan, tables: dict[str, Any]) -> None:
    compared = tables["comparisons"]["aupro"]
    assert set(compared) == {"mean", "part", "other"}
    ranks = compared["mean"]["average_ranks"]
    assert set(ranks) == set(plan.methods) and sum(ranks.values()) == pytest.approx(10)
    assert compared["mean"]["blocks"] == 2 and compared["part"]["blocks"] == 2
    assert len(compared["mean"]["pairs"]) == 6
    for pair in compared["part"]["pairs"]:
        first, second = (
            tables["metrics"]["aupro"][pair[name]]["part"]["mean"] for name in ("first", "second")
        )
        assert pair["difference"] == pytest.approx(second - first)
        assert pair["wilcoxon_p_holm"] == 1.0  # two seeds are too few
    costs = tables["costs"]["plain"]
    assert costs["images_per_cpu_second"] > 0 and costs["checkpoint_mib"] > 0


def test_page_is_self_contained_and_escaped(result: BenchmarkResult) -> None:
    page = result.page.read_text()
    assert "&lt;b&gt;smooth&lt;/b&gt;, joint" in page and "<b>smooth" not in page
    assert "12 of 12 models are trained and tested" in page
    for heading in ("Results", "Ranks", "Pairwise tests", "Costs", "The same test images", "Runs"):
        assert f">{heading}</h2>" in page
    assert page.count("<script") == 1 and "script-src 'sha256-" in page
    assert 'src="http' not in page and 'src="data:image/jpeg' in page


def test_repeated_benchmark_trains_nothing(
    result: BenchmarkResult, plan: Plan, store: Tracker, epochs: list[int]
) -> None:
    events: list[Event] = []
    repeated = run_benchmark(plan, store, results=result.page.parents[2], on_event=events.append)
    assert repeated.key == result.key
    assert not any(isinstance(event, CellChanged) for event in events)
    assert repeated.report.metrics == result.report.metrics
    assert len(store.runs(tags={"vqlab.benchmark": result.key})) == 12


def test_benchmark_is_extended_and_runs_of_train_are_reused(
    result: BenchmarkResult, plan: Plan, root: Path, tmp_path: Path, store: Tracker
) -> None:
    larger = plan_of(write_benchmark(tmp_path, root, seeds=[0, 1, 2], models=["each"]), root)
    new = next(cell for cell in larger.cells if cell.seed == 2)
    trained = run(new.config, store, Recording(results=tmp_path / "results"))
    assert CPU_PER_IMAGE not in store.find(trained.run_id).metrics
    events: list[Event] = []
    more = run_benchmark(larger, store, results=tmp_path / "results", on_event=events.append)
    assert more.key != result.key
    ended = [e.state for e in events if isinstance(e, CellChanged) and e.state.state == "done"]
    reused = [state.reused for state in ended if state.reused]
    complete = [text for text in reused if text.startswith("run ")]
    assert (len(ended), len(complete)) == (12, 9)  # 8 of the benchmark and one of `train`
    assert f"run {trained.run_id}" in complete
    assert len(reused) - len(complete) == 2  # the recipes differ in scoring only
    assert CPU_PER_IMAGE in store.find(trained.run_id).metrics
    assert len(store.runs(tags={"vqlab.benchmark": more.key})) == 3


def test_deleted_run_is_retrained(result: BenchmarkResult, plan: Plan, store: Tracker) -> None:
    run_id = result.report.results.runs[0].run_id
    store._client.delete_run(run_id)
    repeated = run_benchmark(plan, store, results=result.page.parents[2])
    assert repeated.report.results.runs[0].run_id != run_id
    assert len(repeated.report.results.runs) == 12


def test_failing_recipe_does_not_stop_the_others(
    root: Path, tmp_path: Path, new_store: Any
) -> None:
    broken = {"recipe": "memory_bank", "set": {"features.weights": str(tmp_path / "no.pth")}}
    path = write_benchmark(tmp_path, root, seeds=[0], models=["each"])
    import yaml

    tree = yaml.safe_load(path.read_text())
    tree["recipes"]["broken"] = broken
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    result = run_benchmark(plan_of(path, root), new_store(tmp_path), results=tmp_path / "results")
    assert result.report.results.methods == ("plain", "<b>smooth</b>")
    assert result.report.results.incomplete == ("broken",)
    failures = result.report.results.failures
    assert [cell.recipe for cell, _ in failures] == ["broken"] * 2
    assert all("no.pth" in reason for _, reason in failures)
    page = result.page.read_text()
    assert "results are missing: broken" in page and "no.pth" in page


def test_failure_of_all_models_raises(root: Path, tmp_path: Path, new_store: Any) -> None:
    recipes = {"broken": {"recipe": "memory_bank", "set": {"features.weights": "/no/where.pth"}}}
    path = write_benchmark(tmp_path, root, recipes=recipes, seeds=[0], models=["each"])
    with pytest.raises(UserError, match="no cell of benchmark-small-.* succeeded; .*where.pth"):
        run_benchmark(plan_of(path, root), new_store(tmp_path), results=tmp_path / "results")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_on_a_phone(result: BenchmarkResult, browser: Any, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme=scheme, offline=True
    )
    tab = context.new_page()
    problems: list[str] = []
    tab.on("console", lambda message: problems.append(message.text))
    tab.goto(result.page.absolute().as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    first = tab.locator("table.sortable").first
    first.locator("th").nth(1).click()
    values = first.locator("tbody tr td:nth-child(2)").evaluate_all(
        "cells => cells.map(cell => Number(cell.dataset.value))"
    )
    assert values == sorted(values) and len(values) == 4
    assert problems == []
    context.close()
