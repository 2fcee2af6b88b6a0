"""The commands `vqlab data validation` and `vqlab data audit`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from vqlab.cli import main
from vqlab.data import DataSettings, dataset_fingerprint, read_image
from vqlab.data.images import read_mask

Verb = Callable[..., str]


@pytest.fixture
def vqlab(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Verb:
    monkeypatch.chdir(tmp_path)

    def call(*words: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["vqlab", "data", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
        message = capsys.readouterr()
        return message.err if code else message.out

    return call


def test_validation_is_written_with_masks_and_a_sheet(
    vqlab: Verb, root: Path, tmp_path: Path
) -> None:
    message = vqlab("validation", root, "--category", "nut", "--to", "images_out")
    assert "held-out normal images with synthetic anomalies" in message
    names = sorted(path.name for path in (tmp_path / "images_out").iterdir())
    assert "nut_000_good.png" in names and "nut_contact_sheet.png" in names
    masks = [name for name in names if name.endswith("_mask.png")]
    assert len(masks) == 20 and read_mask(tmp_path / "images_out" / masks[0]).any()
    assert read_image(tmp_path / "images_out" / masks[0].replace("_mask", "")).shape == (20, 24, 3)


def test_validation_of_every_category_from_test(vqlab: Verb, root: Path, tmp_path: Path) -> None:
    message = vqlab("validation", root, "--to", "images_out", "--source", "test")
    assert "excluded from test" in message
    names = {path.name for path in (tmp_path / "images_out").iterdir()}
    assert {"bolt_contact_sheet.png", "nut_contact_sheet.png", "nut_003_hole_mask.png"} <= names


def test_audit_warnings_exit_with_status_0(vqlab: Verb, root: Path) -> None:
    for path in (root / "nut/test/hole").iterdir():
        Image.fromarray(np.full((20, 24, 3), 250, np.uint8)).save(path)
    message = vqlab("audit", root)
    assert "nut ⚠" in message and "mean grey" in message and "1.000 ↑" in message
    assert "warning: nut: mean grey alone separates" in message
    assert "bolt" in message and "bolt: mean grey" not in vqlab("audit", root, "--category", "nut")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("audit", "ROOT", "--brightness", "dark"), "data.brightness"),
        (("validation", "ROOT", "--source", "train"), "data.validation.source"),
        (("audit", "ROOT", "--category", "gear"), "there is no category gear"),
        (("validation", "nowhere"), "nowhere does not exist"),
    ],
)
def test_invalid_arguments_raise(
    vqlab, root: Path, arguments: tuple[str, ...], expected: str
) -> None:
    message = vqlab(*(root if word == "ROOT" else word for word in arguments), code=2)
    assert message.startswith("vqlab: ") and expected in message


def test_check_and_show_accept_an_area(vqlab: Verb, root: Path, tmp_path: Path) -> None:
    sides = sorted({read_image(file).shape[:2] for file in root.glob("nut/train/good/*")})
    Image.fromarray(np.tri(*sides[0], dtype=np.uint8) * 255).save("roi.png")
    plain, inspected = (
        vqlab("check", root, "-c", "nut", *more).rpartition("Fingerprint: ")[2]
        for more in ((), ("--roi", "roi.png"))
    )
    assert len(plain) == len(inspected) and plain != inspected
    vqlab("show", root, "-c", "nut", "--ignore", "roi.png", "-o", "sheet.png")
    assert read_image(tmp_path / "sheet.png").shape[1] > 1000
    error = vqlab("check", root, "-c", "nut", "--roi", "gone.png", code=2)
    assert error == "vqlab: data.roi gone.png cannot be used: it does not exist.\n"


def test_each_category_has_its_own_area(vqlab: Verb, root: Path, tmp_path: Path) -> None:
    left = np.ones((20, 24), np.uint8) * 255
    left[:, 12:] = 0
    for name, mask in (("left", left), ("right", 255 - left)):
        Image.fromarray(mask).save(f"{name}.png")
    both = "{nut: left.png, bolt: right.png}"
    prints = {
        value: vqlab("check", root, "--roi", value).rpartition("Fingerprint: ")[2]
        for value in ("left.png", "{nut: left.png}", both, "{bolt: left.png, nut: right.png}")
    }
    assert len(set(prints.values())) == 4
    settings = {"root": str(root), "categories": "all", "roi": yaml.safe_load(both)}
    trained = dataset_fingerprint(DataSettings.model_validate(settings))
    assert prints[both].strip().startswith(trained[:12])
    vqlab("show", root, "--roi", both, "-o", "sheet.png")
    vqlab("audit", root, "--roi", both)
    vqlab("validation", root, "--roi", both, "-o", "images_out")
    for name, columns in (("nut", np.s_[12:]), ("bolt", np.s_[:12])):
        files = list((tmp_path / "images_out").glob(f"{name}*_mask.png"))
        assert files and all(not read_mask(file)[:, columns].any() for file in files)
    for verb in ("check", "show", "audit", "validation"):
        error = vqlab(verb, root, "--roi", "{nutt: left.png}", code=2)
        assert error == (
            "vqlab: data.roi names category nutt, which is unknown; did you mean nut?\n"
        )


def test_audit_and_validation_accept_an_area(vqlab: Verb, root: Path, tmp_path: Path) -> None:
    """A difference outside the area is not reported, and no anomaly is placed there."""
    for path in (root / "nut/test/hole").iterdir():
        image = read_image(path).copy()
        image[:, :6] = 255
        Image.fromarray(image).save(path)
    area = np.ones((20, 24), np.uint8)
    area[:, :7] = 0
    Image.fromarray(area * 255).save("roi.png")
    Image.fromarray((1 - area) * 255).save("ignore.png")
    warning = "border brightness alone separates"
    assert warning in vqlab("audit", root, "-c", "nut")
    assert warning not in vqlab("audit", root, "-c", "nut", "--roi", "roi.png")
    assert warning not in vqlab("audit", root, "-c", "nut", "--ignore", "ignore.png")
    for seed in range(3):
        vqlab(
            "validation", root, "-c", "nut", "--roi", "roi.png", "-o", "images_out", "--seed", seed
        )
        masks = [read_mask(file) for file in (tmp_path / "images_out").glob("*_mask.png")]
        assert masks and all(mask.any() and not mask[:, :7].any() for mask in masks)
    error = vqlab("audit", root, "-c", "nut", "--roi", "gone.png", code=2)
    assert error == "vqlab: data.roi gone.png cannot be used: it does not exist.\n"
