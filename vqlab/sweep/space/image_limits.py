"""Limit a search space to settings that suit the number of training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vqlab.config import Tree, flatten, with_settings
from vqlab.data import Splits
from vqlab.run import limit_settings, resolve
from vqlab.sweep.space.compile import Plan, plan
from vqlab.sweep.space.schema import Axis


def limit_plan(checked: Plan, splits: Splits) -> Plan:
    """Return the plan whose recipe and choices are limited as a run limits them, with a note on
    each limited setting.

    Each choice that needs more training images is replaced by the value that a run would use, so
    that no trial fails for it. Other plans are returned unchanged.
    """
    base = _limited(checked.tree, splits)
    axes = {
        setting: _limit_axis(setting, axis, checked.tree, splits)
        for setting, axis in checked.space.axes.items()
    }
    limited = {name: axis for name, axis in axes.items() if axis != checked.space.axes[name]}
    if not base and not limited:
        return checked
    images = len(splits.train.tiled())
    notes = [f"{name} is {value}" for name, value in base.items() if name not in limited]
    for name, axis in limited.items():
        choices = [str(choice) for choice in axis.choices or ()]
        notes.append(f"{name} is {'one of ' * (len(choices) > 1)}{', '.join(choices)}")
    note = f"{'; '.join(notes)}: there are only {images} training images."
    changed = plan(replace(checked.space, axes=axes), with_settings(checked.tree, base))
    return replace(changed, note=" ".join(filter(None, (checked.note, note))))


def _limit_axis(setting: str, axis: Axis, tree: Tree, splits: Splits) -> Axis:
    """Return the axis with the values that runs of its choices would use, each once."""
    if axis.choices is None or not setting.startswith("detector."):
        return axis
    choices = []
    for choice in axis.choices:
        limited = _limited(with_settings(tree, {setting: choice}), splits)
        value = limited.get(setting, choice)
        if value not in choices:
            choices.append(value)
    return axis if tuple(choices) == axis.choices else Axis(choices=tuple(choices))


def _limited(tree: Mapping[str, Any], splits: Splits) -> dict[str, Any]:
    """Return the detector settings that a run with these settings would change, by path."""
    config = resolve(tree)
    before = flatten({"detector": config.detector})
    after = flatten({"detector": limit_settings(config, splits)[0].detector})
    return {name: value for name, value in after.items() if before.get(name) != value}
