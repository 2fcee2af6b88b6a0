"""Validation sets: synthetic anomalies spread evenly, or a share of the test images."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import make_category, make_visa, write_image, write_mask

from vqlab.data import DataSettings, ImageSet, Splits, load_dataset
from vqlab.types import UserError


def load(root: Path, source: str = "drawn", fraction: float = 0.3, **changes: object) -> Splits:
    tree = {"root": root, "categories": "nut", "image_size": 32, **changes}
    validation = {"source": source, "fraction": fraction}
    return load_dataset(DataSettings.model_validate({**tree, "validation": validation}))


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """Ten normal test images, six holes, two cracks, one bend."""
    root = tmp_path / "kinds"
    make_category(root, "nut", train=20, good=10, defects=6)
    for kind, count in (("crack", 2), ("bend", 1)):
        for number in range(count):
            write_image(root / f"nut/test/{kind}/{number:03d}.png", 900 + number + len(kind))
            write_mask(root / f"nut/ground_truth/{kind}/{number:03d}_mask.png")
    return root


def paths(images: ImageSet) -> list[Path]:
    return [record.path for record in images.records]


def counts(images: ImageSet) -> Counter[str]:
    return Counter(record.defect for record in images.records)


def test_share_of_test_images_moves_to_validation(kinds: Path) -> None:
    default, shared = load(kinds), load(kinds, "test")
    moved = shared.validation.subset(range(len(shared.held_out), len(shared.validation)))
    assert counts(moved) == {"good": 3, "hole": 2, "crack": 1}
    assert counts(shared.test) == {"good": 7, "hole": 4, "crack": 1, "bend": 1}
    assert not set(paths(shared.test)) & set(paths(shared.validation))
    assert sorted(paths(shared.test) + paths(moved)) == sorted(paths(default.test))
    assert paths(shared.validation)[: len(shared.held_out)] == paths(default.held_out)
    assert paths(shared.train) == paths(default.train)
    assert moved.batch(range(6)).masks.flatten(1).any(1).sum() == 3


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_every_kind_with_two_images_is_in_both_sets(kinds: Path, fraction: float) -> None:
    shared = load(kinds, "test", fraction)
    for kind in ("good", "hole", "crack"):
        assert counts(shared.test)[kind] >= 1 and counts(shared.validation)[kind] >= 1
    assert counts(shared.test)["bend"] == 1


def test_selection_depends_on_seed_and_category(kinds: Path) -> None:
    splits = load(kinds, "test")
    assert paths(load(kinds, "test").test) == paths(splits.test)
    others = [paths(load(kinds, "test", seed=seed).test) for seed in (1, 2, 3)]
    assert any(other != paths(splits.test) for other in others)
    make_category(kinds, "bolt", train=20)
    both = load(kinds, "test", categories="all")
    assert paths(both.test.of_category("nut")) == paths(splits.test)
    assert paths(both.validation.of_category("nut")) == paths(splits.validation)


def test_reported_images_have_a_separate_fingerprint(kinds: Path) -> None:
    default, shared = load(kinds), load(kinds, "test")
    assert shared.fingerprint == default.fingerprint
    assert shared.test_fingerprint != default.test_fingerprint
    assert load(kinds, "test", seed=5).test_fingerprint != shared.test_fingerprint
    assert load(kinds, seed=5).test_fingerprint == default.test_fingerprint
    write_image(kinds / "nut/train/good/000.png", 4711)
    reloaded = load(kinds)
    assert reloaded.test_fingerprint == default.test_fingerprint
    assert reloaded.fingerprint != default.fingerprint


def test_share_of_visa_test_images(tmp_path: Path) -> None:
    make_visa(tmp_path, good=4, bad=4)
    shared = load(tmp_path, "test", 0.5, categories="candle")
    assert counts(shared.test) == {"good": 2, "bad": 2}


@pytest.mark.parametrize("defects", [0, 1])
def test_too_few_defects_raise(tmp_path: Path, defects: int) -> None:
    make_category(tmp_path, "nut", defects=defects)
    with pytest.raises(UserError, match=f"has {defects} anomalous images; use data.valid"):
        load(tmp_path, "test")
    assert len(load(tmp_path).test) == 2 + defects


@pytest.mark.parametrize(
    ("source", "expected"), [("drawn", {"drawn"}), ("test", {"good", "hole", "crack"})]
)
def test_table_lists_the_role_of_each_image(
    kinds: Path, source: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load(kinds, source)
    text = splits.write_table(tmp_path / "splits.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    for name in ("train", "held_out", "validation", "test"):
        files = [kinds / row["file"] for row in rows if row["split"] == name]
        assert files == paths(getattr(splits, name))
    judged = [row for row in rows if row["split"] == "validation"][len(splits.held_out) :]
    assert {row["defect"].partition("_")[0] for row in judged} == expected
    assert all(row["category"] == "nut" for row in rows)
    monkeypatch.chdir(kinds)  # the same table if root is the folder of one category
    single = load(Path("nut"), source).write_table(tmp_path / "alone.csv").read_text()
    assert single == text.replace("nut/t", "t")


def places(root: Path, **changes: object) -> np.ndarray:
    """Return kind number, size and contrast of every synthetic copy, (N, 3)."""
    items = load(root, **changes).validation._sources
    anomalies = [item for item in items if hasattr(item, "kind")]
    kinds = sorted({item.kind for item in anomalies})  # type: ignore[attr-defined]
    rows = [(kinds.index(d.kind), d.size, d.contrast) for d in anomalies]  # type: ignore[attr-defined]
    return np.array(rows)


def test_sizes_and_contrasts_are_spread_evenly(tmp_path: Path) -> None:
    """The n copies of a kind are stratified over size and contrast, which are independent."""
    make_category(tmp_path, "nut", train=40)
    spread = places(tmp_path, synthetic_defects=5, held_out=0.5)
    assert len(spread) == 100
    for kind in np.unique(spread[:, 0]):
        rows = spread[spread[:, 0] == kind]
        for column in (1, 2):
            assert sorted((rows[:, column] * len(rows)).astype(int)) == list(range(len(rows)))
    assert abs(np.corrcoef(spread[:, 1], spread[:, 2])[0, 1]) < 0.3
    assert not np.array_equal(spread, places(tmp_path, synthetic_defects=5, held_out=0.5, seed=1))


def poisoned(root: Path, to: Path) -> Path:
    """Return a copy of `nut` in which the label of every test image is inverted."""
    shutil.copytree(root, to)
    nut = to / "nut"
    (nut / "test/good").rename(nut / "test/was_good")
    (nut / "test/hole").rename(nut / "test/good")
    (nut / "ground_truth/hole").rename(nut / "ground_truth/unused")
    for image in (nut / "test/was_good").iterdir():
        write_mask(nut / f"ground_truth/was_good/{image.stem}_mask.png")
    return to


def test_poisoned_test_labels_affect_the_test_set_only(root: Path, tmp_path: Path) -> None:
    honest, poisoned_splits = load(root), load(poisoned(root, tmp_path / "poisoned"))
    assert (
        counts(poisoned_splits.test) == {"good": 2, "was_good": 2}
        and counts(honest.test)["hole"] == 2
    )
    for name in ("train", "held_out", "validation"):
        images, poisoned_images = getattr(honest, name), getattr(poisoned_splits, name)
        assert [s.defect for s in images.records] == [s.defect for s in poisoned_images.records]
        assert [p.relative_to(root) for p in paths(images)] == [
            p.relative_to(tmp_path / "poisoned") for p in paths(poisoned_images)
        ]
        ours, theirs = (
            images.batch(range(len(images))),
            poisoned_images.batch(range(len(poisoned_images))),
        )
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.masks, theirs.masks)
    assert honest.fingerprint != poisoned_splits.fingerprint
