"""Cached conditions on buffers that, once true, stay true.

Reading a tensor in Python waits for the device. A condition is evaluated until it is true and never
afterwards, so that a training step on a GPU does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

_KEY = "_latched"


def reset_on_load(module: nn.Module) -> None:
    """Evaluate the conditions of a module again after `load_state_dict`."""
    module.register_load_state_dict_post_hook(_reset)  # type: ignore[no-untyped-call]


def latched(module: nn.Module, name: str, condition: Callable[[], bool]) -> bool:
    """Return `condition()`, cached in the module as `name` once it is true."""
    names = module.__dict__.setdefault(_KEY, set())
    if name not in names:
        if not condition():
            return False
        names.add(name)
    return True


def _reset(module: nn.Module, _: object) -> None:
    module.__dict__.pop(_KEY, None)
