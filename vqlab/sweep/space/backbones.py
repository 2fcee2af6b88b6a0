"""Choose the backbones whose weights are available on this machine."""

from __future__ import annotations

from dataclasses import replace

from vqlab.features import unavailable_reason
from vqlab.run import RunConfig
from vqlab.sweep.space.schema import BACKBONE, Axis, Space
from vqlab.types import UserError


def choose_available(space: Space, config: RunConfig) -> tuple[Space, str]:
    """The space with `features.backbone: {available: [...]}` as choices; what is to be said of it.

    The recipe's own backbone comes first, whether it can be had or not: without it there is no
    sweep. With no other one the axis goes. Raises UserError where then nothing is searched, and
    for a name that no backbone has.
    """
    axis = space.axes.get(BACKBONE)
    if axis is None or axis.available is None:
        return space, ""
    own = config.features.backbone
    chosen, without = [own], dict[str, list[str]]()
    for name in dict.fromkeys(axis.available):
        if name != own:
            reason = _missing(name, config)
            if reason:
                without.setdefault(reason, []).append(name)
            else:
                chosen.append(name)
    left = [f"{', '.join(names)} ({reason})" for reason, names in without.items()]
    out = f"; left out: {'; '.join(left)}" if left else ""
    axes = dict(space.axes)
    if len(chosen) > 1:
        axes[BACKBONE] = Axis(choices=tuple(chosen))
        return replace(space, axes=axes), f"{BACKBONE} is one of {', '.join(chosen)}{out}."
    del axes[BACKBONE]
    if not axes:
        raise UserError(
            f"space {BACKBONE} must leave something to search; got {own} alone{out}; give a folder "
            "of state dicts as features.weights, or search another setting too."
        )
    return replace(space, axes=axes), f"{BACKBONE} is {own} in all trials{out}."


def _missing(name: str, config: RunConfig) -> str:
    """Why a backbone is left out, in few words; empty where it is not."""
    features = config.features.model_copy(update={"backbone": name})
    try:
        reason = unavailable_reason(features, config.data.image_size)
    except UserError as error:
        raise UserError(f"space {BACKBONE} with the value {name!r}: {error}") from None
    said = reason.rpartition(";")[0] or reason  # without what to do about it
    return said.removeprefix("setting features.weights: ").rstrip(".")
