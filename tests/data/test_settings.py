"""The `data` section accepts common spellings and rejects invalid values with their path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vqlab.config import parse_overrides, read_recipe, validate
from vqlab.data import DataSettings
from vqlab.types import UserError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("bottle", ("bottle",)),
        ("bottle, screw", ("bottle", "screw")),
        (["bottle", "screw", "bottle"], ("bottle", "screw")),
        ("all", "all"),
    ],
)
def test_categories(written: Any, expected: Any) -> None:
    assert validate(DataSettings, {"categories": written}).categories == expected


def test_empty_root_is_none_and_home_is_expanded() -> None:
    assert validate(DataSettings, {"root": ""}).root is None
    assert validate(DataSettings, {"root": "~/x"}).root == Path.home() / "x"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"categories": []}, "data.categories: must name at least one"),
        ({"categories": 7}, "data.categories: must be a category"),
        ({"categories": ["all", "nut"]}, "data.categories"),
        ({"categories": "../nut"}, "data.root"),
        ({"image_size": 30}, "data.image_size"),
        ({"image_size": 66}, "multiple of 4"),
        ({"image_size": 2048}, "1024"),
        ({"held_out": 0.9}, "data.held_out"),
        ({"resize": "crop"}, "letterbox"),
        ({"brightness": "x"}, "border"),
        ({"synthetic_defects": 0}, "data.synthetic_defects"),
        (
            {"validation": {"source": "train"}},
            "data.validation.source: should be 'drawn' or 'test'",
        ),
        ({"validation": {"fraction": 1}}, "data.validation.fraction"),
        ({"validation": {"share": 0.3}}, "setting data.validation.share does not exist"),
        ({"image_sise": 64}, "did you mean data.image_size"),
    ],
)
def test_errors_name_the_path(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(DataSettings, tree, "data.")


def test_description_of_the_validation_set() -> None:
    message = DataSettings().validation.described
    assert message == "held-out normal images with synthetic anomalies"
    shared = validate(DataSettings, {"validation": {"source": "test", "fraction": 0.25}})
    assert (
        shared.validation.described == "held-out normal images and 25% of test, excluded from test"
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("007", ("007",)),
        ("[1, 02]", ("1", "02")),
        ("on,1e3", ("on", "1e3")),
        ("nut #1", ("nut #1",)),
        ("a: b", ("a: b",)),
        ("['a,b', ' x']", ("a,b", " x")),
        ("*x", ("*x",)),
        ("all", "all"),
    ],
)
def test_categories_are_strings(written: str, expected: Any) -> None:
    tree = parse_overrides([f"data.categories={written}"])
    assert validate(DataSettings, tree["data"]).categories == expected


def test_recipe_categories_are_strings(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data:\n  categories: [007, yes, 2024-01-01, null]\n  image_size: 064\n")
    settings = validate(DataSettings, read_recipe(recipe)["data"])
    assert settings.categories == ("007", "yes", "2024-01-01", "null")
    assert settings.image_size == 52  # YAML 1.1: octal
