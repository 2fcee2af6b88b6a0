"""All bundled recipes, presets and spaces are valid; presets have lower precedence than
overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqlab.config import dump, flatten, read_recipe
from vqlab.errors import UserError
from vqlab.experiment_files import RECIPES as RECIPE
from vqlab.experiment_files import STUDIES, SWEEPS, find
from vqlab.recipes import recipe_path, recipe_tree, recipe_trees
from vqlab.run import resolve
from vqlab.sweep import Spaces, read_space

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
RECIPES = [
    p for p in EXPERIMENTS.rglob("*.yaml") if p.relative_to(EXPERIMENTS).parts[0] not in (
        "sweeps", "presets", "studies", "benchmarks", "published",
    )
]  # fmt: skip
PRESETS = ["full", *sorted(p.stem for p in (EXPERIMENTS / "presets").glob("*.yaml"))]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_recipe_is_valid_under_every_preset(path: Path, preset: str) -> None:
    assert path.read_text().startswith("# ")
    resolve(recipe_tree(str(path), preset=preset))


@pytest.mark.parametrize(
    "path", list((EXPERIMENTS / "sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_space_is_valid(path: Path) -> None:
    space = read_space(path)
    assert space.objective.startswith("validation/")
    for recipe in space.recipes if isinstance(space, Spaces) else [path.stem]:
        resolve({"detector": recipe})


def test_recipe_is_found_by_name() -> None:
    assert recipe_tree("paper/vqvae")["detector"]["learning"] == "gradient"


def test_later_settings_take_precedence() -> None:
    tree = recipe_tree("vqvae", ["training.epochs=7"], "bottle", "/data", "quick")
    assert tree["training"]["epochs"] == 7
    assert tree["data"]["image_size"] == 128
    assert (tree["data"]["categories"], tree["data"]["root"]) == (["bottle"], "/data")
    assert tree["detector"]["scoring"]["context_steps"] == 60


def test_preset_applies_only_the_section_of_the_detector() -> None:
    other = recipe_tree("vqvae", preset="quick")
    assert "detectors" not in other
    resolve({**other, "detector": "mean_image"})


def test_comparison_has_a_separate_budget() -> None:
    trees = recipe_trees(["vqvae", "memory_bank"], preset="quick")
    assert {tree["data"]["image_size"] for tree in trees.values()} == {256}
    assert trees["memory_bank"]["detector"]["bank_size"] == 5000
    single = recipe_tree("memory_bank", preset="quick")
    assert single["data"]["image_size"] == 128 and single["detector"]["bank_size"] == 1000
    assert "comparison" not in single and "comparison" not in trees["vqvae"]


def test_preset_enables_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "detector: {name: vqflow, pattern: {codebook_size: 300, coverage: 0}}\n"
        "training: {epochs: 0}\n"
    )
    tree = recipe_tree(str(recipe), preset="quick")
    assert tree["detector"]["pattern"] == {"codebook_size": 128, "coverage": 0}
    assert tree["training"]["epochs"] == 0


def test_ablations_contain_only_differences() -> None:
    complete = resolve(recipe_tree("vqflow"))
    paths = sorted((EXPERIMENTS / "ablations").glob("*.yaml"))
    assert len(paths) >= 8
    for path in paths:
        tree = recipe_tree(str(path))
        assert "base" not in tree
        values, base = flatten(dump(resolve(tree))), flatten(dump(complete))
        differ = {key for key in values if values[key] != base[key]}
        assert differ == set(flatten(read_recipe(path))) - {"base"}


def test_precedence_of_base_recipe_and_preset(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "first.yaml").write_text("detector: {name: vqvae, hidden: 8}\ndata: {seed: 3}\n")
    (tmp_path / "below/second.yaml").write_text("base: first\ndetector: {hidden: 16}\n")
    third = tmp_path / "below/third.yaml"
    third.write_text("base: ./second.yaml\ntraining: {epochs: 99}\n")
    tree = recipe_tree(str(third), ["data.seed=4"], preset="quick")
    assert tree["detector"] == {"name": "vqvae", "hidden": 16, "scoring": {"context_steps": 60}}
    assert (tree["data"]["seed"], tree["training"]["epochs"]) == (4, 12)


def test_recipe_may_have_the_name_of_its_base(tmp_path: Path) -> None:
    recipe = tmp_path / "vqflow.yaml"
    recipe.write_text("base: vqflow\ntraining: {seed: 5}\n")
    tree = recipe_tree(str(recipe))
    assert tree["training"] == {**recipe_tree("vqflow")["training"], "seed": 5}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("vqflwo", r"base must be a recipe that exists; got 'vqflwo'; did you mean vqflow\?"),
        ("nowhere.yaml", r"got 'nowhere.yaml'"),
        ("3", "base must be the name or the path of a recipe; got 3"),
        ("{name: vqflow}", "base must be the name or the path of a recipe"),
    ],
)
def test_unknown_base_raises(tmp_path: Path, base: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(f"base: {base}\n")
    with pytest.raises(UserError, match=message):
        recipe_tree(str(tmp_path / "recipe.yaml"))


def test_cyclic_bases_raise(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("base: two\n")
    (tmp_path / "two.yaml").write_text("base: one.yaml\n")
    with pytest.raises(UserError, match=r"based on itself; got .*one.yaml -> .*two.yaml -> .*one"):
        recipe_tree(str(tmp_path / "one.yaml"))


def test_local_files_precede_bundled_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("vqflow") == EXPERIMENTS / "vqflow.yaml"
    assert recipe_tree("ablations/vqflow_no_cpc", preset="tiny")["detector"]["name"] == "vqflow"
    local = Path("experiments/vqflow.yaml")
    local.parent.mkdir()
    local.write_text("base: vqflow\ntraining: {seed: 5}\n")
    assert find("vqflow") == local and recipe_path(str(EXPERIMENTS / "vqflow.yaml")) != local
    shipped = recipe_tree(str(EXPERIMENTS / "vqflow.yaml"))["training"]
    assert recipe_tree("vqflow")["training"] == {**shipped, "seed": 5}
    assert find("all", SWEEPS) == EXPERIMENTS / "sweeps/all.yaml"
    Path("vqvae").mkdir()  # a folder with that name is not a recipe
    assert recipe_path("vqvae") == EXPERIMENTS / "vqvae.yaml"


def test_local_space_may_include_bundled_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text(
        "objective: validation/pixel_auroc\nrecipes: {vqvae: vqvae, memory_bank: memory_bank}\n"
    )
    space = read_space(Path("two.yaml"))
    assert isinstance(space, Spaces) and list(space.recipes) == ["vqvae", "memory_bank"]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("vqfolw", RECIPE, r"recipe vqfolw does not exist; did you mean vqflow\? Available: .*"
         r"memory_bank, .*ablations/vqflow_naive, .*paper/vqvae; or use a YAML file\."),
        ("nothing", SWEEPS, "sweep space nothing does not exist; available: all, mean_image, "),
        ("validatoin", STUDIES, r"study validatoin does not exist; did you mean validation\?"),
    ],
)  # fmt: skip
def test_unknown_name_error_lists_available_ones(
    name: str, kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        find(name, kind)


def test_missing_recipe_file_raises() -> None:
    with pytest.raises(UserError, match=r"recipe my/vqvea.yaml does not exist; did you mean vqvae"):
        recipe_tree("my/vqvea.yaml")


def test_all_is_valid_for_sweeps_only() -> None:
    with pytest.raises(UserError, match="must be one recipe; got all"):
        recipe_tree("all")


def test_unknown_preset_raises() -> None:
    with pytest.raises(UserError, match="preset must be one of full, quick, tiny; got 'fast'"):
        recipe_tree("vqvae", preset="fast")
