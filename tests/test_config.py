"""Settings: recipes, overrides and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from vqlab.config import (
    Settings,
    digest,
    dump,
    flatten,
    merge,
    nest,
    parse_overrides,
    read_recipe,
    validate,
)
from vqlab.errors import UserError


class Inner(Settings):
    smoothing: float = Field(4.0, ge=0)


class Section(Settings):
    rate: float = Field(1e-3, gt=0, le=1)
    epochs: int = 3
    inner: Inner = Inner()


keys = st.text("abcdef", min_size=1, max_size=4)
trees = st.recursive(
    st.dictionaries(keys, st.integers() | st.booleans() | st.text("xyz"), min_size=1, max_size=3),
    lambda below: st.dictionaries(keys, below | st.integers(), min_size=1, max_size=3),
    max_leaves=8,
)


@given(trees)
def test_flatten_and_nest_are_inverse(tree: dict[str, object]) -> None:
    rebuilt: dict[str, object] = {}
    for path, value in flatten(tree).items():
        rebuilt = merge(rebuilt, nest(path, value))
    assert rebuilt == tree


@given(trees, trees)
def test_merge_prefers_the_update(base: dict[str, object], over: dict[str, object]) -> None:
    flat = flatten(merge(base, over))
    assert flatten(over).items() <= flat.items()


def test_numbers_that_yaml_reads_as_strings() -> None:
    tree = parse_overrides(["rate=1e-4", "epochs=7", "inner.smoothing=2"])
    section = validate(Section, tree)
    assert (section.rate, section.epochs, section.inner.smoothing) == (1e-4, 7, 2.0)


@pytest.mark.parametrize(
    ("tree", "messages"),
    [
        ({"rat": 1}, ["s.rat does not exist", "did you mean s.rate"]),
        ({"inner": {"smothing": 1}}, ["s.inner.smothing", "did you mean s.inner.smoothing"]),
        ({"zzz": 1}, ["known: s.rate, s.epochs, s.inner"]),
        ({"rate": -1}, ["s.rate", "greater than 0", "got -1"]),
        ({"rate": "fast"}, ["s.rate", "valid number", "'fast'"]),
        ({"rate": float("nan")}, ["s.rate", "finite"]),
        ({"epochs": 2.5}, ["s.epochs", "integer", "2.5"]),
        ({"rate": 5, "epochs": "x"}, ["s.rate", "s.epochs"]),
    ],
)
def test_invalid_setting_is_one_sentence(tree: dict[str, object], messages: list[str]) -> None:
    with pytest.raises(UserError) as error_info:
        validate(Section, tree, "s.")
    for word in messages:
        assert word in str(error_info.value)
    assert "\n" not in str(error_info.value)


@pytest.mark.parametrize("text", ["epochs", "=3", " epochs=3"])
def test_override_must_be_an_assignment(text: str) -> None:
    with pytest.raises(UserError, match="dotted.path=value"):
        parse_overrides([text])


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Section().rate = 0.5  # type: ignore[misc]


def test_invalid_recipe_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must be a mapping of sections; got list"):
        read_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="not valid YAML"):
        read_recipe(tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="its folder contains bad.yaml, list.yaml"):
        read_recipe(tmp_path / "baad.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert read_recipe(tmp_path / "empty.yaml") == {}


def test_digest_depends_on_values_only() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest(dump(Section())) != digest(dump(Section(epochs=4)))
