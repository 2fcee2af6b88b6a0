"""Conditions on buffers that stay true once they are.

Reading a tensor in Python waits for the device. These are read until they are true, then never
again, so that a training step on a GPU does not wait for them.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

_KEY = "_latched"


def reset_on_load(module: nn.Module) -> None:
    """Read the conditions of a module again after `load_state_dict`."""
    module.register_load_state_dict_post_hook(_reset)  # type: ignore[no-untyped-call]


def latched(module: nn.Module, name: str, read: Callable[[], bool]) -> bool:
    """Return the condition `name` of a module; `read` is not called once it has returned True."""
    names = module.__dict__.setdefault(_KEY, set())
    if name not in names:
        if not read():
            return False
        names.add(name)
    return True


def _reset(module: nn.Module, _: object) -> None:
    module.__dict__.pop(_KEY, None)
