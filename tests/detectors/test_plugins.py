"""Detectors from files and modules listed in VQLAB_DETECTORS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vqlab.config import dump
from vqlab.detectors import base, detector_class
from vqlab.run import resolve
from vqlab.testing import check_detector
from vqlab.types import UserError

MINIMAL = """
from layers_of_mine import SHIFT
from vqlab.detectors import Detector, register
from vqlab.types import Scores


@register("minimal")
class Minimal(Detector):
    def loss(self, sample):
        return {"loss": sample.pyramid[0].mean()}

    def score(self, sample):
        maps = sample.pyramid[0].mean(1) + SHIFT
        return Scores(maps, maps.amax((1, 2)))
"""

STUDENT = """
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from vqlab.detectors import Detector, register
from vqlab.types import Scores


@register("student")
class Student(Detector):
    def __init__(self, config, spec):
        super().__init__(config, spec)
        self.student = nn.Sequential(
            nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.Conv2d(16, spec.channels[0], 1)
        )

    def distance(self, sample):
        predicted = interpolate(self.student(sample.image), self.spec.sizes[0], mode="bilinear")
        return (predicted - sample.pyramid[0]).square().mean(1, keepdim=True)

    def loss(self, sample):
        return {"loss": self.distance(sample).mean()}

    def score(self, sample):
        maps = interpolate(self.distance(sample), self.spec.image_size, mode="bilinear")[:, 0]
        return Scores(maps, maps.amax((1, 2)))
"""
"""A detector with an extractor of its own: a student that predicts the backbone's features."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory; detectors that a test registers are removed afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    base.names()  # registers the built-in detectors, once per process
    registered = dict(base._REGISTER)
    yield tmp_path
    base._REGISTER.clear()
    base._REGISTER.update(registered)


def test_file_registers_its_detectors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "layers_of_mine.py").write_text("SHIFT = 1.0")
    (folder / "minimal_file.py").write_text(MINIMAL)
    with pytest.raises(UserError, match="set VQLAB_DETECTORS to its file"):
        detector_class("minimal")
    monkeypatch.setenv("VQLAB_DETECTORS", f"{os.pathsep}minimal_file.py")
    assert detector_class("minimal").__name__ == "Minimal"
    config = resolve({"detector": {"name": "minimal"}})  # without additional settings
    assert dump(config)["detector"] == {"name": "minimal"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "VQLAB_DETECTORS must name Python files or modules; got mine.py, which does not"),
        ("\n\nnothing()", "mine.py must be importable; got NameError.* at line 3; fix it"),
        ("def", "mine.py must be importable; got SyntaxError: .*line 1"),
        ("import vqlab.nothing", "got ModuleNotFoundError: No module named 'vqlab.nothing' at"),
        (
            MINIMAL.replace("minimal", "vqvae").replace("from layers", "#"),
            "'vqvae' is already registered by",
        ),
    ],
)
def test_faulty_file_raises(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, message: str
) -> None:
    if code is not None:
        (folder / "mine.py").write_text(code)
    monkeypatch.setenv("VQLAB_DETECTORS", "mine.py")
    with pytest.raises(UserError, match=message):
        detector_class("mine")


def test_module_registers_its_detectors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "package_of_mine").mkdir()
    code = MINIMAL.replace("from layers_of_mine import SHIFT", "SHIFT = 0")
    (folder / "package_of_mine/parts.py").write_text(code)
    monkeypatch.setenv("VQLAB_DETECTORS", "package_of_mine.parts")
    assert detector_class("minimal").__module__ == "package_of_mine.parts"
    monkeypatch.setenv("VQLAB_DETECTORS", "no_such_module")
    with pytest.raises(UserError, match="no_such_module must be importable"):
        detector_class("nothing")


def test_installed_package_registers_by_its_entry_point(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "installed_one.py").write_text(
        MINIMAL.replace("from layers_of_mine import SHIFT", "SHIFT = 0").replace("minimal", "third")
    )
    info = folder / "installed_one-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-one\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vqlab.detectors]\nthird = installed_one\n")
    assert detector_class("third").__module__ == "installed_one"


def test_detector_with_its_own_extractor_passes_the_contract(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "student_file.py").write_text(STUDENT)
    monkeypatch.setenv("VQLAB_DETECTORS", "student_file.py")
    check_detector("student")
