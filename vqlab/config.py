"""Settings: a recipe (YAML) and dotted overrides become validated, frozen settings.

`Settings` is the base class of every section; each section is defined next to the code that uses
it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vqlab.errors import UserError, did_you_mean

S = TypeVar("S", bound="Settings")
Tree = dict[str, Any]
NAMES = frozenset({"data.categories"})
"""Settings that hold names: parsed as text, so that `007` and `on` stay strings."""


class Settings(BaseModel):
    """Base class of a section: frozen, without unknown keys, finite numbers, validated defaults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


def read_recipe(path: Path) -> Tree:
    """Return the tree of a YAML recipe. Raises UserError if it is missing or not a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = ", ".join(sorted(file.name for file in path.parent.glob("*.yaml")))
        hint = f"; its folder contains {names}" if names else ""
        raise UserError(f"recipe {path} does not exist{hint}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} cannot be read: {error}.") from None
    try:
        tree = yaml.safe_load(text)
        written = flatten(yaml.load(text, yaml.BaseLoader)) if isinstance(tree, dict) else {}
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"recipe {path} is not valid YAML: {problem}.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"recipe {path} must be a mapping of sections; got {type(tree).__name__}.")
    return _with_names(tree, written)


def _with_names(tree: Tree, texts: Mapping[str, Any]) -> Tree:
    """Return `tree` with the settings in `NAMES` as text."""
    return with_settings(tree, {setting: texts[setting] for setting in NAMES & texts.keys()})


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> Tree:
    """Return `base` recursively updated with `update`; neither is changed."""
    merged: Tree = {**base, **update}
    for key, value in update.items():
        section = base.get(key)
        if isinstance(value, Mapping) and isinstance(section, Mapping):
            merged[key] = merge(section, value)
    return merged


def parse_overrides(assignments: Iterable[str]) -> Tree:
    """Parse `["training.epochs=3", ...]` to a tree; values are YAML (`1e-4` is a number)."""
    tree: Tree = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path or path != path.strip():
            raise UserError(
                f"an override must have the form dotted.path=value; got {assignment!r}."
            )
        tree = merge(tree, nest(path, _value(path, text)))
    return tree


def _value(path: str, text: str) -> Any:
    """Parse `text` as the value of the setting `path`."""
    if path in NAMES and not text.lstrip().startswith(("[", "'", '"')):
        return text
    try:
        return yaml.load(text, yaml.BaseLoader) if path in NAMES else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def nest(path: str, value: Any) -> Tree:
    """Return the tree in which `dotted.path` has `value`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def with_settings(tree: Mapping[str, Any], settings: Mapping[str, Any]) -> Tree:
    """Return `tree` with settings by dotted path."""
    for path, value in settings.items():
        tree = merge(tree, nest(path, value))
    return dict(tree)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a tree to `dotted.path` → leaf, the inverse of `nest`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def validate(kind: type[S], tree: Mapping[str, Any], prefix: str = "") -> S:
    """Validate a tree as settings of `kind`. Raises UserError that lists all invalid settings."""
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        raise UserError(" ".join(_sentences(kind, error, prefix))) from None


def _sentences(kind: type[Settings], error: ValidationError, prefix: str) -> list[str]:
    sentences = []
    for fault in error.errors():
        path = prefix + ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            paths = _paths(kind, prefix)
            siblings = [p for p in paths if p.rpartition(".")[0] == path.rpartition(".")[0]]
            hint = did_you_mean(path, paths) or f"known: {', '.join(siblings)}."
            sentences.append(f"setting {path} does not exist; {hint}")
        else:
            problem = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
            got = "" if isinstance(fault["input"], Mapping) else f"; got {fault['input']!r}"
            sentences.append(f"setting {path or prefix or kind.__name__}: {problem}{got}.")
    return sentences


def _paths(kind: type[Settings], prefix: str) -> list[str]:
    paths = []
    for name, field in kind.model_fields.items():
        paths.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            paths += _paths(field.annotation, f"{prefix}{name}.")
    return paths


def dump(settings: Settings) -> Tree:
    """Return the resolved settings as plain JSON values."""
    return settings.model_dump(mode="json")


def digest(value: Any) -> str:
    """Return the sha256 (hex) of plain JSON values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
