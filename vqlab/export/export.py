"""Export a model: trace it, write the file, compare it with the original, move it into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vqlab.data import choose_categories, find_layout, find_root, input_shape
from vqlab.data.layouts import read_category
from vqlab.errors import UserError
from vqlab.export.bundle import write_bundle
from vqlab.export.description import describe
from vqlab.export.formats import FORMATS, Format
from vqlab.export.graph import trace
from vqlab.export.parity import Parity, measure_parity
from vqlab.model import Model
from vqlab.predict.files import find_images
from vqlab.text import join_names, visible

LEAST, MOST = 8, 16
"""Images of the comparison: at least 8; of test, at most 16 normal and 16 anomalous."""


@dataclass(frozen=True)
class Exported:
    """An exported model."""

    paths: tuple[Path, ...]
    """Written files; first the model."""
    parity: Parity
    bytes: int
    """Size of the model's files."""
    checkpoint_bytes: int
    """Size of the parameters of the original."""


def export_model(
    model: Model,
    name: str,
    output: Path,
    *,
    images: Path | None = None,
    version: int | None = None,
    bundle: bool = False,
) -> Exported:
    """Write a model to the folder `output` in the format `name`, if it scores as the original.

    images: folder of the images that both are compared on; None: test images of the model's
    dataset. version: registered version, for the description. bundle: also write script,
    requirements, README and checksums. Existing files of the same names are replaced once
    everything is written. Raises UserError, leaving `output` unchanged, for a model with
    `data.tiles`, if the detector cannot be exported, if images differ in input shape, if results
    differ, or if packages, images or a writable folder are missing.
    """
    target = _format(name)
    if model.data.tiles.size is not None:
        raise UserError(
            "a model to export must score images as a whole; this one cuts them into tiles "
            f"(data.tiles.size={model.data.tiles.size}); use `vqlab predict` or `vqlab serve`, or "
            "train one with data.tiles.size=null."
        )
    if bundle and name != "onnx":
        raise UserError(f"a bundle must have the format onnx; got {name}; omit --bundle.")
    target.require_packages()
    files = _files_in(images) if images is not None else test_images(model)
    model = _on_cpu(model)
    shape = _input_shape(model, files)
    description = describe(model, version, shape)
    program = trace(model, shape)
    with _Folder(output) as partial:
        path = target.write(program, description, partial)
        size = sum(each.stat().st_size for each in partial.iterdir())
        parity = measure_parity(model, target.load(path), files)
        parity.require(f"the {name} model")
        if bundle:
            write_bundle(partial, path.name, description, parity)
        names = sorted((each.name for each in partial.iterdir()), key=lambda n: (n != path.name, n))
    state = [*model.backbone.state_dict().values(), *model.detector.state_dict().values()]
    checkpoint = sum(value.nbytes for value in state)
    return Exported(tuple(output / each for each in names), parity, size, checkpoint)


def test_images(model: Model) -> list[Path]:
    """Return up to 16 normal and 16 anomalous test images of the dataset of a model."""
    hint = "pass --images FOLDER with images of the product"
    try:
        find_root(model.data)
        layout = find_layout(model.data)
        names = choose_categories(model.data)
        records = [
            record
            for name in names
            if model.image_category in (None, name)
            for record in read_category(layout, name).test
        ]
    except UserError as error:
        raise UserError(f"{error} To compare on other images, {hint}.") from None
    files = []
    for label in (0, 1):
        paths = [record.path for record in records if record.label == label]
        files += paths[:: max(1, -(-len(paths) // MOST))]
    if len(files) < LEAST:
        raise UserError(
            f"the comparison needs at least {LEAST} test images; the dataset of the model has "
            f"{len(files)}; {hint}."
        )
    return files


def _input_shape(model: Model, files: Sequence[Path]) -> tuple[int, int]:
    """Return the shape (H, W) of the network input of image files. Raises UserError if they have
    different ones."""
    shapes = {input_shape(model.read(file).shape[:2], model.data): file for file in files}
    if len(shapes) > 1:
        sizes = join_names([f"{width}x{height}" for height, width in shapes])
        raise UserError(
            "an exported model scores images of one aspect ratio (data.resize=aspect); these "
            f"become {sizes} pixels; pass --images FOLDER with images of one category."
        )
    return next(iter(shapes))


def _files_in(folder: Path) -> list[Path]:
    files = list(find_images([folder]).errors)
    if len(files) < LEAST:
        raise UserError(
            f"--images must be a folder of at least {LEAST} images; {visible(folder)} has "
            f"{len(files)}."
        )
    return files


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}; got {name!r}.")
    return FORMATS[name]


def _on_cpu(model: Model) -> Model:
    if model.device.type == "cpu":
        return model
    device = torch.device("cpu")
    detector, backbone = deepcopy(model.detector).to(device), deepcopy(model.backbone).to(device)
    return replace(model, device=device, detector=detector, backbone=backbone)


class _Folder:
    """A new folder in `output`, whose files move up on success; removed on failure."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def __enter__(self) -> Path:
        self._created: Sequence[Path] = [
            each for each in (self.output, *self.output.parents) if not each.exists()
        ]
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            self._partial = Path(tempfile.mkdtemp(prefix=".export.", dir=self.output))
        except OSError as error:
            raise UserError(
                f"--output {visible(self.output)} must be a writable folder "
                f"({error.strerror}); choose another."
            ) from None
        return self._partial

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            for file in sorted(self._partial.iterdir()):
                os.replace(file, self.output / file.name)
        shutil.rmtree(self._partial)
        if kind is not None:
            with suppress(OSError):  # another process may have written into it
                for folder in self._created:
                    folder.rmdir()
