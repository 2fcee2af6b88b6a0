"""The built-in synthetic set: layout, exact masks, no trivial shortcut, complete or absent."""

import errno
import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import ForkedProcess

from vqlab.data import synthetic
from vqlab.data.synthetic import CATEGORIES, MARKER, gear, make_synthetic, sample, twins
from vqlab.types import UserError

DEFECTS = [(name, defect) for name in CATEGORIES for defect in synthetic._SPECS[name].defects]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generate few images, so that writing a set takes a second."""
    small = {
        name: replace(recipe, train=2, good=1, each=1, defects=recipe.defects[:2])
        for name, recipe in synthetic._SPECS.items()
    }
    monkeypatch.setattr(synthetic, "_SPECS", small)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    above = scores[labels == 1][:, None] - scores[labels == 0][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


@pytest.mark.parametrize(("category", "defect"), DEFECTS)
def test_mask_is_where_the_defect_changed_the_image(category: str, defect: str) -> None:
    good, broken, mask = twins(category, 0, 0, defect)
    change = np.abs(good.astype(int) - broken).max(axis=2)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert 0.0002 < mask.mean() < 0.35
    assert (change[~near] > 14).mean() < 1e-4
    assert np.mean(change[mask] > 7) > 0.6


@pytest.mark.parametrize("category", CATEGORIES)
def test_same_arguments_give_the_same_image(category: str) -> None:
    defect = synthetic._SPECS[category].defects[0]
    first, mask = sample(category, 3, 1, defect)
    repeated, same_mask = sample(category, 3, 1, defect)
    assert np.array_equal(first, repeated) and np.array_equal(mask, same_mask)
    for other in (sample(category, 4, 1, defect), sample(category, 3, 2, defect)):
        assert np.abs(first.astype(int) - other[0]).mean() > 1


GOLDEN = {
    "cable": [63.4, 64.0, 68.9, 60.4],
    "fabric": [107.9, 111.8, 93.8, 103.3],
    "gear": [95.5, 99.0, 107.3, 104.0],
    "wood": [101.9, 104.5, 101.7, 105.2],
}
"""Mean grey of the four quarters of the first picture."""


@pytest.mark.parametrize("category", CATEGORIES)
def test_images_of_this_version_are_unchanged(category: str) -> None:
    """After an intended change, raise synthetic.VERSION, so that users' sets are generated
    again."""
    picture, _ = sample(category, 0, 0)
    assert synthetic.VERSION == 2
    quarters = picture.astype(float).reshape(2, 128, 2, 128, 3).mean((1, 3, 4)).ravel()
    assert quarters.tolist() == pytest.approx(GOLDEN[category], abs=0.3)


@pytest.mark.parametrize(
    "category",
    ["cable", *(pytest.param(name, marks=pytest.mark.slow) for name in CATEGORIES[1:])],
)
def test_no_trivial_statistic_separates_the_classes(category: str) -> None:
    """Mean grey, border and contrast vary as much among normal parts as with defects."""
    recipe = synthetic._SPECS[category]
    each = 24 // len(recipe.defects)
    plan = [(index, None) for index in range(24)]
    plan += [(index, defect) for defect in recipe.defects for index in range(each)]
    pictures = [sample(category, 0, index, defect)[0].astype(float) for index, defect in plan]
    labels = np.array([defect is not None for _, defect in plan], int)
    frame = np.ones((256, 256), bool)
    frame[8:-8, 8:-8] = False
    for statistic in (np.mean, np.std, lambda p: p[frame].mean(), lambda p: np.quantile(p, 0.99)):
        assert 0.3 <= auroc(np.array([statistic(p) for p in pictures]), labels) <= 0.7


def test_cable_has_three_colours() -> None:
    """Green and yellow at the top, blue at the lower right, brown at the lower left; copper
    inside."""
    for index in range(3):
        picture, _ = sample("cable", 0, index)
        red, green, blue = np.moveaxis(picture.astype(float), 2, 0)
        top, right = (slice(15, 95), slice(88, 168)), (slice(110, 200), slice(130, 220))
        left = (slice(110, 200), slice(36, 126))
        assert (blue > 1.5 * red)[right].mean() > 0.2 > 0.06 > (blue > 1.5 * red)[left].mean()
        assert (green > 1.5 * blue)[top].mean() > 0.2
        assert (red > 1.3 * blue)[left].mean() > 0.4


@pytest.mark.parametrize("defect", synthetic._SPECS["gear"].defects)
def test_gear_defect_is_visible_at_128_px(defect: str) -> None:
    """Each defect changes at least 40 pixels by a tenth of the full scale."""
    for index in range(4):
        good, broken, _ = twins("gear", 0, index, defect)
        small = [cv2.resize(p, (128, 128), interpolation=cv2.INTER_AREA) for p in (good, broken)]
        change = cv2.absdiff(*small).max(axis=2)
        assert (change > 25).sum() >= 40


def test_gears_have_random_orientations() -> None:
    turns = [gear.draw(np.random.default_rng(index)).pose.turn for index in range(60)]
    quarters = np.floor(np.array(turns) / (np.pi / 2)).astype(int)
    assert set(quarters.tolist()) == {0, 1, 2, 3}
    assert np.diff(np.sort(np.mod(turns, np.pi / 2))).max() < np.radians(10)


def test_gear_scratch_is_on_the_steel() -> None:
    for index in range(20):
        rng = np.random.default_rng(index)
        (mark,) = gear.DAMAGE["scratch"](gear.draw(rng), rng).marks
        radius = np.hypot(*mark.points.T)
        assert gear.BORE < radius.min() and radius.max() < gear.ROOT
        assert np.linalg.norm(mark.points[:, None] - gear._holes(), axis=2).min() > gear.HOLE


def test_layout_equals_mvtec_ad(tmp_path: Path, few: None) -> None:
    progress_calls: list[tuple[int, int]] = []
    root = make_synthetic(
        tmp_path / "data" / "set", progress=lambda *done: progress_calls.append(done)
    )
    assert sorted(path.name for path in root.iterdir()) == sorted([*CATEGORIES, MARKER])
    assert (
        progress_calls[-1] == (5 * len(CATEGORIES), 5 * len(CATEGORIES))
        and len(progress_calls) == progress_calls[-1][1]
    )
    for category in CATEGORIES:
        here = root / category
        defects = synthetic._SPECS[category].defects
        assert sorted(p.name for p in (here / "train/good").iterdir()) == ["000.png", "001.png"]
        assert sorted(p.name for p in (here / "test").iterdir()) == sorted([*defects, "good"])
        assert sorted(p.name for p in (here / "ground_truth").iterdir()) == sorted(defects)
        for defect in defects:
            mask = cv2.imread(str(here / f"ground_truth/{defect}/000_mask.png"), -1)
            assert mask.shape == (256, 256) and set(np.unique(mask)) == {0, 255}
            picture = cv2.imread(str(here / f"test/{defect}/000.png"), -1)
            assert np.array_equal(picture[..., ::-1], sample(category, 0, 0, defect)[0])
    train = cv2.imread(str(root / "cable/train/good/000.png"), -1)
    assert not np.array_equal(train, cv2.imread(str(root / "cable/test/good/000.png"), -1))


def test_only_requested_categories_are_generated_once(tmp_path: Path, few: None) -> None:
    root = make_synthetic(tmp_path / "set", ["wood"])
    assert not (root / "gear").exists()
    before = (root / "wood/train/good/000.png").stat().st_mtime_ns
    make_synthetic(root, ["wood", "gear"])
    assert (root / "gear/train/good/000.png").exists()
    assert (root / "wood/train/good/000.png").stat().st_mtime_ns == before
    assert json.loads((root / MARKER).read_text())["made"] == ["gear", "wood"]


def test_another_version_or_seed_is_generated_again(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_synthetic(tmp_path / "set", ["wood", "gear"])
    picture = root / "wood/train/good/000.png"
    old = picture.read_bytes()
    make_synthetic(root, ["wood"], seed=5)
    assert picture.read_bytes() != old
    assert json.loads((root / MARKER).read_text())["made"] == ["wood"]
    assert not (root / "gear").exists()
    (root / ".wood-killed").mkdir()
    picture.write_bytes(b"old")
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    make_synthetic(root, ["wood"])
    assert picture.read_bytes() == old
    assert sorted(path.name for path in root.iterdir()) == [MARKER, "wood"]


def _make_few(root: Path, specs: dict[str, object], go: Path) -> None:
    synthetic._SPECS = specs
    print("ready", flush=True)
    while not go.exists():
        time.sleep(0.001)
    make_synthetic(root, ["wood"])


def test_two_processes_generate_concurrently(tmp_path: Path, few: None) -> None:
    root, go = tmp_path / "set", tmp_path / "go"
    other = ForkedProcess(_make_few, root, synthetic._SPECS, go, cwd=tmp_path)
    assert other.first_line() == "ready"
    go.touch()
    make_synthetic(root, ["wood"])
    result = other.result()
    assert result.status == 0, result.stderr
    assert sorted(path.name for path in root.iterdir()) == [MARKER, "wood"]
    assert len(list(root.glob("wood/**/*.png"))) == 2 + 1 + 2 + 2


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_interrupted_generation_leaves_no_partial_set(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    written: list[Path] = []
    write = synthetic._write

    def break_off(path: Path, pixels: np.ndarray) -> None:
        written.append(path)
        if len(written) > 3:
            raise fault
        write(path, pixels)

    monkeypatch.setattr(synthetic, "_write", break_off)
    expected_error = UserError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(
        expected_error, match="No space left" if isinstance(fault, OSError) else None
    ):
        make_synthetic(tmp_path / "set", ["wood"])
    assert [path.name for path in (tmp_path / "set").iterdir()] == [MARKER]
    monkeypatch.undo()
    assert json.loads((tmp_path / "set" / MARKER).read_text())["made"] == []


def test_complete_set_requires_no_write_access(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_synthetic(tmp_path / "set", ["wood"])
    monkeypatch.setattr(synthetic, "FileLock", None)
    assert make_synthetic(root, ["wood"]) == root


def test_foreign_files_are_not_modified(tmp_path: Path) -> None:
    (tmp_path / "wood").mkdir()
    (tmp_path / "wood" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="contains other files; choose an empty or new folder"):
        make_synthetic(tmp_path, ["wood"])
    assert (tmp_path / "wood" / "mine.txt").read_text() == "mine"


def test_unknown_category_error_lists_the_available_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cable, fabric, gear, wood; got bottle"):
        make_synthetic(tmp_path / "set", ["bottle"])
    assert not (tmp_path / "set").exists()
