"""The plan of a benchmark: its models, and invalid plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_benchmark import plan_of, write_benchmark

from vqlab.benchmark import Plan, make_plan, read_benchmark, read_published
from vqlab.benchmark.published import MEAN, Published
from vqlab.data.datasets import DATASETS
from vqlab.experiment_files import BENCHMARKS, PUBLISHED, names
from vqlab.types import UserError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_cells_are_recipes_by_models_by_seeds(root: Path, tmp_path: Path) -> None:
    plan = plan_of(write_benchmark(tmp_path, root), root)
    assert len(plan.cells) == 2 * 3 * 2
    assert plan.methods == ("plain", "plain, joint", "<b>smooth</b>", "<b>smooth</b>, joint")
    assert [cell.seed for cell in plan.cells] == [0] * 6 + [1] * 6  # part is square
    joint = [cell for cell in plan.cells if len(cell.categories) == 2]
    assert {cell.method for cell in joint} == {"plain, joint", "<b>smooth</b>, joint"}
    assert all(cell.config.data.joint and cell.config.training.seed == cell.seed for cell in joint)
    assert [cell.config.detector["scoring"]["smoothing"] for cell in plan.cells[:2]] != [0.1, 0.1]
    read = Plan.of(json.loads(json.dumps(plan.tree)))
    assert read == plan and read.cells == plan.cells


def test_overrides_of_one_recipe_and_of_all(root: Path, tmp_path: Path) -> None:
    name, file = read_benchmark(str(write_benchmark(tmp_path, root)))
    overrides = ["detector.floor=0.3", "plain.detector.floor=0.1"]
    plan = make_plan(name, file, data=root, overrides=overrides)
    floors = {title: tree["detector"]["floor"] for title, tree in plan.recipes.items()}
    assert floors == {"plain": 0.1, "<b>smooth</b>": 0.3}


def test_missing_categories_are_skipped_with_a_note(root: Path, tmp_path: Path) -> None:
    path = write_benchmark(tmp_path, root, categories=["other", "bottle"])
    plan = plan_of(path, root)
    assert (plan.categories, plan.missing) == (("other",), ("bottle",))
    assert plan.groups == (("other",),), "one category has no joint model"
    every = plan_of(write_benchmark(tmp_path, root, categories="all"), root)
    assert every.categories == ("other", "part") and every.missing == ()


def test_key_depends_on_relevant_settings(root: Path, tmp_path: Path) -> None:
    key = plan_of(write_benchmark(tmp_path, root), root).key("f")
    assert key == plan_of(write_benchmark(tmp_path, root), root).key("f")
    assert key != plan_of(write_benchmark(tmp_path, root, seeds=[0]), root).key("f")
    changed = write_benchmark(tmp_path, root, set={"detector.floor": 0.1})
    assert key != plan_of(changed, root).key("f") != key
    other_thread = write_benchmark(tmp_path, root, set={"training.threads": 2})
    assert key == plan_of(other_thread, root).key("f")
    assert key != plan_of(write_benchmark(tmp_path, root), root).key("g")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": ["bottle"]}, "needs at least one of its categories .bottle.; the dataset "
         "has other, part"),
        ({"recipes": {"a": "mean_image", "b": "mean_image"}}, "a and b have the same settings"),
        ({"recipes": ["mean_image", "mean_image"]}, "recipes must be different; got mean_image"),
        ({"recipes": {"a": {"recipe": "mean_image", "sett": {}}}}, "a.sett does not exist"),
        ({"recipes": {}}, "recipes"),
        ({"set": {"detector.flour": 1}}, "recipe plain: setting detector.flour does not exist; "
         "did you mean detector.floor"),
        ({"set": {"training.select": "best_on_test"}}, "must not be best_on_test"),
        ({"set": {"evaluation.resamples": 0}}, "resamples must be at least 1"),
        ({"models": ["both"]}, "setting models.0"),
        ({"seeds": []}, "setting seeds"),
        ({"seed": [0]}, "setting seed does not exist; did you mean seeds"),
    ],
    ids=str,
)  # fmt: skip
def test_invalid_benchmarks_raise(
    changes: dict[str, Any], message: str, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(write_benchmark(tmp_path, root, **changes), root)


def test_unknown_benchmark_lists_available_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="benchmark detektors does not .* did you mean detectors"):
        read_benchmark("detektors")


@pytest.mark.parametrize("path", sorted((EXPERIMENTS / "benchmarks").glob("*.yaml")), ids=str)
def test_bundled_benchmarks_are_valid(
    path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)
    assert path.read_text().startswith("# ") and path.stem in names(BENCHMARKS)
    name, file = read_benchmark(path.stem, categories=["part", "other"])
    plan = make_plan(name, file, data=root, preset="tiny")
    assert plan.cells and plan.groups[-1] == ("part", "other")


@pytest.mark.parametrize("name", names(PUBLISHED))
def test_published_means_equal_those_of_their_categories(name: str) -> None:
    file = read_published(name)
    dataset = next(each for each in DATASETS if each.name == file.dataset)
    assert file.count == len(dataset.counts)
    assert {"VQ-Flow", "HGAD", "HVQ-Trans", "UniAD", "Dinomaly", "INP-Former"} <= {
        method.name for method in file.methods
    }
    for method in file.methods:
        assert method.source and method.setting
        assert all(0 < value <= 100 for value in method.metrics.values())
        if method.categories:
            assert set(method.categories) == set(dataset.counts)
        for metric in method.metrics if method.categories else ():
            values = [figures[metric] for figures in method.categories.values()]
            assert abs(sum(values) / len(values) - method.metrics[metric]) < 0.06


def test_category_of_another_dataset_has_no_published_values() -> None:
    """The synthetic cable next to the bottle of MVTec AD: only the latter has published values."""
    file = read_published("mvtec_ad")
    method = next(each for each in file.methods if {"bottle", "cable"} <= each.categories.keys())
    published = Published("MVTec AD", method, file.count, ("bottle",))
    bottle = method.categories["bottle"]["image_auroc"] / 100
    assert published.for_column("bottle", "image_auroc") == (bottle, "published")
    assert published.for_column("cable", "image_auroc")[0] is None
    assert published.for_column(MEAN, "image_auroc") == (bottle, "published, 1 category")


def test_invalid_published_files_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("experiments/published")
    folder.mkdir(parents=True)
    tree = {"dataset": "VisA", "count": 1, "methods": []}
    method = {"name": "x", "setting": "s", "source": "t", "metrics": {"image_aurok": 1.0}}
    for changes, words in (
        ({"methods": [method]}, "did you mean image_auroc"),
        ({"dataset": "Visa"}, "dataset must be one of VisA"),
        ({"methods": [{"name": "x"}]}, "setting methods.0.setting"),
    ):
        (folder / "mine.yaml").write_text(yaml.safe_dump({**tree, **changes}))
        with pytest.raises(UserError, match=f"mine.yaml: .*{words}"):
            read_published("mine")
