"""Synthetic anomalies: visible, exactly masked, determined by the generator, on any image."""

import functools

import cv2
import numpy as np
import pytest

from vqlab.data.synthetic_anomalies import KINDS, SHARES, VISIBLE, draw_anomaly

RNG = np.random.default_rng


@functools.cache
def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a lit, slightly textured disc on a uniform background."""
    rng = RNG(seed)
    rows, columns = np.mgrid[:height, :width]
    away = np.hypot(rows - height / 2, columns - width / 2)
    grey = np.where(away < min(height, width) * 0.3, 150 + 20 * np.sin(columns / 3), 40)
    colours = grey[..., None] * np.array([1, 0.8, 0.6]) + rng.normal(0, 3, (height, width, 3))
    image = np.clip(colours, 0, 255).astype(np.uint8)
    image.flags.writeable = False
    return image


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The largest difference of the channels, (H, W)."""
    channels = np.moveaxis(np.abs(first.astype(np.int16) - second), 2, 0)
    return functools.reduce(np.maximum, channels)


def plain(value: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (96, 240), (256, 256)])
def test_mask_is_where_pixels_change_visibly(kind: str, size: tuple[int, int]) -> None:
    image, texture = photo(*size), photo(*size, seed=1)
    for seed in range(12):
        anomalous, mask, drawn_kind = draw_anomaly(image, texture, RNG(seed), kind)
        change = difference(anomalous, image)
        assert anomalous.shape == image.shape and anomalous.dtype == np.uint8 and drawn_kind == kind
        assert mask.shape == size and mask.dtype == np.bool_ and mask.sum() >= 4
        assert not (change >= VISIBLE)[~mask].any()
        assert (change >= VISIBLE)[mask].mean() > 0.5
        assert mask.mean() < 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 20, 128, 255])
def test_anomalies_are_visible_on_uniform_images(kind: str, value: int) -> None:
    for seed in range(8):
        anomalous, mask, _ = draw_anomaly(plain(value), plain(value), RNG(seed), kind)
        assert mask.sum() >= 4 and mask.mean() < 0.5
        assert np.abs(anomalous.astype(int) - value).max() >= VISIBLE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(3, 3), (5, 32), (32, 8)])
def test_tiny_and_narrow_images(kind: str, size: tuple[int, int]) -> None:
    for seed in range(8):
        _, mask, _ = draw_anomaly(photo(*size), photo(*size, seed=1), RNG(seed), kind)
        assert mask.any()


@pytest.mark.parametrize("kind", KINDS)
def test_large_images(kind: str) -> None:
    image = photo(1024, 1024)
    _, mask, _ = draw_anomaly(image, photo(1024, 1024, seed=1), RNG(2), kind)
    assert 100 < mask.sum() < 0.2 * mask.size


def test_result_depends_on_the_generator_only_and_inputs_are_not_modified() -> None:
    """The images are read-only: writing to them would raise."""
    image, texture = photo(128, 128), photo(128, 128, seed=1)
    for seed in range(10):
        first, second = (
            draw_anomaly(image, texture, RNG(seed)),
            draw_anomaly(image, texture, RNG(seed)),
        )
        assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
        assert first[2] == second[2]
    assert not np.array_equal(first[0], draw_anomaly(image, texture, RNG(99))[0])


def test_kinds_have_the_configured_shares() -> None:
    image, texture = photo(32, 32), photo(32, 32, seed=1)
    kinds = [draw_anomaly(image, texture, RNG(seed))[2] for seed in range(300)]
    assert set(kinds) == set(KINDS) == set(SHARES)
    assert kinds.count("scratch") > 2 * kinds.count("noise") > 0
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_defects_are_on_the_object(kind: str) -> None:
    """The disc covers 28 % of the image; by chance 28 % of the defects would touch it."""
    image, texture = photo(128, 128), photo(128, 128, seed=1)
    rows, columns = np.mgrid[:128, :128]
    disc = np.hypot(rows - 64, columns - 64) < 128 * 0.3
    touched = [draw_anomaly(image, texture, RNG(seed), kind)[1][disc].any() for seed in range(40)]
    assert np.mean(touched) > 0.75


def test_sizes_vary_and_are_small() -> None:
    image, texture = photo(256, 256), photo(256, 256, seed=1)
    shares = [draw_anomaly(image, texture, RNG(seed))[1].mean() for seed in range(80)]
    assert np.quantile(shares, 0.9) > 8 * np.quantile(shares, 0.1)
    assert np.median(shares) < 0.02 and max(shares) < 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_contrast_have_an_effect(kind: str) -> None:
    image, texture = photo(256, 256), photo(256, 256, seed=1)

    def means(size: float, contrast: float) -> tuple[float, float]:
        """Return the mean share of pixels in the mask, and the mean change in grey levels."""
        areas, changes = [], []
        for seed in range(16):
            anomalous, mask, _ = draw_anomaly(image, texture, RNG(seed), kind, size, contrast)
            areas.append(mask.mean())
            changes.append(difference(anomalous, image)[mask].mean())
        return float(np.median(areas)), float(np.median(changes))

    small, middle, large = (means(size, 0.5)[0] for size in (0.0, 0.5, 1.0))
    assert large > 1.3 * middle > 1.3 * 1.3 * small
    if kind in ("scratch", "blob"):
        assert means(0.5, 1.0)[1] > 1.4 * means(0.5, 0.0)[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [8, 32])
def test_smallest_and_faintest_anomalies_are_visible(kind: str, side: int) -> None:
    for seed in range(8):
        for image in (plain(128, side), photo(side, side)):
            _, mask, _ = draw_anomaly(image, image, RNG(seed), kind, 0.0, 0.0)
            assert mask.any() and mask.mean() < 0.5


def test_scratches_are_long_and_thin_and_blobs_are_not() -> None:
    image, texture = photo(256, 256), photo(256, 256, seed=1)

    def thickness(kind: str) -> float:
        depths = []
        for seed in range(20):
            mask = draw_anomaly(image, texture, RNG(seed), kind)[1].astype(np.uint8)
            depths.append(cv2.distanceTransform(mask, cv2.DIST_L2, 3).max() / mask.sum() ** 0.5)
        return float(np.median(depths))

    assert thickness("scratch") < 0.6 * thickness("blob")


@pytest.mark.parametrize(
    ("image", "texture", "kind", "message"),
    [
        (plain(0), plain(0), "crack", "kind must be one of scratch, "),
        (plain(0), plain(0, 32), None, "must have the same size"),
        (plain(0, 2), plain(0, 2), None, "at least 3 x 3 pixels"),
        (plain(0)[..., 0], plain(0), None, "image must be"),
        (plain(0), plain(0).astype(np.float32), None, "texture must be"),
    ],
)
def test_invalid_arguments_raise(
    image: np.ndarray, texture: np.ndarray, kind: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_anomaly(image, texture, RNG(0), kind)


def test_position_outside_the_range_raises() -> None:
    with pytest.raises(ValueError, match="within 0 and 1; got 1.5"):
        draw_anomaly(plain(0), plain(0), RNG(0), "blob", size=1.5)


def squares() -> np.ndarray:
    """Return bright squares of 16 px, 32 px apart, on a dark background with grain."""
    rows, columns = np.mgrid[:128, :128]
    bright = (np.abs(rows % 32 - 16) < 8) & (np.abs(columns % 32 - 16) < 8)
    grey = np.where(bright, 200, 50)[..., None] + RNG(0).normal(0, 2, (128, 128, 3))
    return np.clip(grey, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["removed_part", "moved_part"])
def test_parts_are_cut_along_edges_of_the_image(kind: str) -> None:
    """When a part is removed, complete squares become background or vice versa: pixels remain dark
    or bright, with few in between."""
    image, shares = squares(), []
    for seed in range(20):
        anomalous, mask, _ = draw_anomaly(image, image, RNG(seed), kind, size=0.7)
        values = anomalous[mask].mean(axis=1)
        shares.append(np.mean((values < 90) | (values > 160)))
    assert np.mean(shares) > 0.7


def test_swapped_part_is_a_patch_of_the_texture() -> None:
    """The centre of the patch occurs elsewhere in the texture."""
    image, texture = photo(96, 96), photo(96, 96, seed=1)
    hits = 0
    for seed in range(10):
        anomalous, mask, _ = draw_anomaly(image, texture, RNG(seed), "swapped_part", size=0.9)
        change = difference(anomalous, image) > 0
        rows, columns = np.nonzero(change)
        y, x = int(rows.min() + rows.max()) // 2, int(columns.min() + columns.max()) // 2
        piece = anomalous[y - 2 : y + 3, x - 2 : x + 3]
        cost = cv2.matchTemplate(texture, piece, cv2.TM_SQDIFF)
        hits += cost.min() < 1
        assert mask.any()
    assert hits == 10
