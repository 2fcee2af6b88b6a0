"""A frozen network as the list of its operations, which a checkpoint carries.

timm takes seconds to import, and its networks may change between versions. A recorded network calls
the same functions of PyTorch in the same order as the network that was recorded: its levels are
equal bit for bit. If its record is fused, levels of single images on a CPU differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from vqlab.config import Settings
from vqlab.features.fused import Chain, Operation, build_convolution, find_chains, references
from vqlab.nn.convolution import traced
from vqlab.nn.frozen_convolution import FrozenConvolution

_NAMES = {
    "torch": "addcmul cat sigmoid",
    "torch.nn.functional": "avg_pool2d batch_norm conv2d dropout elu gelu group_norm hardsigmoid "
    "hardswish hardtanh interpolate layer_norm leaky_relu linear max_pool2d mish relu relu6 "
    "sigmoid silu softmax",
    "torch.Tensor": "add add_ contiguous div div_ mean mul mul_ neg norm permute pow reshape "
    "sigmoid sub sub_ sum tanh transpose view",
}
FUNCTIONS = frozenset(f"{owner}.{name}" for owner in _NAMES for name in _NAMES[owner].split())
"""Functions that a recorded network may call: those of tensors alone."""
_RANK = {"torch.Tensor.dim", "torch.Tensor.ndim.__get__"}
"""Queries whose results do not depend on batch and image size, and are part of the record."""
_LAYOUTS = {str(each): each for each in (torch.channels_last, torch.contiguous_format)}
TOLERANCE = 1e-4
"""Largest difference of fused operations, relative to the largest absolute value of a level."""
_SIDES = (64, 96)
"""Sides of the images with which a record is made and checked, in pixels."""


class Record(Settings):
    """The operations of a network. Value 0 is the images; every operation adds its results."""

    levels: list[int]
    state: list[tuple[str, bool]]
    """Keys of the state dict, in its order, and whether each is a parameter."""
    operations: list[Operation]
    outputs: list[int]
    """Indices of the values that are the levels."""
    fused: bool = False
    """Whether a CPU computes chains of operations at once (`vqlab.features.fused`), so that levels
    differ by rounding; false in older records."""


class RecordedNetwork(nn.Module):
    """Images (B, 3, H, W) in [0, 1] → levels (B, C_l, h_l, w_l), finest first, as recorded."""

    def __init__(self, record: Record, state: Mapping[str, Tensor]) -> None:
        """state: state dict of the recorded network. Raises ValueError for a record that this
        version cannot run, or that does not fit the state dict."""
        super().__init__()
        self.record, self.levels = record, tuple(record.levels)
        if {key for key, _ in record.state} != set(state):
            raise ValueError("the record and the state dict must have the same keys")
        if not record.levels or len(record.levels) != len(record.outputs):
            raise ValueError("the record must have an output for each level, and at least one")
        for key, is_parameter in record.state:
            _place(self, key, state[key], is_parameter)
        self.register_state_dict_post_hook(make_contiguous)  # type: ignore[no-untyped-call]
        self._steps = _schedule(record, set(state), [])
        chains = find_chains(record.operations, record.outputs) if record.fused else []
        self._fused_steps = _schedule(record, set(state), chains)
        self._convolutions: dict[Chain, FrozenConvolution] = {}
        self.register_load_state_dict_post_hook(_forget_convolutions)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> list[Tensor]:
        fused = images.is_cpu and len(images) == 1 and not traced()
        values = {0: images}
        for number, chain, unused in self._fused_steps if fused else self._steps:
            operation = self.record.operations[number]
            values[number + 1] = (
                self._call(operation, values) if chain is None else self._convolve(chain, values)
            )
            for index in unused:
                del values[index]
        return [values[index] for index in self.record.outputs]

    @property
    def filtered(self) -> bool:
        """Whether convolutions of single images on a CPU are computed by minimal filtering."""
        return any(self._convolution(chain).filtered for _, chain, _ in self._fused_steps if chain)

    def _convolve(self, chain: Chain, values: Mapping[int, Tensor]) -> Tensor:
        residual = None if chain.residual is None else values[chain.residual]
        try:
            return self._convolution(chain)(values[chain.source], residual, chain.rectify)
        except (TypeError, ValueError) as error:
            raise RuntimeError(f"recorded convolution failed: {error}") from None

    def _convolution(self, chain: Chain) -> FrozenConvolution:
        if chain not in self._convolutions:
            state = dict(self.named_parameters()) | dict(self.named_buffers())
            convolution = build_convolution(chain, self.record.operations, state)
            self._convolutions[chain] = convolution
        return self._convolutions[chain]

    def _call(self, operation: Operation, values: Mapping[int, Tensor]) -> Any:
        def decode(argument: Any) -> Any:
            if isinstance(argument, list):
                return [decode(each) for each in argument]
            if not isinstance(argument, dict):
                return argument
            ((kind, at),) = argument.items()
            if kind == "value":
                return values[at]
            return _LAYOUTS[at] if kind == "layout" else reduce(getattr, at.split("."), self)

        function, arguments, named = operation
        try:
            return _function(function)(
                *map(decode, arguments), **{key: decode(value) for key, value in named.items()}
            )
        except (TypeError, KeyError) as error:
            raise RuntimeError(f"recorded call of {function} failed: {error}") from None


def make_contiguous(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Hook of `state_dict` that undoes the memory format of the weights; safetensors stores no
    strides."""
    for key, value in state.items():
        if key.startswith(prefix):
            state[key] = value.contiguous()


@torch.no_grad()
def record_network(network: nn.Module) -> Record | None:
    """Record a network with the attribute `levels`, in evaluation mode.

    Return None if its operations depend on the image size, or if it uses functions outside
    `FUNCTIONS`. The record is made with one batch of images, and must give equal levels for another
    one.
    """
    levels: Any = network.levels
    parameters = dict(network.named_parameters())
    tensors = {**parameters, **dict(network.named_buffers())}
    state = network.state_dict()
    device = next(iter(state.values())).device
    small, large = _SIDES
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.rand(*shape, generator=generator).to(device)
        for shape in ((2, 3, small, small), (1, 3, small, large))
    )
    recorder = _Recorder(first, tensors)
    try:
        with recorder:
            outputs = network(first)
        record = Record(
            levels=list(levels),
            state=[(key, key in parameters) for key in state],
            operations=recorder.operations,
            outputs=[recorder.encode(level)["value"] for level in outputs],
        )
        recorded = RecordedNetwork(record, state)
        pairs = zip(recorded(second), network(second), strict=True)
        equal = all(torch.equal(a, b) for a, b in pairs)
    except (ValueError, KeyError, RuntimeError, AssertionError):  # other sizes may be impossible
        return None
    return record if equal else None


@torch.no_grad()
def fuse(record: Record, state: Mapping[str, Tensor], side: int) -> Record:
    """Return the record with `fused`; unchanged if the levels of an image would differ by more than
    rounding.

    state: state dict of the recorded network, on the CPU. side: of the images to score, in pixels;
    the number of tiles of a map decides whether it is computed by minimal filtering.
    """
    fused = record.model_copy(update={"fused": True})
    shape = side, side + _SIDES[1] - _SIDES[0]
    images = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    try:
        pairs = zip(*(RecordedNetwork(r, state)(images) for r in (fused, record)), strict=True)
    except (RuntimeError, AssertionError, ValueError, IndexError):  # images of this size
        return record
    close = all(float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max()) for a, b in pairs)
    return fused if close else record


def _forget_convolutions(network: RecordedNetwork, _: Any) -> None:
    network._convolutions.clear()


class _Recorder(TorchFunctionMode):
    """Record the functions of PyTorch that are called, by their arguments."""

    def __init__(self, images: Tensor, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._values = [images]  # kept, because ids of deleted tensors are reused
        self._indices = {id(images): 0}
        self._keys = {id(tensor): key for key, tensor in state.items()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        results = func(*args, **named)
        name = resolve_name(func)
        used = any(isinstance(each, Tensor) for each in (*args, *named.values(), results))
        if name in _RANK or not used:
            return results
        if name not in FUNCTIONS:
            raise ValueError(f"{name} cannot be recorded")
        encoded = [self.encode(each) for each in args]
        self.operations.append(
            Operation(name, encoded, {key: self.encode(value) for key, value in named.items()})
        )
        for result in (results,) if isinstance(results, Tensor) else results:
            self._indices[id(result)] = len(self._values)
            self._values.append(result)
        return results

    def encode(self, argument: Any) -> Any:
        """Return an argument as JSON. Raises ValueError if that is not possible."""
        if isinstance(argument, Tensor):
            if id(argument) in self._indices:
                return {"value": self._indices[id(argument)]}
            if id(argument) in self._keys:
                return {"state": self._keys[id(argument)]}
        elif isinstance(argument, torch.memory_format) and str(argument) in _LAYOUTS:
            return {"layout": str(argument)}
        elif isinstance(argument, list | tuple):
            return [self.encode(each) for each in argument]
        elif argument is None or isinstance(argument, bool | int | float | str):
            return argument
        raise ValueError(f"an argument of type {type(argument).__name__} cannot be recorded")


@cache
def _function(name: str) -> Callable[..., Any]:
    """Return the function of this name among `FUNCTIONS`."""
    attribute: Any = torch
    for part in name.split(".")[1:]:
        attribute = getattr(attribute, part)
    function: Callable[..., Any] = attribute
    return function


def _place(root: nn.Module, key: str, value: Tensor, is_parameter: bool) -> None:
    """Add a tensor to a tree of modules, in channels-last layout: convolutions are faster."""
    *path, name = key.split(".")
    module = root
    for part in path:
        if part not in dict(module.named_children()):
            try:
                module.add_module(part, nn.Module())
            except (KeyError, TypeError) as error:
                raise ValueError(f"{key} is not a valid key: {error}") from None
        module = module.get_submodule(part)
    if hasattr(module, name):
        raise ValueError(f"{key} is not a valid key")
    if value.ndim == 4:
        value = value.contiguous(memory_format=torch.channels_last)
    if is_parameter:
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    else:
        module.register_buffer(name, value)


class _Step(NamedTuple):
    """An operation, or a chain of operations by the number of the last one."""

    number: int
    chain: Chain | None
    unused: list[int]
    """Values that no later step uses."""


def _schedule(record: Record, keys: set[str], chains: Sequence[Chain]) -> list[_Step]:
    """Return the steps of a forward pass. Raises ValueError for unknown functions and keys of the
    state dict, and for values that no earlier operation returns."""
    ends = {number: chain.numbers[-1] for chain in chains for number in chain.numbers}
    chain_at = {chain.numbers[-1]: chain for chain in chains}
    last: dict[int, int] = {}
    for number, operation in enumerate(record.operations):
        if operation.function not in FUNCTIONS:
            raise ValueError(f"unknown function {operation.function}")
        for kind, at in references([operation.arguments, *operation.named.values()]):
            if kind == "value" and isinstance(at, int) and 0 <= at <= number:
                last[at] = max(last.get(at, 0), ends.get(number, number))
            elif at not in {"state": keys, "layout": _LAYOUTS}.get(kind, ()):
                raise ValueError(f"unknown {kind} {at}")
    if not all(0 <= index <= len(record.operations) for index in record.outputs):
        raise ValueError(f"unknown value in the outputs {record.outputs}")
    inside = {number + 1 for number, end in ends.items() if number != end}
    steps = [
        _Step(number, chain_at.get(number), [])
        for number in range(len(record.operations))
        if ends.get(number, number) == number
    ]
    by_number = {step.number: step for step in steps}
    for index, number in last.items():
        if index not in record.outputs and index not in inside:
            by_number[number].unused.append(index)
    return steps
