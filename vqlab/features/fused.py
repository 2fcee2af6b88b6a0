"""Chains of recorded operations that are computed at once: convolution, batch norm, sum, ReLU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqlab.nn.frozen_convolution import FrozenConvolution

_CONVOLUTION = "torch.nn.functional.conv2d"
_NORM = "torch.nn.functional.batch_norm"
_SUMS = ("torch.Tensor.add", "torch.Tensor.add_")
_RELU = "torch.nn.functional.relu"
_PARAMETERS = {
    _CONVOLUTION: "input weight bias stride padding dilation groups",
    _NORM: "input running_mean running_var weight bias training momentum eps",
    _RELU: "input inplace",
}


class Operation(NamedTuple):
    """A call. A tensor in the arguments is {"value": index}, or {"state": key} of the state dict; a
    memory format is {"layout": name}."""

    function: str
    arguments: list[Any]
    named: dict[str, Any]


class Chain(NamedTuple):
    """Operations that are computed at once, by their numbers, and the values they use."""

    convolution: int
    norm: int | None
    source: int
    """Index of the value that is convolved."""
    residual: int | None
    """Index of the value that is added."""
    rectify: bool
    """Whether ReLU is the last operation."""
    numbers: tuple[int, ...]
    """All operations, in order."""


def find_chains(operations: Sequence[Operation], outputs: Sequence[int]) -> list[Chain]:
    """Return the chains of a record, in the order of their convolutions.

    A chain is computed where its last operation is. Therefore no other operation uses the values
    within it, and none between its first and its last operation works in place.
    """
    users: dict[int, list[int]] = defaultdict(list)
    for number, operation in enumerate(operations):
        for index in _values([operation.arguments, *operation.named.values()]):
            users[index].append(number)
    in_chains: set[int] = set()
    chains = []
    for start, operation in enumerate(operations):
        source = _source_of_convolution(operation)
        if source is None:
            continue
        numbers, norm, residual, rectify = [start], None, None, False
        for kind in ("norm", "sum", "relu"):
            value = numbers[-1] + 1  # index of the result of an operation
            number = users[value][0] if len(users[value]) == 1 and value not in outputs else -1
            if number < 0 or number in in_chains:
                break
            between = set(range(start, number)) - set(numbers)
            if any(_works_in_place(operations[each]) for each in between):
                break
            following = operations[number]
            if kind == "norm" and _is_norm(following, value):
                norm = number
            elif kind == "sum" and (added := _added_value(following, value)) is not None:
                residual = added
            elif kind == "relu" and _is_relu(following, value):
                rectify = True
            else:
                continue
            numbers.append(number)
        in_chains.update(numbers)
        chains.append(Chain(start, norm, source, residual, rectify, tuple(numbers)))
    return chains


@torch.no_grad()
def build_convolution(
    chain: Chain, operations: Sequence[Operation], state: Mapping[str, Tensor]
) -> FrozenConvolution:
    """Return the convolution of a chain, with its batch norm folded into it in float64."""
    call = _named(operations[chain.convolution])
    weight = state[call["weight"]["state"]].double()
    biased = call.get("bias") is not None
    bias = state[call["bias"]["state"]].double() if biased else weight.new_zeros(1)
    if chain.norm is not None:
        call_of_norm = _named(operations[chain.norm])
        mean, variance, scale, shift = (
            state[call_of_norm[key]["state"]].double()
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        scale = scale / (variance + call_of_norm["eps"]).sqrt()
        weight, bias = weight * scale[:, None, None, None], (bias - mean) * scale + shift
    geometry = {
        "stride": call.get("stride", 1),
        "padding": call.get("padding", 0),
        "dilation": call.get("dilation", 1),
        "groups": call.get("groups", 1),
    }
    return FrozenConvolution(weight.float(), bias.float(), **geometry)


def _named(operation: Operation) -> dict[str, Any]:
    """Return the arguments of a function in `_PARAMETERS` by name."""
    names = _PARAMETERS[operation.function].split()
    call: dict[str, Any] = dict(zip(names, operation.arguments, strict=False))
    return call | operation.named


def _source_of_convolution(operation: Operation) -> int | None:
    """Return the value that is convolved by weights of the state dict; None for anything else."""
    if operation.function != _CONVOLUTION:
        return None
    call = _named(operation)
    constant = _is_state(call.get("weight"))
    if call.get("bias") is not None:
        constant = constant and _is_state(call["bias"])
    return next(_values(call.get("input")), None) if constant else None


def _is_norm(operation: Operation, value: int) -> bool:
    if operation.function != _NORM:
        return False
    call = _named(operation)
    keys = ("running_mean", "running_var", "weight", "bias")
    fixed = not call.get("training") and all(_is_state(call.get(key)) for key in keys)
    return fixed and call.get("input") == {"value": value} and "eps" in call


def _added_value(operation: Operation, value: int) -> int | None:
    """Return the value that is added to `value`; None if the operation is not such a sum."""
    indices = list(_values(operation.arguments))
    if operation.function not in _SUMS or operation.named or len(operation.arguments) != 2:
        return None
    return indices[1 - indices.index(value)] if len(indices) == 2 else None


def _is_relu(operation: Operation, value: int) -> bool:
    return operation.function == _RELU and _named(operation).get("input") == {"value": value}


def _works_in_place(operation: Operation) -> bool:
    return operation.function.endswith("_") or bool(
        operation.named.get("inplace") or True in operation.arguments
    )


def _is_state(argument: Any) -> bool:
    return isinstance(argument, dict) and "state" in argument


def _values(argument: Any) -> Iterator[int]:
    """Yield the indices of the values in encoded arguments."""
    return (at for kind, at in references(argument) if kind == "value")


def references(argument: Any) -> Iterator[tuple[str, Any]]:
    """Yield the references in encoded arguments: kind and index, key or name, see `Operation`.

    Raises ValueError for a reference of several kinds.
    """
    if isinstance(argument, list):
        for each in argument:
            yield from references(each)
    elif isinstance(argument, dict):
        if len(argument) != 1:
            raise ValueError("a reference must have one kind")
        yield from argument.items()
