"""Modes and depths that do not belong together; links among images; deep arrays; WebP masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import write_image, write_mask
from PIL import Image

from vqlab.data import as_rgb, check_dataset, read_image, read_mask
from vqlab.errors import UserError


def make_grey(root: Path) -> list[Path]:
    """Make all images of the category `nut` grey, saved as RGB; return those of train."""
    nut = root / "nut"
    for path in [*nut.glob("train/good/*.png"), *nut.glob("test/*/*.png")]:
        Image.open(path).convert("L").convert("RGB").save(path)
    return sorted(nut.glob("train/good/*.png"))


def test_grey_files_among_rgb_files_of_grey_pictures(root: Path) -> None:
    first, second, *_ = make_grey(root)
    assert check_dataset(root, ["nut"]).warnings == []
    Image.open(first).convert("L").save(first)
    Image.open(second).convert("1").save(second)
    (said,) = check_dataset(root, ["nut"]).warnings
    assert "modes are mixed: 8 RGB, 1 grey, 1 1-bit" in said
    assert "train/good/000.png, train/good/001.png" in said


def test_eight_bits_among_sixteen(root: Path) -> None:
    first, *rest = make_grey(root)
    grey = np.asarray(Image.open(first))[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 256).save(first)
    for path in rest:
        Image.open(path).convert("L").save(path)
    for path in (root / "nut").glob("test/*/*.png"):
        Image.open(path).convert("L").save(path)
    (said,) = check_dataset(root, ["nut"]).warnings
    assert "1 with more; those with more are train/good/000.png" in said


def test_links_to_used_images_are_no_unused_images(root: Path) -> None:
    """Neither a link to a folder in use, wherever it sorts, nor one to a file."""
    nut = root / "nut"
    (nut / "latest").symlink_to(nut / "train")
    (nut / "train/good/again").mkdir()
    (nut / "train/good/again/000.png").symlink_to(nut / "train/good/000.png")
    (nut / "train/good/loop").symlink_to(nut)
    assert check_dataset(root, ["nut"]).warnings == []
    write_image(root / "elsewhere/new.png", 1)
    (nut / "train/good/cam2").symlink_to(root / "elsewhere")
    (said,) = check_dataset(root, ["nut"]).warnings
    assert "1 image in train/good/cam2 is not used (new.png)" in said


def test_a_dark_deep_array_takes_the_scale_of_a_file(tmp_path: Path) -> None:
    dark = np.arange(200, dtype=np.uint16).reshape(10, 20)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    with pytest.raises(UserError, match=r"pass `\(x >> 8\)\.astype\('uint8'\)`"):
        as_rgb(dark)
    assert (as_rgb((dark >> 8).astype("uint8")) == read_image(tmp_path / "dark.png")).all()


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_masks_with_a_colour_profile_or_frames(tmp_path: Path, lossless: bool) -> None:
    """The chunk that tells them apart need not be near the beginning."""
    path = write_mask(tmp_path / "mask.png", (64, 64), 100)
    mask = Image.open(path)
    options = {"lossless": lossless, "quality": 90, "icc_profile": bytes(6000)}
    mask.save(tmp_path / "profile.webp", **options)
    mask.save(tmp_path / "frames.webp", save_all=True, append_images=[mask.rotate(9)], **options)
    for name in ("profile", "frames"):
        assert read_mask(tmp_path / f"{name}.webp").any() == lossless, name
