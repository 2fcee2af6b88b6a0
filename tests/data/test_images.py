"""Common image formats are read correctly, and geometry transforms are invertible."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from folders import write_mask
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vqlab.data import DataSettings, read_image, to_network, to_original
from vqlab.data.images import read_mask
from vqlab.pixels.resizing import border_brightness, box_for, fit_image, fit_mask
from vqlab.types import UserError


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """A smooth image (24, 32, 3), which JPEG compresses with small errors."""
    rows, columns = np.mgrid[0:24, 0:32].astype(float)
    channels = [rows * 10, columns * 7, (rows + columns) * 4]
    return np.stack(channels, axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp", "ppm"])
def test_lossless_rgb(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, **({"lossless": True} if suffix == "webp" else {}))
    read = read_image(path)
    assert read.dtype == np.uint8 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, rgb)


def test_jpeg_of_rgb_grey_and_cmyk(tmp_path: Path, rgb: np.ndarray) -> None:
    for mode in ("RGB", "L", "CMYK"):
        path = tmp_path / f"{mode}.jpg"
        Image.fromarray(rgb).convert(mode).save(path, quality=98)
        expected = np.asarray(Image.fromarray(rgb).convert(mode).convert("RGB"), int)
        assert np.abs(read_image(path) - expected).mean() < 3, mode


def test_grey_one_bit_and_palette(tmp_path: Path, rgb: np.ndarray) -> None:
    for mode in ("L", "1", "P"):
        picture = Image.fromarray(rgb).convert(mode)
        picture.save(tmp_path / f"{mode}.png")
        picture.save(tmp_path / f"{mode}.tif")
        expected = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(read_image(tmp_path / f"{mode}.png"), expected)
        np.testing.assert_array_equal(read_image(tmp_path / f"{mode}.tif"), expected)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_reduced_to_the_high_byte(tmp_path: Path, suffix: str) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (10, 12, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"rgb.{suffix}"), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / f"grey.{suffix}"), deep[..., 0])
    np.testing.assert_array_equal(read_image(tmp_path / f"rgb.{suffix}"), deep >> 8)
    grey = np.repeat(deep[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / f"grey.{suffix}"), grey >> 8)


def test_floating_point(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(values).save(tmp_path / "unit.tif")
    expected = np.round(values * 255).astype(np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "unit.tif")[..., 1], expected)
    Image.fromarray(values * 300).save(tmp_path / "wide.tif")
    with pytest.raises(UserError, match=r"wide\.tif.*0 and 1"):
        read_image(tmp_path / "wide.tif")


def test_transparency_becomes_white(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.full((24, 32, 1), 255, np.uint8)
    alpha[:, :10] = 0
    Image.fromarray(np.concatenate([rgb, alpha], axis=2)).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert (read[:, :10] == 255).all()
    np.testing.assert_array_equal(read[:, 10:], rgb[:, 10:])
    grey = Image.fromarray(rgb).convert("L")
    grey.putalpha(Image.fromarray(alpha[..., 0]))
    grey.save(tmp_path / "la.png")
    read = read_image(tmp_path / "la.png")
    assert (read[:, :10] == 255).all()
    np.testing.assert_array_equal(read[:, 10:, 0], np.asarray(grey)[:, 10:, 0])


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_rotation(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed rotated clockwise by 90°
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(rgb).save(path, exif=exif.tobytes() if suffix != "tif" else exif)
    read = read_image(path)
    assert read.shape == (32, 24, 3)
    assert np.abs(read.astype(int) - np.rot90(rgb, -1)).mean() < 5


def test_exif_rotation_of_sixteen_bit_grey(tmp_path: Path) -> None:
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif.tobytes())
    np.testing.assert_array_equal(
        read_image(tmp_path / "deep.png")[..., 0], np.rot90(deep >> 8, -1)
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_truncated_file_error_names_the_file(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    kinds = {"jpg": "JPEG", "tif": "TIFF"}
    content = io.BytesIO()
    Image.fromarray(noise).save(content, kinds.get(suffix, suffix.upper()))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content.getvalue()[: int(len(content.getvalue()) * share)])
    with pytest.raises(UserError, match=rf"cut\.{suffix} cannot be used"):
        read_image(path)


def test_non_image_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"text\.png cannot be used: unsupported or corrupt image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"empty\.png cannot be used: it is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(UserError, match=r"gone\.png cannot be used: it does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"cannot be used"):
        read_image(tmp_path)


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_raise_user_errors_only(tmp_path: Path, rgb: np.ndarray) -> None:
    """Files with flipped bytes are either decoded or rejected by name, in every format."""
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        original = io.BytesIO()
        Image.fromarray(rgb).save(original, kind)
        for trial in range(40):
            content = bytearray(original.getvalue())
            for place in rng.integers(0, len(content), 8):
                content[place] ^= int(rng.integers(1, 256))
            path = tmp_path / f"{kind}{trial}.{kind.lower()}"
            path.write_bytes(content)
            try:
                assert read_image(path).shape[2] == 3
            except UserError as error:
                assert path.name in str(error)


def test_mask_pixels_are_those_above_zero(tmp_path: Path) -> None:
    marks = np.zeros((8, 9), np.uint8)
    marks[2, 3], marks[5, 5] = 1, 7
    expected = marks > 0
    Image.fromarray(marks).save(tmp_path / "index.png")
    Image.fromarray(expected).save(tmp_path / "bit.png")
    Image.fromarray(marks.astype(np.uint16) * 9).save(tmp_path / "deep.png")
    palette = Image.fromarray(marks)
    palette.putpalette([0, 0, 0] * 256)
    palette.save(tmp_path / "palette.png")
    opaque = np.full((8, 9), 255, np.uint8)
    coloured = np.stack([marks * 0, marks, marks * 0], axis=2)
    Image.fromarray(coloured).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([coloured, opaque])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([marks, opaque])).save(tmp_path / "la.png")
    for name in ("index", "bit", "deep", "palette", "rgb", "rgba", "la"):
        read = read_mask(tmp_path / f"{name}.png")
        assert read.dtype == np.bool_, name
        np.testing.assert_array_equal(read, expected, err_msg=name)


def test_compression_noise_of_jpeg_masks_is_ignored(tmp_path: Path) -> None:
    marks = np.zeros((32, 32), np.uint8)
    marks[5:21, 11:27] = 255  # across the 8 x 8 blocks of JPEG
    Image.fromarray(marks).save(tmp_path / "mask.jpg", quality=60)
    assert (np.asarray(Image.open(tmp_path / "mask.jpg")) > 0).mean() > 0.35
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.jpg"), marks > 0)


sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))
resizes = st.sampled_from(["stretch", "letterbox"])


@given(size=sizes, resize=resizes, data=st.data())
def test_single_marked_pixel_is_preserved(size: tuple[int, int], resize: str, data: st.DataObject):
    """The mask at network size marks exactly the pixels that cover a marked pixel (brute force)."""
    chosen = DataSettings(image_size=32, resize=resize)
    place = tuple(data.draw(st.integers(0, length - 1)) for length in size)
    mask = np.zeros(size, bool)
    mask[place] = True
    fitted = fit_mask(mask, chosen)
    top, left, height, width = box_for(size, chosen).box
    expected = np.zeros((32, 32), bool)
    for y in range(height):
        for x in range(width):
            inside_y = (
                y * size[0] < (place[0] + 1) * height and (y + 1) * size[0] > place[0] * height
            )
            inside_x = x * size[1] < (place[1] + 1) * width and (x + 1) * size[1] > place[1] * width
            expected[top + y, left + x] = inside_y and inside_x
    assert fitted.any()
    np.testing.assert_array_equal(fitted, expected)


@given(size=sizes, resize=resizes)
def test_geometry_round_trip(size: tuple[int, int], resize: str) -> None:
    """A uniform image fills exactly its box; a map is restored to the size of the image."""
    chosen = DataSettings(image_size=48, resize=resize)
    network, geometry = to_network(np.full((*size, 3), 200, np.uint8), chosen)
    top, left, height, width = geometry.box
    assert network.shape == (3, 48, 48) and geometry.original == size
    inside = network[:, top : top + height, left : left + width]
    np.testing.assert_allclose(inside.numpy(), 200 / 255, atol=1e-6)
    assert np.isclose(network.sum().item(), inside.sum().item(), rtol=1e-5)
    if resize == "letterbox":
        assert max(height, width) == 48
        # the aspect ratio, to within a pixel
        assert abs(height * size[1] - width * size[0]) <= max(size)
    else:
        assert geometry.box == (0, 0, 48, 48)
    restored = to_original(network[0].numpy(), geometry)
    assert restored.shape == size and restored.dtype == np.float32
    np.testing.assert_allclose(restored, 200 / 255, atol=1e-5)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_position_of_a_spot_is_preserved(resize: str) -> None:
    image = np.zeros((60, 200, 3), np.uint8)
    image[40:50, 150:160] = 255
    network, geometry = to_network(image, DataSettings(image_size=96, resize=resize))
    restored = to_original(network.numpy().mean(axis=0), geometry)
    y, x = np.unravel_index(restored.argmax(), restored.shape)
    assert 40 <= y < 50 and 150 <= x < 160
    assert restored[:30].max() < 0.01


def test_downscaling_averages_and_upscaling_interpolates() -> None:
    stripes = np.zeros((256, 8, 3), np.uint8)
    stripes[::8] = 240
    fitted, _ = fit_image(stripes, DataSettings(image_size=32))
    assert (fitted == 30).all()  # 240 / 8: all stripes contribute
    steps = np.zeros((32, 2, 3), np.uint8)
    steps[:, 1] = 200
    fitted, _ = fit_image(steps, DataSettings(image_size=32))
    assert (np.diff(fitted[0, :, 0].astype(int)) >= 0).all() and len(np.unique(fitted)) > 8


def test_border_brightness_normalizes_illumination() -> None:
    rng = np.random.default_rng(0)
    light = np.full((50, 70, 3), 160, np.uint8)
    light[20:30, 20:40] = rng.integers(40, 120, (10, 20, 3))
    dark = (light * 0.6).round().astype(np.uint8)
    for resize in ("stretch", "letterbox"):
        chosen = DataSettings(image_size=64, brightness="border", resize=resize)
        (bright, geometry), (dim, _) = to_network(light, chosen), to_network(dark, chosen)
        assert (bright - dim).abs().max() < 0.02
        top, left, *_ = geometry.box
        assert bright[:, top, left].tolist() == pytest.approx([0.5] * 3, abs=1e-3)
        unchanged, _ = to_network(light, chosen.model_copy(update={"brightness": "keep"}))
        assert unchanged[:, top, left].tolist() == pytest.approx([160 / 255] * 3)


def test_border_brightness_of_black_and_white() -> None:
    chosen = DataSettings(image_size=32, brightness="border")
    for value in (0, 255):
        network, geometry = to_network(np.full((5, 5, 3), value, np.uint8), chosen)
        assert bool(((network >= 0) & (network <= 1)).all())
        assert border_brightness(np.full((32, 32, 3), value, np.uint8), geometry) == value / 255


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_non_rgb_array_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="RGB array"):
        to_network(np.zeros(shape, np.uint8), DataSettings())
    with pytest.raises(UserError, match="float64"):
        to_network(np.zeros((8, 8, 3)), DataSettings())


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_masks_with_colour_profile_or_frames(tmp_path: Path, lossless: bool) -> None:
    """The chunk that identifies the encoding may be far from the beginning."""
    path = write_mask(tmp_path / "mask.png", (64, 64), 100)
    mask = Image.open(path)
    options = {"lossless": lossless, "quality": 90, "icc_profile": bytes(6000)}
    mask.save(tmp_path / "profile.webp", **options)
    mask.save(tmp_path / "frames.webp", save_all=True, append_images=[mask.rotate(9)], **options)
    for name in ("profile", "frames"):
        assert read_mask(tmp_path / f"{name}.webp").any() == lossless, name
