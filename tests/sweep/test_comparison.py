"""A comparison of recipes, with one study each: search spaces, order of trials, result."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from folders_of_shapes import tall_and_square
from huggingface_hub import constants as hub
from matplotlib.figure import Figure
from optuna.storages import InMemoryStorage
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.cli import main
from vqlab.cli.terminal import out
from vqlab.cli.trial_tables import recipes_table
from vqlab.config import merge, nest, read_recipe
from vqlab.data import load_dataset
from vqlab.errors import UserError
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.promote import promote
from vqlab.recipes import recipe_trees
from vqlab.run import resolve
from vqlab.sweep import (
    EpochDone,
    Event,
    Interrupted,
    Spaces,
    SweepResult,
    TrialKey,
    TrialStarted,
    make_comparison,
    make_spaces,
    read_space,
    sweep,
)
from vqlab.sweep.study.record import key_of, stored
from vqlab.sweep.study.studies import load_studies, open_studies, siblings
from vqlab.tracking import Tracker

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
Tree = dict[str, Any]
RATE = {"threshold.pixel_false_positive_rate": {"choices": [0.01, 0.1]}}
RECIPES: Tree = {
    "vqvae": {"validations": 1, "space": {"detector.codebook_size": {"choices": [8, 16]}, **RATE}},
    "vqflow": {"space": {"detector.flow.blocks": {"choices": [[1], [2]]}, **RATE}},
    "memory_bank": {"space": {"detector.bank_size": {"low": 10, "high": 60}, **RATE}},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_set(tmp_path_factory.mktemp("set"))


def of(tree: Tree, detector: Tree, **training: Any) -> Tree:
    return {
        **tree,
        "detector": detector,
        "features": {"backbone": "filters"},
        "training": {**tree["training"], **training},
    }


@pytest.fixture(scope="module")
def trees(root: Path) -> dict[str, Tree]:
    """Small trees of all recipes on the same images."""
    tree = tiny_recipe(root)
    flow = {
        "name": "vqflow",
        "positions": 8,
        "pattern": {"codebook_size": 8, "dim": 16, "coverage": 20},
        "concept": {"codebook_size": 4, "dim": 8},
        "flow": {"blocks": [1], "hidden": 8, "condition": 8},
    }
    return {
        "vqvae": tree,
        "vqflow": of(tree, flow),
        "memory_bank": of(tree, {"name": "memory_bank", "bank_size": 40}, epochs=0),
    }


@pytest.fixture
def only_vqvae(trees: dict[str, Tree]) -> dict[str, Tree]:
    return {"one": trees["vqvae"], "two": trees["vqvae"]}


def spaces(name: str = "all", **more: Any) -> Spaces:
    return make_spaces({"recipes": RECIPES, **more}, name)


def two(first: Tree, second: Tree) -> Spaces:
    return make_spaces({"recipes": {"one": {"space": first}, "two": {"space": second}}}, "both")


SIZE: Tree = {"detector.codebook_size": {"choices": [8, 16]}}


# Spaces


def test_each_recipe_has_its_own_settings(trees: dict[str, Tree]) -> None:
    comparison = make_comparison(spaces(), trees)
    assert comparison["vqvae"].recipe_params() == {"detector.codebook_size": 16}
    assert comparison["vqflow"].recipe_params() == {"detector.flow.blocks": "[1]"}
    config = resolve(comparison["vqflow"].tree_of({"detector.flow.blocks": "[2]"}))
    assert config.detector["flow"]["blocks"] == [2] and config.features.backbone == "filters"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data.held_out", 0.2),
        ("data.image_size", 64),
        ("data.validation.source", "test"),
        ("evaluation.resolution", "original"),
        ("threshold.false_reject_rate", 0.2),
    ],
)
def test_settings_that_affect_evaluation_must_be_equal(
    setting: str, value: Any, only_vqvae: dict[str, Tree]
) -> None:
    different = {**only_vqvae, "two": merge(only_vqvae["two"], nest(setting, value))}
    with pytest.raises(UserError, match=f"must have the same {setting}.*two {value}"):
        make_comparison(two(SIZE, SIZE), different)


def test_recipes_with_different_input_shapes_are_evaluated_on_the_same_images(
    trees: dict[str, Tree], tmp_path: Path
) -> None:
    """The files are split equally, their anomalies have the same kinds, and a defect covers the
    same share of its image."""
    data = {"root": str(tall_and_square(tmp_path)), "categories": ["tall"], "image_size": 64}
    bank = merge(trees["memory_bank"], {"data": data})
    both = {"one": bank, "two": merge(bank, nest("data.resize", "aspect"))}
    axes: Tree = {"detector.bank_size": {"low": 10, "high": 60}}
    comparison = make_comparison(two(axes, axes), both)
    first, second = (load_dataset(plan.config.data) for plan in comparison.plans.values())
    assert first.fingerprint == second.fingerprint
    assert first.test_fingerprint == second.test_fingerprint
    for pair in ((first.train, second.train), (first.validation, second.validation)):
        assert pair[0].records == pair[1].records
    assert first.test.records == second.test.records
    shapes = [each.test.resized(0).image.shape for each in (first, second)]
    assert shapes == [(64, 64, 3), (96, 32, 3)]
    for index in range(len(first.test)):
        masks = [each.test.original_mask(index) for each in (first, second)]
        assert np.array_equal(*masks)
        shares = [each.test.resized(index).mask.mean() for each in (first, second)]
        assert shares[0] == pytest.approx(shares[1], rel=0.1)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"recipes": {"one": {"space": SIZE}}}, "at least two recipes"),
        ({"recipes": {"one": {"space": SIZE}, "two": {"space": {}}}}, "recipe two: .*at least one"),
        ({"recipes": {"one": "none", "two": "none"}}, "none.yaml does not exist"),
        ({"objective": "test/aupro", "recipes": RECIPES}, "use validation/aupro"),
        (
            {
                "recipes": {
                    "one": {"space": SIZE},
                    "two": {"space": SIZE, "objective": "validation/aupro"},
                }
            },
            "same objective; got one validation/pixel_auroc, two validation/aupro",
        ),
        ({"recipes": RECIPES, "space": SIZE}, "setting space does not exist"),
    ],
    ids=["single", "empty", "missing", "test", "objectives", "both"],
)
def test_invalid_spaces_raise(tree: Tree, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_spaces(tree, "all")


def test_error_names_the_recipe(only_vqvae: dict[str, Tree]) -> None:
    with pytest.raises(UserError, match="recipe two: .*did you mean detector.codebook_size"):
        make_comparison(two(SIZE, {"detector.codebok_size": {"choices": [8]}}), only_vqvae)
    with pytest.raises(UserError, match="recipe two: space data.image_size .*the same images"):
        sizes = {"data.image_size": {"choices": [64, 32]}}
        make_comparison(two(SIZE, sizes), only_vqvae)


def test_common_objective_applies_to_each_recipe() -> None:
    parsed = spaces(objective="validation/aupro")
    assert {space.objective for space in parsed.recipes.values()} == {"validation/aupro"}


def test_study_name_depends_on_the_space_of_the_recipe(only_vqvae: dict[str, Tree]) -> None:
    splits = load_dataset(resolve(only_vqvae["one"]).data)
    names = {
        make_comparison(two(SIZE, second), only_vqvae, "tiny").sweep_name(splits)
        for second in (SIZE, {"detector.codebook_size": {"choices": [8]}}, SIZE)
    }
    assert len(names) == 2 and all(name.startswith("part-both-tiny-") for name in names)


def test_overrides_for_a_single_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)
    overrides = ["training.seed=3", "memory_bank.detector.bank_size=7"]
    trees = recipe_trees(["vqvae", "memory_bank"], overrides, "bottle", None, "quick")
    assert [tree["training"]["seed"] for tree in trees.values()] == [3, 3]
    assert trees["memory_bank"]["detector"]["bank_size"] == 7
    assert "bank_size" not in trees["vqvae"]["detector"]


# Studies


def test_comparison_has_one_study_per_recipe() -> None:
    storage = InMemoryStorage()
    studies = open_studies(storage, "part-all-12345678", ["a-b", "a"], ["maximize"])
    open_studies(storage, "part-all-12345678-a-b-87654321", ["a", "c"], ["maximize"])
    names = {recipe: study.study_name for recipe, study in studies.by_recipe.items()}
    assert names == {"a-b": "part-all-12345678-a-b", "a": "part-all-12345678-a"}
    for name in ("part-all-12345678", "part-all-12345678-a"):
        assert load_studies(storage, name).by_recipe.keys() == {"a-b", "a"}
    other = open_studies(storage, "part-all-abcdef00", ["a-b", "a"], ["maximize"])
    assert siblings(storage, other, "part-all") == ["part-all-12345678"]
    with pytest.raises(UserError, match="no study 'part-all-1'; there are part-all-12345678"):
        load_studies(storage, "part-all-1")


def test_trials_are_sorted_by_their_start() -> None:
    studies = open_studies(InMemoryStorage(), "s", ["a", "b"], ["maximize"])
    studies["a"].enqueue_trial({}, user_attrs=stored(recipe="a"))
    for recipe in ("b", "a", "b"):
        studies[recipe].enqueue_trial({}, user_attrs=stored(recipe=recipe))
        studies[recipe].tell(studies[recipe].ask(), 1.0)
    keys = [key_of(trial) for trial in studies.trials()]
    assert list(map(str, keys)) == ["b:0", "a:0", "b:1", "a:1"]
    for key, state in zip(keys, ["COMPLETE"] * 3 + ["WAITING"], strict=True):
        assert TrialKey.parse(str(key)) == key
        trial = studies.find(key)
        assert trial is not None and trial.state.name == state
    assert studies.find(TrialKey("a", 2)) is studies.find(TrialKey("c", 0)) is None
    assert studies.n_done() == 3


@pytest.mark.parametrize("text", ["", "a:", "a", "a:-1", "1.5"])
def test_invalid_trial_number_raises(text: str) -> None:
    with pytest.raises(UserError, match="NUMBER or RECIPE:NUMBER; got"):
        TrialKey.parse(text)


# Complete comparison


class Events(list[Event]):
    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


def stand_in(model: Any, config: Any, splits: Any, run: Any, results: Path) -> Any:
    """Replace scoring and pictures of the test set, which have their own tests and take longer than
    everything else."""
    run.log_metrics({"test/image_auroc": 1.0})
    return Report({}, {}), None, results


SEED = 10
"""With which no trial samples what an earlier one sampled."""
LAST = TrialKey("vqflow", 1)
"""The last of five trials."""


@pytest.fixture(scope="module")
def swept(trees: dict[str, Tree], store: Tracker) -> tuple[SweepResult, Events, Tree]:
    """Run a sweep of five trials; the last one, the second of vqflow, is interrupted after its
    first epoch. Return the result, the events and the settings of that trial."""
    settings: Tree = {}

    def stop(event: Event) -> None:
        if isinstance(event, TrialStarted) and event.key == LAST:
            settings.update(event.params)
        if isinstance(event, EpochDone) and (event.key, event.epoch) == (LAST, 1):
            raise KeyboardInterrupt

    events = Events()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.sweep.result.test_model", stand_in)
        patch.setattr("vqlab.run.story.loss_curves", lambda history: Figure(figsize=(1, 1)))
        with pytest.raises(Interrupted, match="4 of 5 trials done"):
            sweep(make_comparison(spaces(), trees), store, trials=5, seed=SEED, on_event=stop)
        result = sweep(
            make_comparison(spaces(), trees), store, trials=5, seed=SEED, on_event=events.append
        )
    return result, events, settings


def test_recipes_alternate_and_start_from_their_defaults(
    swept: Any, trees: dict[str, Tree]
) -> None:
    result, *_ = swept
    assert [row.recipe for row in result.trials[:3]] == list(trees)
    first = {row.recipe: row.params for row in result.trials[:3]}
    assert first["vqvae"]["detector.codebook_size"] == 16
    assert first["vqflow"]["detector.flow.blocks"] == "[1]"
    assert first["memory_bank"]["detector.bank_size"] == 40
    completed = [row.recipe for row in result.trials if row.state == "COMPLETE"]
    assert Counter(completed) == {"vqvae": 2, "vqflow": 2, "memory_bank": 1}


def test_interrupted_trial_is_retried_with_its_recipe(swept: Any) -> None:
    result, events, settings = swept
    states = [row.state for row in result.trials]
    assert states == ["COMPLETE"] * 4 + ["FAIL", "COMPLETE"]
    repeated = events.of(TrialStarted)[0]
    assert (repeated.key, repeated.resumed_at) == (TrialKey("vqflow", 2), 1)
    assert settings and repeated.params == settings
    assert result.trials[5].retry_of == 1


def test_runs_are_tagged_with_their_recipe(swept: Any, store: Tracker) -> None:
    result, *_ = swept
    runs = store.runs(tags={"vqlab.kind": "trial", "vqlab.study": result.study})
    rows = {str(row.run_id): row for row in result.trials}
    for run in runs:
        recipe = rows[run.run_id].recipe
        assert run.tags["vqlab.recipe"] == run.tags["vqlab.detector"] == recipe
        assert run.name.startswith(f"{rows[run.run_id].number:03d} ")
        assert run.name.split()[1] == recipe
        assert run.tags["vqlab.backbone"] == ("pixels" if recipe == "vqvae" else "filters")
    parent = store.find(result.parent_id)
    assert parent.tags["vqlab.detector"] == "vqvae+vqflow+memory_bank"
    searched = read_recipe(parent.artifact("space.yaml"))
    assert make_spaces(searched, "again").recipes.keys() == RECIPES.keys()
    assert not any(run.status == "RUNNING" for run in store.runs())


def test_features_that_another_recipe_extracted_are_reused(swept: Any, store: Tracker) -> None:
    result, *_ = swept
    for number in (2, 5):  # memory_bank, and the second trial of vqflow
        row = result.trials[number]
        run = store.find(str(row.run_id))
        assert row.reused == run.tags["vqlab.reused"] and row.reused.startswith("features of ")
        assert not row.training_reused
    assert not result.trials[0].reused, "vqvae has none"
    runs = store.runs(tags={"vqlab.kind": "trial", "vqlab.study": result.study})
    complete = {str(row.run_id) for row in result.trials if row.state == "COMPLETE"}
    saved = [
        float(run.tags.get("vqlab.seconds_saved", 0)) for run in runs if run.run_id in complete
    ]
    assert sum(saved) == pytest.approx(result.saved) and any(saved)


def test_checkpoint_of_the_best_trial_of_each_recipe_is_kept(swept: Any, store: Tracker) -> None:
    result, *_ = swept
    assert list(result.recipes) == list(RECIPES)
    best = result.best
    assert best == result.recipes[best.recipe]
    assert result.comparisons.keys() == RECIPES.keys() - {best.recipe}
    for recipe, comparison in result.comparisons.items():
        other = result.recipes[recipe]
        assert comparison.trial == other.key
        assert not comparison.distinguishable or other.value < best.value
    for run in store.runs(tags={"vqlab.kind": "trial", "vqlab.study": result.study}):
        is_best = run.run_id in {row.run_id for row in result.recipes.values()}
        assert is_best == (run.tags["optuna.state"] == "COMPLETE" and _has_checkpoint(run))
        assert any(key.startswith("test/") for key in run.metrics) == (run.run_id == best.run_id)


def _has_checkpoint(run: Any) -> bool:
    try:
        return bool(run.checkpoint().exists())
    except UserError:
        return False


def test_table_and_page_compare_the_recipes(swept: Any) -> None:
    result, *_ = swept
    out.width = 250
    with out.capture() as captured:
        out.print(recipes_table(result))
    page = result.page.read_text(encoding="utf-8")
    section = page.partition('<h2 id="recipes">')[2].partition("</table>")[0]
    assert "difference from the winner" in captured.get() and "with 95 % intervals" in section
    for comparison in result.comparisons.values():
        for text in (str(comparison.trial), comparison.difference_text, comparison.verdict):
            assert text in captured.get() and text in section
    assert f'<tr class="best"><td>{result.best.recipe}</td>' in section


def test_recipe_checkpoint_and_threshold_are_consistent(swept: Any, store: Tracker) -> None:
    result, *_ = swept
    config = resolve(read_recipe(result.recipe))
    assert config.detector["name"] == result.best.recipe
    assert f"trial {result.best.key}," in result.recipe.read_text().splitlines()[0]
    key = "threshold.pixel_false_positive_rate"
    chosen = result.best.params[key]
    assert config.threshold.pixel_false_positive_rate == chosen
    model = Model.load(store.find(result.best.run_id).checkpoint(), "cpu")
    assert model.meta["config"]["threshold"]["pixel_false_positive_rate"] == chosen
    assert model.meta["config"]["detector"] == config.detector


def test_repeated_sweep_does_nothing(swept: Any, trees: dict[str, Tree], store: Tracker) -> None:
    events = Events()
    repeated = sweep(
        make_comparison(spaces(), trees), store, trials=5, seed=SEED, on_event=events.append
    )
    assert not events.of(TrialStarted)
    assert (repeated.study, repeated.best, repeated.recipes) == (
        swept[0].study,
        swept[0].best,
        swept[0].recipes,
    )


@pytest.mark.slow
def test_winner_is_promoted(trees: dict[str, Tree], tmp_path: Path) -> None:
    store = Tracker.open(tmp_path / "mlruns")
    result = sweep(make_comparison(spaces(), trees), store, trials=3, results=tmp_path / "results")
    assert {"test/image_auroc", "test/aupro"} <= set(result.test)
    promoted = promote(store, "part")
    assert promoted.promoted and promoted.run_id == result.best.run_id


def test_missing_weights_are_reported_before_the_first_trial(
    trees: dict[str, Tree], store: Tracker, tmp_path: Path
) -> None:
    features = {"backbone": "resnet18", "weights": str(tmp_path / "none.pth")}
    events = Events()
    with pytest.raises(UserError, match="recipe memory_bank: .*none.pth"):
        broken = {**trees, "memory_bank": {**trees["memory_bank"], "features": features}}
        sweep(make_comparison(spaces(), broken), store, trials=3, on_event=events.append)
    assert not events


# Command line


@pytest.fixture
def folder(trees: dict[str, Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose experiments are two small recipes."""
    for path, tree in {
        "quick_one": trees["vqvae"],
        "bank": trees["memory_bank"],
        "sweeps/bank": RECIPES["memory_bank"],
        "sweeps/all": {"recipes": {"quick_one": RECIPES["vqvae"], "bank": "bank"}},
    }.items():
        file = tmp_path / "experiments" / f"{path}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vqlab", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("empty_mlruns")
def test_sweep_all_prints_the_recipe_of_each_trial(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vqlab.sweep.result.test_model", stand_in)
    words = ("bank.detector.bank_size=30", "training.seed=1", "--n-trials", "2")
    assert command(monkeypatch, "sweep", "all", *words) == 0
    output = capsys.readouterr().out
    assert "study part-all-" in output and "bank_size=30" in output
    lines = [line.split() for line in output.splitlines()]
    table = {line[1]: line for line in lines if line[:1] == ["│"] and "COMPLETE" in line}
    assert {"quick_one:0", "bank:0"} <= table.keys()
    assert "recipes, each with its best trial" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "all"], "only a sweep compares"),
        (["sweep", "all", "detector.bank_size=3"], "setting detector.bank_size does not exist"),
        (["sweep", "all", "--space", "experiments/sweeps/bank.yaml"], "must list several"),
        (["sweep", "bank", "--space", "experiments/sweeps/all.yaml"], "vqlab sweep all --space"),
    ],
)
def test_invalid_arguments_raise(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err and not (folder / "mlruns/optuna.db").exists()


@pytest.mark.parametrize("preset", ["tiny", "quick"])
def test_bundled_comparison_needs_no_download(
    preset: str, monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    """The defaults of every recipe are within its space and its backbone is built in; offline it is
    the only candidate."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(EXPERIMENTS.parent)
    spaces = read_space(EXPERIMENTS / "sweeps" / "all.yaml")
    assert isinstance(spaces, Spaces)
    trees = recipe_trees(spaces.recipes, [], "part", root, preset)
    comparison = make_comparison(spaces, trees)
    (note,) = comparison.notes
    assert note.startswith("vqflow, memory_bank: features.backbone is filters in all trials; excl")
    assert "resnet18, mobilenetv2_100 (weights not on this machine" in note
    for recipe, plan in comparison.plans.items():
        assert "features.backbone" not in plan.space.axes
        assert plan.config.features.backbone in ("pixels", "filters")
        if preset == "quick":
            assert set(plan.recipe_params()) == set(plan.sampled), recipe
