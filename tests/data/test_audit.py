"""The audit detects differences in simple statistics of whole images, without false warnings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from folders import make_category
from PIL import Image

from vqlab.data import STATISTICS, DataSettings, Splits, audit, audit_metrics, load_dataset
from vqlab.data.audit import CategoryAudit, statistics

RNG = np.random.default_rng


def grey(seed: int, light: float = 1.0, side: int = 64) -> np.ndarray:
    """Return noise around 100, (side, side, 3) uint8."""
    pixels = RNG(seed).normal(100, 8, (side, side, 1)) * light
    return np.repeat(pixels.clip(0, 255), 3, axis=2).astype(np.uint8)


def noisy(seed: int) -> np.ndarray:
    return (grey(seed) + (np.arange(64) % 2 * 40)[:, None, None].astype(np.uint8)).astype(np.uint8)


def rough_top(seed: int) -> np.ndarray:
    image = grey(seed)
    image[:4] += (np.arange(64) % 2 * 60)[None, :, None].astype(np.uint8)
    return image


def bordered(seed: int) -> np.ndarray:
    image = grey(seed)
    image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = 160
    return image


def half_lit(seed: int) -> np.ndarray:
    """Return an image with the usual mean brightness."""
    image = grey(seed, 1.1)
    image[:, 32:] = grey(seed, 0.9)[:, 32:]
    return image


def dot(value: int) -> Callable[[int], np.ndarray]:
    def make(seed: int) -> np.ndarray:
        image = grey(seed)
        image[30, 30] = value
        return image

    return make


def write(root: Path, defect=grey, good=grey, count: int = 12) -> Path:
    make_category(root, "nut", train=0, good=0, defects=0)
    sets = {"train/good": (0, good), "test/good": (100, good), "test/hole": (200, defect)}
    for folder, (first, make) in sets.items():
        for number in range(count):
            path = root / "nut" / folder / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make(first + number)).save(path)
    for number in range(count):
        mask = root / f"nut/ground_truth/hole/{number:03d}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(mask)
    return root


def load(root: Path, **changes: object) -> Splits:
    tree = {"root": root, "categories": "nut", "image_size": 64, **changes}
    return load_dataset(DataSettings.model_validate(tree))


@pytest.mark.parametrize(
    ("statistic", "defect", "higher"),
    [
        ("mean_grey", lambda seed: grey(seed, 1.2), True),
        ("mean_grey", lambda seed: grey(seed, 0.8), False),
        ("border_brightness", bordered, True),
        ("top_texture", rough_top, True),
        ("sharpness", noisy, True),
        ("darkest", dot(0), False),
        ("brightest", dot(255), True),
        ("file_size", lambda seed: grey(seed) // 8 * 8, False),
        ("mean_image", half_lit, True),
    ],
)
def test_each_statistic_detects_its_difference(
    statistic: str, defect: object, higher: bool, tmp_path: Path
) -> None:
    result = audit(load(write(tmp_path, defect)))["nut"]
    assert set(result.aurocs) == set(result.higher) == set(STATISTICS)
    assert result.aurocs[statistic] > 0.9 and result.higher[statistic] is higher
    (sentence,) = (s for s in result.warnings if f"nut: {STATISTICS[statistic]} alone" in s)
    assert f"{result.aurocs[statistic]:.3f}" in sentence and "rely on pixel metrics" in sentence
    assert ("data.brightness=border" in sentence) == (
        statistic in ("mean_grey", "border_brightness")
    )


def test_similar_images_give_no_warning(tmp_path: Path) -> None:
    result = audit(load(write(tmp_path, count=40)))["nut"]
    assert result.warnings == [] and (result.normal, result.anomalous) == (40, 40)
    assert all(0.5 <= value < 0.8 for value in result.aurocs.values())


def test_constant_statistics_give_no_warning(tmp_path: Path) -> None:
    def flat(seed: int) -> np.ndarray:
        return np.full((64, 64, 3), 90, np.uint8)

    result = audit(load(write(tmp_path, flat, flat)))["nut"]
    assert set(result.aurocs.values()) == {0.5} and result.warnings == []


def test_statistics_are_computed_on_network_inputs(tmp_path: Path) -> None:
    root = write(tmp_path, lambda seed: grey(seed, 1.2))
    keep, border = (audit(load(root, brightness=b))["nut"] for b in ("keep", "border"))
    assert keep.aurocs["mean_grey"] == 1 and border.aurocs["mean_grey"] < 0.9
    assert keep.aurocs["file_size"] == border.aurocs["file_size"]


def test_padding_is_excluded(tmp_path: Path) -> None:
    make_category(tmp_path, "nut", size=(20, 60))
    splits = load(tmp_path, resize="letterbox")
    values = statistics(splits.train, splits.test)
    assert (values["mean_grey"] > 0.4).all() and (values["darkest"] > 0).all()
    assert values["file_size"].tolist() == [s.path.stat().st_size for s in splits.test.records]


def test_few_images_give_no_warning(tmp_path: Path) -> None:
    result = audit(load(write(tmp_path, lambda seed: grey(seed, 1.2), count=4)))["nut"]
    assert "maybe by chance (4 normal, 4 anomalous)" in result.warnings[0]


def test_undefined_without_defects(tmp_path: Path) -> None:
    make_category(tmp_path, "nut", defects=0)
    result = audit(load(tmp_path))
    assert result["nut"].aurocs == {} and result["nut"].warnings == []
    assert audit_metrics(result) == {}


def test_metric_keys(tmp_path: Path) -> None:
    def audit_of(name: str, value: float | None) -> CategoryAudit:
        aurocs = {} if value is None else dict.fromkeys(STATISTICS, value)
        return CategoryAudit(name, 1, 1, aurocs, dict.fromkeys(aurocs, True), "keep")

    single = audit_metrics({"nut": audit_of("nut", 0.7)})
    assert single == {f"audit/{name}": 0.7 for name in STATISTICS}
    several = audit_metrics(
        {"a": audit_of("a", 0.5), "b": audit_of("b", 1.0), "c": audit_of("c", None)}
    )
    assert several["audit/mean_grey"] == 0.75 and several["audit/b/mean_grey"] == 1
    assert len(several) == 3 * len(STATISTICS)


def test_each_category_is_compared_with_its_own_mean(root: Path) -> None:
    both = audit(load(root, categories="all"))
    assert list(both) == ["bolt", "nut"]
    assert both["nut"].aurocs == audit(load(root))["nut"].aurocs


REAL = os.environ.get("VQLAB_REAL_DATA")


@pytest.mark.data
@pytest.mark.skipif(not REAL, reason="VQLAB_REAL_DATA names no folder of real images")
def test_known_warnings_of_real_images() -> None:
    def real(folder: str, category: str, brightness: str = "keep") -> CategoryAudit:
        root = Path(str(REAL)) / folder
        return audit(load(root, categories=category, brightness=brightness, image_size=256))[
            category
        ]

    screw = real("MVTec", "screw")
    assert screw.aurocs["mean_grey"] == pytest.approx(1, abs=5e-4)
    assert any("mean grey alone" in s and "data.brightness=border" in s for s in screw.warnings)
    assert real("MVTec", "screw", "border").aurocs["mean_grey"] < 0.9
    cookie = real("Cookies", "cookie")
    assert cookie.aurocs["top_texture"] > 0.9
    assert any("texture of the top border alone" in sentence for sentence in cookie.warnings)
    assert real("MVTec", "bottle").warnings == []


def test_pixel_metrics_are_not_suggested_without_masks() -> None:
    audited = CategoryAudit("part", 9, 9, {"mean_grey": 1.0}, {"mean_grey": True}, "keep", False)
    (sentence,) = audited.warnings
    assert "pixel metrics" not in sentence and "image metrics may be inflated" in sentence
