"""Choose the backbones whose weights are available on this machine."""

from __future__ import annotations

from dataclasses import replace

from vqlab.features import unavailable_reason
from vqlab.run import RunConfig
from vqlab.sweep.space.schema import BACKBONE, Axis, Space
from vqlab.types import UserError


def choose_available(space: Space, config: RunConfig) -> tuple[Space, str]:
    """Return the space with the available backbones as choices, and a note about them.

    The recipe's own backbone comes first and is required. The axis is removed if no other one is
    available. Raises UserError if nothing is left to search, and for an unknown backbone.
    """
    axis = space.axes.get(BACKBONE)
    if axis is None or axis.available is None:
        return space, ""
    default = config.features.backbone
    chosen, without = [default], dict[str, list[str]]()
    for name in dict.fromkeys(axis.available):
        if name != default:
            reason = _missing(name, config)
            if reason:
                without.setdefault(reason, []).append(name)
            else:
                chosen.append(name)
    left = [f"{', '.join(names)} ({reason})" for reason, names in without.items()]
    out = f"; excluded: {'; '.join(left)}" if left else ""
    axes = dict(space.axes)
    if len(chosen) > 1:
        axes[BACKBONE] = Axis(choices=tuple(chosen))
        return replace(space, axes=axes), f"{BACKBONE} is one of {', '.join(chosen)}{out}."
    del axes[BACKBONE]
    if not axes:
        raise UserError(
            f"space {BACKBONE} must leave something to search; only {default} is available{out}; "
            "set features.weights to a folder of state dicts, or also search another setting."
        )
    return replace(space, axes=axes), f"{BACKBONE} is {default} in all trials{out}."


def _missing(name: str, config: RunConfig) -> str:
    """Return why a backbone is not available; empty if it is."""
    features = config.features.model_copy(update={"backbone": name})
    try:
        reason = unavailable_reason(features, config.data.image_size)
    except UserError as error:
        raise UserError(f"space {BACKBONE} with the value {name!r}: {error}") from None
    cause = reason.rpartition(";")[0] or reason  # without the remedy
    return cause.removeprefix("setting features.weights: ").rstrip(".")
