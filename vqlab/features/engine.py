"""Inference engines of a frozen network on a CPU: torch, ONNX Runtime or OpenVINO."""

from __future__ import annotations

import logging
import tempfile
import threading
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.errors import UserError
from vqlab.features.recording import RecordedNetwork

EngineName = Literal["auto", "torch", "onnx", "openvino"]
TOLERANCE = 1e-4
"""Largest difference to torch, relative to the largest absolute value of a level."""
PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Packages of each engine, in the order in which `auto` tries them."""
EXTRAS = {"openvino": "openvino", "onnx": "export"}
OPSET = 18


class InferenceSettings(Settings):
    """Section `inference`: how `predict` and `serve` run a model; training always uses torch."""

    engine: EngineName = "torch"
    """Engine of the backbone on a CPU. `onnx` (ONNX Runtime) and `openvino` take 0.5 to 0.7 of the
    time of `torch` for networks of separable convolutions (MobileNet, EfficientNet, ConvNeXt), but
    more than `torch` for those of 3 × 3 convolutions (ResNet). They take one to three seconds to
    start, and change features by rounding. `auto`: torch for networks of 3 × 3 convolutions of many
    channels, otherwise the first of openvino, onnx and torch that is installed and agrees with
    torch."""


Run = Callable[[Any], list[Any]]
"""Returns the levels of an image, all arrays."""


class Engine:
    """A network compiled for single images, once for each shape, at the first image of it; its
    copies and pickles are None (torch)."""

    def __init__(self, name: str, network: nn.Module) -> None:
        self.name, self._network = name, network
        self._runs: dict[tuple[int, ...], Run] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the levels of an image (1, 3, H, W), as the network itself. Raises UserError if
        they differ by more than `TOLERANCE`."""
        shape = tuple(images.shape[2:])
        with self._lock:
            if shape not in self._runs:
                self._runs[shape] = _checked(self.name, self._network, shape)
        return _levels(self._runs[shape], images)

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def build_engine(name: str, network: nn.Module, image_size: int) -> Engine | None:
    """Return the engine of a network on the CPU; None for torch, also chosen by `auto`.

    Raises UserError if packages of the engine are missing, if it cannot run the network, or if its
    features differ from those of torch by more than `TOLERANCE`.
    """
    fast = isinstance(network, RecordedNetwork) and network.filtered
    if name == "torch" or (name == "auto" and fast):
        return None
    for each in PACKAGES if name == "auto" else (name,):
        try:
            engine = Engine(each, network)
            engine(torch.zeros(1, 3, image_size, image_size))
            return engine
        except UserError:
            if name != "auto":
                raise
    return None


@torch.no_grad()
def _checked(name: str, network: nn.Module, shape: tuple[int, ...]) -> Run:
    missing = [package for package in PACKAGES[name] if find_spec(package) is None]
    if missing:
        raise UserError(
            f"inference.engine {name} needs the packages {', '.join(missing)}; install them with "
            f"pip install 'vqlab[{EXTRAS[name]}]', or set inference.engine=auto."
        )
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, *shape, generator=generator)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, on their own deprecations
            run = _BUILDERS[name](network, images)
            levels = _levels(run, images)
    except Exception as error:  # converters and compilers raise many kinds of errors
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"inference.engine {name} cannot run this backbone ({reason}); set "
            "inference.engine=torch."
        ) from None
    pairs = zip(network(images), levels, strict=True)
    largest = max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in pairs)
    if not largest <= TOLERANCE:  # NaN as well
        raise UserError(
            f"features of inference.engine {name} must agree with torch to {TOLERANCE:g} "
            f"(relative); the difference is {largest:.2g}; set inference.engine=torch."
        )
    return run


def _levels(run: Run, images: Tensor) -> list[Tensor]:
    return [torch.from_numpy(level) for level in run(images.contiguous().numpy())]


def _openvino(network: nn.Module, images: Tensor) -> Run:
    import openvino

    threads = torch.get_num_threads()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = openvino.convert_model(network, example_input=images)
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    requests = threading.local()  # a request runs one image at a time

    def run(pixels: Any) -> list[Any]:
        if not hasattr(requests, "value"):
            requests.value = compiled.create_infer_request()
        return [np.array(level) for level in requests.value.infer([pixels]).values()]

    return run


def _onnx(network: nn.Module, images: Tensor) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    for name in ("onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        torch.onnx.export(network, (images,), path, dynamo=True, opset_version=OPSET, verbose=False)
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    return lambda pixels: list(session.run(None, {source.name: pixels}))


_BUILDERS = {"openvino": _openvino, "onnx": _onnx}
