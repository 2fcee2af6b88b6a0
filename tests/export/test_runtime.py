"""`vqlab.runtime` reads, resizes and scores as vqlab does, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_model import overflowing_model

from vqlab import UserError, runtime
from vqlab.data import DataSettings, read_image, to_network
from vqlab.errors import ScoreError
from vqlab.evaluation import Thresholds, display_unit
from vqlab.evaluation.calibration import CalibrationScores
from vqlab.export import export_model
from vqlab.export.export import test_images as images_of
from vqlab.model import Model
from vqlab.pixels.preprocessing import Preprocessing
from vqlab.predict.scoring import score_file
from vqlab.runtime.__main__ import main
from vqlab.verdict import ExportedThresholds

REPOSITORY = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 31, 4), np.uint8)
DEEP = RNG.integers(0, 4096, (40, 31), np.uint16)


def written(folder: Path) -> list[Path]:
    """Write images of many modes and file formats."""
    images = {
        "rgb.png": Image.fromarray(COLOURS[..., :3]),
        "rgb.jpg": Image.fromarray(COLOURS[..., :3]),
        "rgba.png": Image.fromarray(COLOURS),
        "grey.png": Image.fromarray(COLOURS[..., 0]),
        "la.png": Image.fromarray(COLOURS[..., :2], "LA"),
        "palette.png": Image.fromarray(COLOURS[..., :3]).quantize(16),
        "one_bit.png": Image.fromarray(COLOURS[..., 0] > 99),
        "cmyk.jpg": Image.fromarray(COLOURS[..., :3]).convert("CMYK"),
        "deep.png": Image.fromarray(DEEP),
        "deep.pgm": Image.fromarray(DEEP.astype(np.int32)),
        "float.tif": Image.fromarray(DEEP.astype(np.float32) / 4096),
    }
    for name, image in images.items():
        image.save(folder / name)
    turned = images["rgb.jpg"].getexif()
    turned[0x0112] = 6
    images["rgb.jpg"].save(folder / "turned.jpg", exif=turned)
    for name, channels in (("deep_rgb.png", 3), ("deep_rgba.png", 4)):
        cv2.imwrite(
            str(folder / name),
            np.repeat(DEEP[..., None], channels, 2) // [[[1, 2, 3, 1][:channels]]],
        )
    return sorted(folder.iterdir())


def exported(settings: DataSettings) -> Preprocessing:
    """Return the preprocessing of an exported model."""
    return Preprocessing.parse(settings.model_dump())


@pytest.mark.parametrize("bits", [None, 12])
def test_images_are_read_as_in_vqlab(tmp_path: Path, bits: int | None) -> None:
    paths = written(tmp_path)
    assert len(paths) == 14
    settings = DataSettings(bits=bits)
    for path in paths:
        expected, _ = to_network(read_image(path, bits), settings)
        values, _ = exported(settings).network_input(path)
        assert np.array_equal(values, expected.numpy()), path.name


def test_values_beyond_the_bit_depth_raise(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="its values exceed 1023, the maximum of 10 bits"):
        exported(DataSettings(bits=10)).network_input(tmp_path / "deep.png")


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("brightness", ["keep", "border"])
@pytest.mark.parametrize("size", [(40, 31), (200, 333), (64, 64), (128, 30), (997, 61)])
def test_images_are_resized_as_in_vqlab(
    resize: str, brightness: str, size: tuple[int, int]
) -> None:
    settings = DataSettings.model_validate(
        {"image_size": 64, "resize": resize, "brightness": brightness}
    )
    pixels = RNG.integers(0, 200, (*size, 3), np.uint8)
    expected, geometry = to_network(pixels, settings)
    values, fitted = exported(settings).network_input(pixels)
    assert fitted == geometry and values.dtype == np.float32
    assert np.array_equal(values, expected.numpy())


@pytest.mark.parametrize("normal", [None, (0.1, 0.2, 0.7, 1.1), (0.4,) * 4])
def test_scores_are_calibrated_as_in_vqlab(normal: tuple[float, ...] | None) -> None:
    summary = normal and CalibrationScores.of(np.array(normal))
    thresholds = Thresholds(0.9, 0.5, calibration=summary or None)
    unit = float(display_unit(0.9, thresholds.calibration))
    described = ExportedThresholds.parse({"image": 0.9, "unit": unit})
    for score in (-3.0, 0.0, 0.2, 0.9, 0.91, 5.0, 1e6):
        assert described.calibrated(score) == pytest.approx(thresholds.calibrated(score), rel=1e-9)


def test_module_does_not_import_torch() -> None:
    code = "import sys, vqlab.runtime; print({'torch', 'onnx', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_bundle_modules_do_not_import_vqlab(mean_image: Model, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    export_model(mean_image, "onnx", tmp_path, bundle=True)
    (tmp_path / "vqlab.py").write_text("raise AssertionError('imported')")
    code = "import sys, score; print(score.Model(*sys.argv[1:2]).score(sys.argv[2]).score)"
    (image, *_) = images_of(mean_image)
    done = subprocess.run(
        [sys.executable, "-c", code, "model.onnx", image], cwd=tmp_path, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == runtime.Model(tmp_path / "model.onnx").score(image).score


def test_invalid_arguments_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert main(["model.onnx"]) == 2
    assert "usage: " in capsys.readouterr().err
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    for name in ("missing.onnx", "damaged.onnx"):
        assert main([str(tmp_path / name), "image.png"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and f"{name} cannot be used as a model: " in err


def test_closed_output_pipe(mean_image: Model, tmp_path: Path) -> None:
    """`| head -1` prints one line, without a traceback."""
    pytest.importorskip("onnx")
    export_model(mean_image, "onnx", tmp_path)
    images = images_of(mean_image) * 50
    command = [sys.executable, "-m", "vqlab.runtime", "model.onnx", *map(str, images)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["file"] == str(images[0])
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def bare_environment(folder: Path) -> Path:
    """Return Python of a new environment with the requirements of the runtime only."""
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    for name in ("numpy", "onnxruntime", "flatbuffers", "protobuf", "packaging", "pillow",
                 "opencv-python-headless"):  # fmt: skip
        tops = {file.parts[0] for file in files(name) or () if file.parts[0] not in ("..", "bin")}
        for top in tops:
            target = Path(paths["purelib"], top)
            if not target.exists():
                target.symlink_to(Path(sysconfig.get_path("purelib"), top))
    return folder / "bin" / "python"


@pytest.mark.slow
def test_bundle_runs_without_torch_and_vqlab(mean_image: Model, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    bundle = tmp_path / "bundle"
    export_model(mean_image, "onnx", bundle, bundle=True)
    python = bare_environment(tmp_path / "venv")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*command: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), *map(str, command)], cwd=bundle, env={**clean, **more},
            capture_output=True, text=True,
        )  # fmt: skip

    for absent in ("torch", "vqlab", "onnx", "scipy"):
        assert "ModuleNotFoundError" in run("-c", f"import {absent}").stderr
    images = images_of(mean_image)
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:100])
    script = run("score.py", "model.onnx", *images, broken)
    module = run("-m", "vqlab.runtime", "model.onnx", *images, broken, PYTHONPATH=str(REPOSITORY))
    assert script.returncode == module.returncode == 3, script.stderr + module.stderr
    assert script.stdout == module.stdout
    *rows, last = map(json.loads, script.stdout.splitlines())
    assert last["verdict"] == "unreadable" and last["reason"] and last["score"] is None
    for row, path in zip(rows, images, strict=True):
        expected = mean_image.score(path)
        assert row["file"] == str(path) and row["verdict"] == expected.verdict
        assert row["score"] == pytest.approx(expected.score, rel=1e-5)
        assert row["calibrated"] == pytest.approx(expected.calibrated, rel=1e-4)
        assert row["threshold"] == mean_image.thresholds.image


def test_image_that_is_too_small_is_unreadable_as_in_predict(
    mean_image: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    export_model(mean_image, "onnx", tmp_path)
    strip, model = tmp_path / "strip.png", tmp_path / "model.onnx"
    Image.new("RGB", (5000, 7)).save(strip)
    assert main([str(model), str(strip), str(images_of(mean_image)[0])]) == 3
    small, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert small["verdict"] == "unreadable" and small["score"] is None
    assert small["reason"] == score_file(mean_image, (strip, ""))[2]
    assert other["score"] is not None
    with pytest.raises(UserError, match="the image is too small: it is 9x7 pixels"):
        runtime.Model(model).score(np.zeros((7, 9, 3), np.uint8))


def test_shape_unlike_that_of_training_images_is_noted_as_in_predict(
    mean_image: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    export_model(mean_image, "onnx", tmp_path)
    wide = tmp_path / "wide.png"
    Image.new("RGB", (64, 32)).save(wide)
    assert main([str(tmp_path / "model.onnx"), str(images_of(mean_image)[0]), str(wide)]) == 0
    usual, noted = map(json.loads, capsys.readouterr().out.splitlines())
    assert "note" not in usual
    assert noted["note"] == mean_image.score(wide).note != ""


def test_scores_that_are_not_finite_raise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "black").mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32)).save(tmp_path / f"black/{number}.png")
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    described = {"run_id": "0", "version": "0", "data": {"categories": ["part"], "fingerprint": ""}}
    exported = overflowing_model()
    exported.meta.update(described)
    export_model(exported, "onnx", tmp_path, images=tmp_path / "black")
    model, image = tmp_path / "model.onnx", tmp_path / "white.png"
    with pytest.raises(ScoreError):
        runtime.Model(model).score(image)
    assert main([str(model), str(image)]) == 3
    line = json.loads(capsys.readouterr().out)
    assert line["verdict"] == "unreadable" and "got NaN or infinity" in line["reason"]
