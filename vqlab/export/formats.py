"""Formats of an exported model: write a file, and load it for the comparison."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from vqlab import runtime
from vqlab.errors import UserError
from vqlab.pixels.preprocessing import Array
from vqlab.runtime import KEY

Description = Mapping[str, Any]


class Format(ABC):
    """A file format. `name` is that of the option `--format`."""

    name: ClassVar[str]
    file: ClassVar[str]
    """Name of the main file."""
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "export"
    """Extra of vqlab that installs the packages."""

    @abstractmethod
    def write(self, program: ExportedProgram, description: Description, folder: Path) -> Path:
        """Write the model into `folder` and return the path of its file."""

    @abstractmethod
    def load(self, path: Path) -> runtime.Model:
        """Return the model of a file, to run in one thread."""

    def require_packages(self) -> None:
        """Raise UserError if a package is missing."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise UserError(
                f"format {self.name} needs the packages {', '.join(missing)}; install them with "
                f"pip install 'vqlab[{self.extra}]'."
            )


class Onnx(Format):
    """ONNX, for onnxruntime and `vqlab.runtime`."""

    name, file = "onnx", "model.onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, program: ExportedProgram, description: Description, folder: Path) -> Path:
        from vqlab.export.onnx_format import write_onnx  # onnx is an extra

        write_onnx(program, description, folder / self.file)
        return folder / self.file

    def load(self, path: Path) -> runtime.Model:
        return runtime.Model(path, threads=1)


class TorchScript(Format):
    """TorchScript, for libtorch; the description is the extra file `vqlab.json`."""

    name, file = "torchscript", "model.pt"
    described = f"{KEY}.json"

    def write(self, program: ExportedProgram, description: Description, folder: Path) -> Path:
        shape, path = description["preprocessing"]["input_shape"], folder / self.file
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and traces warn
            example = torch.zeros(3, *shape)
            single = torch.jit.trace(program.module(), example, check_trace=False)  # type: ignore[no-untyped-call]
            batched = torch.jit.script(_Batched(single).eval())
            extra = {self.described: json.dumps(description)}
            torch.jit.save(batched, path, _extra_files=extra)
        return path

    def load(self, path: Path) -> runtime.Model:
        return _TorchScriptModel(path, threads=1)


class _Batched(nn.Module):
    """Scores a batch image by image: (B, 3, H, W) → (B, H, W) and (B,)."""

    def __init__(self, single: nn.Module) -> None:
        super().__init__()
        self.single = single

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps, scores = [], []
        for pixels in image.unbind(0):
            anomaly_map, score = self.single(pixels)
            maps.append(anomaly_map)
            scores.append(score)
        return torch.stack(maps), torch.stack(scores)


class _TorchScriptModel(runtime.Model):
    def open(self, path: str, threads: int | None) -> str:
        extra = {TorchScript.described: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._module = torch.jit.load(path, _extra_files=extra)  # type: ignore[no-untyped-call]
        return extra[TorchScript.described]

    @torch.no_grad()
    def run(self, images: Array) -> tuple[Array, Array]:
        maps, scores = self._module(torch.from_numpy(images))
        return maps.numpy(), scores.numpy()


class OpenVino(Format):
    """OpenVINO's model.xml and model.bin, converted from ONNX; float32."""

    name, file = "openvino", "model.xml"
    packages = ("onnx", "onnxscript", "openvino")
    extra = "openvino"

    def write(self, program: ExportedProgram, description: Description, folder: Path) -> Path:
        import openvino

        source = folder / Onnx.file
        Onnx().write(program, description, folder)
        model = openvino.Core().read_model(source)
        model.set_rt_info(json.dumps(description), [KEY])
        openvino.save_model(model, folder / self.file, compress_to_fp16=False)
        del model
        source.unlink()
        return folder / self.file

    def load(self, path: Path) -> runtime.Model:
        return _OpenVinoModel(path, threads=1)


class _OpenVinoModel(runtime.Model):
    def open(self, path: str, threads: int | None) -> str:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = core.compile_model(model, "CPU", settings)
        description: str = model.get_rt_info([KEY]).astype(str)
        return description

    def run(self, images: Array) -> tuple[Array, Array]:
        result = self._compiled(images)
        return result[0], result[1]


FORMATS: dict[str, Format] = {each.name: each for each in (Onnx(), TorchScript(), OpenVino())}
