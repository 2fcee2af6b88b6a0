"""Images that decode but are suspicious: masks, bit depth, single colours, sizes, duplicates."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from folders import make_category, write_image
from PIL import Image

from vqlab.cli import main
from vqlab.data import DataSettings, as_rgb, check_dataset, load_dataset, read_image
from vqlab.data.images import read_mask
from vqlab.types import UserError


def warnings(root: Path, bits: int | None = None) -> list[str]:
    """Return the warnings of `data check`, which loading for training also gives."""
    report = check_dataset(root, bits=bits)
    assert not report.errors, report.errors
    every = DataSettings(root=root, categories="all", image_size=32, bits=bits)
    assert sorted(load_dataset(every).notes) == sorted(report.warnings)
    return report.warnings


def single_warning(root: Path) -> str:
    message = warnings(root)
    assert len(message) == 1, message
    return message[0]


def _alpha(marks: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([np.full((*marks.shape, 3), 255, np.uint8), marks]))


def _palette(marks: np.ndarray) -> Image.Image:
    image = Image.fromarray((marks == 0).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


POLARITIES: dict[str, tuple[Callable[[np.ndarray], Image.Image], str]] = {
    "inverted": (lambda marks: Image.fromarray(255 - marks), "check whether they are inverted"),
    "alpha": (_alpha, "alpha channel varies: save the alpha channel"),
    "palette": (_palette, "in their palette index 0 is brighter"),
    "background 1": (lambda marks: Image.fromarray(np.maximum(marks, 1)), "lowest value is 1"),
    "bits": (lambda marks: Image.fromarray(marks == 0), "check whether they are inverted"),
}


@pytest.mark.parametrize("polarity", POLARITIES)
def test_masks_covering_most_of_the_image(root: Path, polarity: str) -> None:
    change, words = POLARITIES[polarity]
    for path in (root / "nut/ground_truth/hole").iterdir():
        change(np.asarray(Image.open(path))).save(path)
    message = single_warning(root)
    assert "nut: 2 of 2 masks mark most of the image or of its border" in message
    assert words in message and "ground_truth/hole/000_mask.png" in message


def test_mask_covering_only_the_border(root: Path) -> None:
    """Such a mask is inverted, of a defect that covers more than half of the image."""
    marks = np.zeros((20, 24), np.uint8)
    marks[:2] = marks[-2:] = 255
    marks[:, :2] = marks[:, -2:] = 255
    Image.fromarray(marks).save(root / "nut/ground_truth/hole/000_mask.png")
    assert marks.mean() < 128 and "1 of 2 masks mark most" in single_warning(root)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_lossy_mask_is_detected_by_its_format(root: Path, kind: str) -> None:
    marks = np.zeros((64, 64), np.uint8)
    marks[21:37, 19:43] = 255
    write_image(root / "nut/test/hole/000.png", 1, (64, 64))
    path = root / "nut/ground_truth/hole/000_mask.png"
    options = {"compression": "jpeg"} if kind == "TIFF" else {}
    picture = Image.fromarray(marks).convert("RGB")
    picture.save(path, kind, quality=60, **options)
    assert (np.asarray(Image.open(path)).max(axis=2) > 0).mean() > 1.2 * (marks > 0).mean()
    assert abs(read_mask(path).mean() / (marks > 0).mean() - 1) < 0.05
    assert any(
        "a lossy format" in message and "1 of 2 masks" in message for message in warnings(root)
    )


def test_lossless_webp_mask_is_not_lossy(root: Path) -> None:
    marks = np.zeros((20, 24), np.uint8)
    marks[3:6, 3:6] = 7
    path = root / "nut/ground_truth/hole/000_mask.png"
    Image.fromarray(marks).save(path, "WEBP", lossless=True)
    assert (read_mask(path) == (marks > 0)).all() and warnings(root) == []


def test_masks_enlarged_by_faint_levels(root: Path) -> None:
    path = root / "nut/ground_truth/hole/000_mask.png"
    marks = np.zeros((20, 24), np.uint8)
    marks[4:14, 4:14] = np.arange(100).reshape(10, 10) // 3
    marks[8:10, 8:10] = 255
    Image.fromarray(marks).save(path)
    assert "faint grey levels" in single_warning(root)


def _deep(root: Path, change: Callable[[np.ndarray], np.ndarray], suffix: str) -> None:
    for path in [*root.glob("*/train/good/*.png"), *root.glob("*/test/*/*.png")]:
        values = change(np.asarray(Image.open(path)))
        path.unlink()
        cv2.imwrite(str(path.with_suffix(suffix)), values)


DEEP: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str, int]] = {
    "12 in 16, grey": (lambda rgb: rgb[..., 0].astype(np.uint16) * 16, ".png", 12),
    "12 in 16, grey TIFF": (lambda rgb: rgb[..., 0].astype(np.uint16) * 16, ".tif", 12),
    "12 in 16, colour": (lambda rgb: rgb.astype(np.uint16) * 16, ".png", 12),
    "10 in 16": (lambda rgb: rgb[..., 0].astype(np.uint16) * 4, ".png", 10),
    "14 in 16": (lambda rgb: rgb[..., 0].astype(np.uint16) * 64, ".png", 14),
    "8 in 32": (lambda rgb: rgb[..., 0].astype(np.int32), ".tif", 8),
}


@pytest.mark.parametrize("name", DEEP)
def test_low_bit_depth_in_a_16_bit_file(tmp_path: Path, name: str) -> None:
    """The warning names the number of bits; with this setting the images equal those of 8 bits."""
    change, suffix, bits = DEEP[name]
    make_category(tmp_path / "set", "nut")
    expected = np.asarray(Image.open(tmp_path / "set/nut/train/good/000.png"))
    _deep(tmp_path / "set", change, suffix)
    message = single_warning(tmp_path / "set")
    assert "have low values only" in message and f"data.bits={bits}." in message
    assert warnings(tmp_path / "set", bits) == []
    path = tmp_path / f"set/nut/train/good/000{suffix}"
    read = read_image(path, bits)
    if change(expected).ndim == 2:
        expected = np.repeat(expected[..., :1], 3, axis=2)
        assert (read == expected).all()
    else:
        assert (read == expected[..., ::-1]).all()  # written by cv2 as BGR
    with Image.open(path) as image:
        assert (as_rgb(image, bits) == read).all()


def test_values_beyond_the_bit_depth_raise(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 5000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"exceed 4095.*12 bits; got 5000.*data\.bits.*13 or more"):
        read_image(tmp_path / "a.png", 12)


def test_floating_point_error_states_the_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 200, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"200 to 200; divide the values of every file"):
        read_image(tmp_path / "a.tif")


def test_bits_setting_without_16_bit_files_and_in_the_fingerprint(root: Path) -> None:
    assert all("no effect" in message for message in warnings(root, 12))
    prints = {
        load_dataset(
            DataSettings(root=root, categories="nut", image_size=32, bits=bits)
        ).train.fingerprint
        for bits in (None, 12)
    }
    assert len(prints) == 2


def test_transparent_and_single_coloured_images(root: Path) -> None:
    clear = np.dstack([np.asarray(Image.open(root / "nut/train/good/000.png")), np.zeros((20, 24))])
    Image.fromarray(clear.astype(np.uint8)).save(root / "nut/train/good/000.png")
    for name in ("test/good/000.png", "test/hole/001.png"):
        Image.fromarray(np.full((20, 24, 3), 9, np.uint8)).save(root / "nut" / name)
    message = "\n".join(warnings(root))
    assert "1 of 10 images are fully transparent and read as white (train/good/000.png)" in message
    assert "2 of 10 images show a single colour (test/good/000.png, test/hole/001.png)" in message
    assert len(message.splitlines()) == 2


def test_mixed_sizes_and_colours(root: Path) -> None:
    write_image(root / "nut/train/good/000.png", 1, (120, 144))
    Image.open(root / "nut/train/good/001.png").convert("L").save(root / "nut/train/good/001.png")
    message = "\n".join(warnings(root))
    assert "1 of 10 images are 144x120, very different from the usual 24x20" in message
    assert "1 grey and 9 coloured images; the grey ones are train/good/001.png" in message


def test_duplicates_across_sets(root: Path) -> None:
    nut = root / "nut"
    shutil.copy(nut / "train/good/000.png", nut / "train/good/a.png")
    Image.open(nut / "train/good/001.png").save(nut / "test/good/b.bmp")
    shutil.copy(nut / "test/good/000.png", nut / "test/good/c.png")
    shutil.copy(nut / "test/good/001.png", nut / "test/hole/000.png")
    message = warnings(root)
    for words in (
        "1 image is both normal and anomalous (test/good/001.png = test/hole/000.png)",
        "1 test image is also in train (train/good/001.png = test/good/b.bmp)",
        "1 image is in train more than once (train/good/000.png = train/good/a.png)",
        "1 image is in test more than once (test/good/000.png = test/good/c.png)",
    ):
        assert sum(words in each for each in message) == 1, words


def test_unused_images_are_listed(root: Path) -> None:
    nut = root / "nut"
    for place in (
        "train/good/cam2",
        "train/bad",
        "test/hole/cam2",
        "test/crack/cam1",
        "train",
        ".",
    ):
        write_image(nut / place / "x1.png", len(place))
    (nut / "train/good/gone.png").symlink_to("/annex/not/fetched")
    write_image(nut / "train/good/scan.png/inner.png", 90)
    message = "\n".join(warnings(root))
    for words in (
        "1 image in train/good/cam2, train/good/scan.png",
        "1 image in train/bad is not used (x1.png); only train/good is used for training",
        "1 image in test/hole/cam2 is not used (x1.png); move them directly into test/hole",
        "1 image in test/crack/cam1 is not used",
        "1 image in train is not used",
        "1 image in the category's folder itself is not used",
        "2 entries with image names are dangling links or folders (train/good/gone.png, ",
    ):
        assert (
            words.replace("1 image in train/good/cam2,", "2 images in train/good/cam2,") in message
        )


@pytest.mark.parametrize(("strict", "status"), [((), 0), (("--strict",), 1)])
def test_last_line_counts_warnings(
    root: Path,
    strict: tuple[str, ...],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def last() -> str:
        with pytest.raises(SystemExit) as ended:
            main()
        codes.append(ended.value.code or 0)
        return capsys.readouterr().out.splitlines()[-1]

    codes: list[object] = []
    monkeypatch.setattr(sys, "argv", ["vqlab", "data", "check", str(root), *strict])
    assert last().startswith("No problems found. Fingerprint: ")
    write_image(root / "nut/train/good/cam2/0.png", 1)
    assert last().startswith("1 warning. Fingerprint: ") and codes == [0, status]


def make_grey(root: Path) -> list[Path]:
    """Convert all images of the category `nut` to grey, saved as RGB; return those of train."""
    nut = root / "nut"
    for path in [*nut.glob("train/good/*.png"), *nut.glob("test/*/*.png")]:
        Image.open(path).convert("L").convert("RGB").save(path)
    return sorted(nut.glob("train/good/*.png"))


def test_grey_files_among_rgb_files_with_grey_content(root: Path) -> None:
    first, second, *_ = make_grey(root)
    assert check_dataset(root, ["nut"]).warnings == []
    Image.open(first).convert("L").save(first)
    Image.open(second).convert("1").save(second)
    (message,) = check_dataset(root, ["nut"]).warnings
    assert "modes are mixed: 8 RGB, 1 grey, 1 1-bit" in message
    assert "train/good/000.png, train/good/001.png" in message


def test_8_bit_among_16_bit_files(root: Path) -> None:
    first, *remaining = make_grey(root)
    grey = np.asarray(Image.open(first))[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 256).save(first)
    for path in remaining:
        Image.open(path).convert("L").save(path)
    for path in (root / "nut").glob("test/*/*.png"):
        Image.open(path).convert("L").save(path)
    (message,) = check_dataset(root, ["nut"]).warnings
    assert "1 with more; those with more are train/good/000.png" in message


def test_links_to_used_images_are_not_listed_as_unused(root: Path) -> None:
    """Covers a link to a folder in use, in any sort order, and a link to a file."""
    nut = root / "nut"
    (nut / "latest").symlink_to(nut / "train")
    (nut / "train/good/linked").mkdir()
    (nut / "train/good/linked/000.png").symlink_to(nut / "train/good/000.png")
    (nut / "train/good/loop").symlink_to(nut)
    assert check_dataset(root, ["nut"]).warnings == []
    write_image(root / "elsewhere/new.png", 1)
    (nut / "train/good/cam2").symlink_to(root / "elsewhere")
    (message,) = check_dataset(root, ["nut"]).warnings
    assert "1 image in train/good/cam2 is not used (new.png)" in message
