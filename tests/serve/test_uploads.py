"""Untrusted images: decompression bombs, damage, rare formats, names that look like paths."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from servers import PREDICT, error_of, post, running

from vqlab.data import BadImage, read_encoded, read_image
from vqlab.serve import ServeSettings

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def strict(trained_store: Path) -> Iterator[str]:
    settings = ServeSettings(mlruns=trained_store, categories=("part",), max_pixels=LIMIT)
    with running(settings) as address:
        yield address


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    """Return a PNG whose header declares this size, with few bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5, columns * 5, rows + columns], axis=2).astype(np.uint8)


BOMBS = {
    "png": png_header(50_000, 50_000),
    "png at the limit of 32 bits": png_header(2**31 - 1, 2**31 - 1),
    "png that Pillow warns of": png_header(10_000, 10_000),
    "png, one pixel more": png_header(1_000_001, 1),
    "tiff": encoded(np.zeros((2000, 2000), np.uint8), "TIFF", compression="tiff_deflate"),
    "tiff, lzw": encoded(np.zeros((2000, 2000), np.uint8), "TIFF", compression="tiff_lzw"),
    "bmp": encoded(Image.new("1", (4000, 4000)), "BMP"),
    "webp": encoded(Image.new("RGB", (4000, 4000)), "WEBP", lossless=True),
    "jpeg": encoded(Image.new("L", (4000, 4000)), "JPEG"),
    "ppm": b"P6 60000 60000 255 ",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_rejected_by_their_header(strict: str, kind: str) -> None:
    response = post(strict, BOMBS[kind])
    assert response.status_code == 413, response.text
    assert "at most 1,000,000 pixels" in error_of(response)


def test_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(BadImage, match="at most 1,000,000 pixels") as error:
        read_encoded(BOMBS["png"], LIMIT)
    assert error.value.too_large


GOOD = encoded(gradient(), "PNG")
DAMAGED = {
    "empty": b"",
    "one pixel": encoded(gradient(1, 1), "PNG"),
    "text": b"not an image",
    "zeros": bytes(1000),
    "truncated": GOOD[: len(GOOD) // 2],
    "header only": GOOD[:33],
    "truncated jpeg": encoded(gradient(), "JPEG")[:300],
    "gif": encoded(Image.new("P", (8, 8)), "GIF"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n%%EOF",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "zip": b"PK\x03\x04" + bytes(200),
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94",
    "negative ppm": b"P6 -5 -5 255 ",
    "no pixels": b"P6 0 5 255 ",
    "float tiff out of range": encoded(np.full((8, 8), 300, np.float32), "TIFF"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_unusable_images_are_400(strict: str, kind: str) -> None:
    response = post(strict, DAMAGED[kind])
    assert response.status_code == 400, response.text
    assert "/tmp" not in error_of(response) and "<_io" not in error_of(response)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(gradient(), "JPEG", quality=95, exif=exif)


RARE = {
    "16-bit grey": encoded((gradient()[..., 0].astype(np.uint16) << 8) + 7, "PNG"),
    "cmyk": encoded(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=95),
    "exif rotation": rotated(),
    "palette": encoded(Image.fromarray(gradient()).convert("P"), "PNG"),
    "transparency": encoded(Image.fromarray(gradient()).convert("RGBA"), "PNG"),
    "black and white": encoded(Image.fromarray(gradient()).convert("1"), "PNG"),
    "float tiff": encoded(gradient()[..., 0].astype(np.float32) / 255, "TIFF"),
    "webp": encoded(gradient(), "WEBP", quality=90),
    "two frames": encoded(
        Image.fromarray(gradient()), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]
    ),
    "eight rows": encoded(gradient(8, 40), "PNG"),
}


@pytest.mark.parametrize("kind", RARE)
def test_rare_formats_are_read_like_files(strict: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(RARE[kind])
    expected = read_image(file)
    np.testing.assert_array_equal(read_encoded(RARE[kind], LIMIT), expected)
    (image,) = post(strict, RARE[kind]).json()["images"]
    assert (image["height"], image["width"]) == expected.shape[:2] and image["error"] is None


def test_16_bit_colours_are_scaled_by_data_bits(tmp_path: Path) -> None:
    import cv2

    values = (gradient().astype(np.uint16) << 4) + 3  # 12 bits
    file = tmp_path / "colours.png"
    assert cv2.imwrite(str(file), values)
    expected = read_image(file, bits=12)
    np.testing.assert_array_equal(read_encoded(file.read_bytes(), LIMIT, bits=12), expected)
    assert (expected == gradient()[..., ::-1]).all()


@pytest.mark.parametrize("seed", range(8))
def test_mutated_images_are_decoded_or_rejected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources = [GOOD, *RARE.values()]
    for _ in range(60):
        content = bytearray(sources[rng.integers(len(sources))])
        for _ in range(rng.integers(1, 8)):
            content[rng.integers(len(content))] = rng.integers(256)
        if rng.random() < 0.3:
            del content[rng.integers(len(content)) :]
        try:
            pixels = read_encoded(bytes(content), LIMIT, bits=12 if rng.random() < 0.5 else None)
        except BadImage as error:
            assert str(error).endswith(".")
        else:
            assert pixels.dtype == np.uint8 and pixels.shape[0] * pixels.shape[1] <= LIMIT


NAMES = [
    "../../etc/passwd", "/etc/passwd", "C:\\Windows\\x.png", "http://127.0.0.1:1/x.png", "a\x00b",
    "\x1b[31mred", "<img src=x onerror=alert(1)>", "'; DROP TABLE runs; --", "n" * 5000, "",
    "\u202egnp.exe", "über 日本.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_names_are_treated_as_text(strict: str, name: str) -> None:
    body = {"images": [{"name": name, "data": base64.b64encode(GOOD).decode()}]}
    response = requests.post(f"{strict}{PREDICT}", json=body, timeout=30)
    (image,) = response.json()["images"]
    assert image["verdict"] in ("pass", "reject") and len(image["name"]) <= 255
    assert response.headers["Content-Type"] == "application/json"
    assert not {"\x00", "\x1b", "\u202e"} & set(image["name"])


def test_path_or_url_is_not_an_image(strict: str, good_file: Path) -> None:
    for text in (str(good_file), f"file://{good_file}", f"{strict}/healthz"):
        body = {"images": [{"name": text, "data": base64.b64encode(text.encode()).decode()}]}
        assert requests.post(f"{strict}{PREDICT}", json=body, timeout=10).status_code == 400
        body = {"images": [{"name": "x", "data": text}]}
        response = requests.post(f"{strict}{PREDICT}", json=body, timeout=10)
        assert response.status_code == 400
        assert error_of(response) == "images.0.data must be the image file in base64."
        body = {"images": [{"path": text}]}
        assert requests.post(f"{strict}{PREDICT}", json=body, timeout=10).status_code == 400


BODIES = {
    "no boundary": ("multipart/form-data", b"--x"),
    "no end": ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data"),
    "nothing": ("multipart/form-data; boundary=x", b"--x--\r\n"),
    "other field": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n--x--\r\n',
    ),
    "no file": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="images"\r\n\r\n/etc/passwd\r\n--x--\r\n',
    ),
    "not json": ("application/json", b"{"),
    "json list": ("application/json", b"[]"),
    "json without images": ("application/json", b'{"images": []}'),
    "deep json": ("application/json", b"[" * 100_000),
    "not utf-8": ("application/json", b'{"images": [{"data": "\xff"}]}'),
    "nan": ("application/json", b'{"images": NaN}'),
    "surrogate": ("application/json", b'{"images": [{"name": "\\ud800", "data": ""}]}'),
    "form": ("application/x-www-form-urlencoded", b"images=a"),
    "text": ("text/plain", b"images"),
    "image": ("image/png", GOOD),
    "no type": ("", GOOD),
}


@pytest.mark.parametrize("kind", BODIES)
def test_malformed_bodies_are_rejected(strict: str, kind: str) -> None:
    content_type, body = BODIES[kind]
    headers = {"Content-Type": content_type}
    response = requests.post(f"{strict}{PREDICT}", data=body, headers=headers, timeout=10)
    expected = 400 if content_type.startswith(("multipart", "application/json")) else 415
    assert response.status_code == expected and error_of(response)
