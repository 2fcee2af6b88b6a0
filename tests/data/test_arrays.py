"""Images in memory: accepted types, and conversions suggested by error messages."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from vqlab.data import as_rgb
from vqlab.errors import UserError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), np.uint8)
GREY = RNG.integers(0, 256, (20, 30), np.uint8)
REPEATED = np.repeat(GREY[:, :, None], 3, axis=2)
CLEAR = np.dstack([COLOUR, np.full((20, 30), 255, np.uint8)])
FLOAT = COLOUR.astype(np.float32) / 255

ADVISED: dict[str, tuple[Any, np.ndarray[Any, Any]]] = {
    "float in 0..1": (FLOAT, COLOUR),
    "float in 0..255": (COLOUR.astype(np.float64), COLOUR),
    "integers": (COLOUR.astype(np.int64), COLOUR),
    "16 bits": (COLOUR.astype(np.uint16) * 257, COLOUR),
    "boolean": (GREY > 100, np.where(REPEATED > 100, 255, 0)),
    "channels first": (COLOUR.transpose(2, 0, 1), COLOUR),
    "float, channels first": (FLOAT.transpose(2, 0, 1), COLOUR),
    "one channel first": (GREY[None], REPEATED),
    "one channel last": (GREY[:, :, None], REPEATED),
    "batch of one": (COLOUR[None], COLOUR),
    "transparent": (CLEAR, COLOUR),
    "transparent, channels first": (CLEAR.transpose(2, 0, 1), COLOUR),
    "list": (COLOUR.tolist(), COLOUR),
    "tensor": (torch.from_numpy(FLOAT).permute(2, 0, 1), COLOUR),
    "tensor with gradient": (
        torch.from_numpy(FLOAT).permute(2, 0, 1)[None].requires_grad_(), COLOUR,
    ),
    "tensor of bytes": (torch.from_numpy(COLOUR), COLOUR),
    "grey tensor": (torch.from_numpy(GREY).float(), REPEATED),
    "half tensor": (torch.ones(3, 20, 30, dtype=torch.bfloat16), np.full((20, 30, 3), 255)),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVISED)
def test_suggested_conversion_is_correct(name: str) -> None:
    x, expected = ADVISED[name]
    with pytest.raises(UserError, match="an image must be") as error:
        as_rgb(x)
    message = re.search(r"pass `(.+)`\.$", str(error.value))
    assert message, error.value
    assert (as_rgb(eval(message[1], {"x": x, "numpy": np, "PIL": PIL})) == expected).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (FLOAT * 4 - 2, "values -2 to 2; scale its values to 0..255 .* normalization"),
        (np.full((4, 4), np.nan), "scale its values"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((2, 4, 4, 3), np.uint8), "its 2 images one at a time"),
        (np.zeros((7, 4, 5), np.uint8), "one image of 1, 3 or 4 channels"),
        (np.zeros(5, np.uint8), "pass its path"),
        ([[1, 2], [3]], "pass its path"),
        (None, "got NoneType .*pass its path"),
        (b"bytes", "pass its path"),
    ],
)
def test_errors_without_a_suggested_conversion(x: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_rgb(x)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
def test_pil_image_equals_its_file(mode: str, tmp_path: Any) -> None:
    from vqlab.data import read_image

    if mode == "I;16":
        image = PIL.Image.fromarray(GREY.astype(np.uint16) * 200)
    else:
        image = PIL.Image.fromarray(COLOUR).convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    assert (as_rgb(image) == read_image(path)).all()


def test_arrays_that_are_accepted() -> None:
    assert (as_rgb(COLOUR) == COLOUR).all() and (as_rgb(GREY) == REPEATED).all()


def test_orientation_and_transparency_of_pil_images_equal_those_of_files(tmp_path: Any) -> None:
    from vqlab.data import read_image

    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    half = np.dstack([COLOUR, np.repeat([[0, 255]], 20, 0).repeat(15, 1).astype(np.uint8)])
    palette = PIL.Image.fromarray(COLOUR).quantize(16)
    PIL.Image.fromarray(half).save(tmp_path / "half.png", exif=exif.tobytes())
    palette.save(tmp_path / "palette.png", transparency=3)
    PIL.Image.fromarray(GREY.astype(np.uint16) * 200).save(tmp_path / "deep.png", exif=exif)
    for path in tmp_path.iterdir():
        for load in (False, True):
            with PIL.Image.open(path) as image:
                if load:
                    image.load()
                assert (as_rgb(image) == read_image(path)).all(), path


def test_undecodable_pil_image_raises(tmp_path: Any) -> None:
    path = tmp_path / "cut.png"
    PIL.Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with PIL.Image.open(path) as image, pytest.raises(UserError, match="cannot be decoded"):
        as_rgb(image)
    PIL.Image.fromarray(COLOUR).save(path)
    with PIL.Image.open(path) as image:
        pass
    with pytest.raises(UserError, match="before closing it"):
        as_rgb(image)


def test_bits_of_arrays_and_of_loaded_colours(tmp_path: Any) -> None:
    import cv2

    with pytest.raises(UserError, match=r"pass `\(x >> 4\)\.astype\('uint8'\)`"):
        as_rgb(GREY.astype(np.uint16) * 16, bits=12)
    cv2.imwrite(str(tmp_path / "deep.png"), COLOUR.astype(np.uint16) * 16)
    with PIL.Image.open(tmp_path / "deep.png") as image:
        image.load()
        with pytest.raises(UserError, match=r"has lost the bits .* pass the path"):
            as_rgb(image, bits=12)


def test_dark_16_bit_array_is_scaled_like_a_file(tmp_path: Any) -> None:
    from vqlab.data import read_image

    dark = np.arange(200, dtype=np.uint16).reshape(10, 20)
    PIL.Image.fromarray(dark).save(tmp_path / "dark.png")
    with pytest.raises(UserError, match=r"pass `\(x >> 8\)\.astype\('uint8'\)`"):
        as_rgb(dark)
    assert (as_rgb((dark >> 8).astype("uint8")) == read_image(tmp_path / "dark.png")).all()
