"""The four sets are disjoint, determined by the seed, and independent of caching."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import make_category, write_image

from vqlab.data import DataSettings, ImageSet, Splits, image_cache, load_dataset, read_image
from vqlab.data.layouts import detect_layout
from vqlab.data.splits import fingerprint
from vqlab.data.synthetic_anomalies import GENERIC, SHARES
from vqlab.types import ImageRecord, UserError


def load(root: Path, **changes: object) -> Splits:
    tree = {"root": root, "categories": "nut", "image_size": 32, **changes}
    return load_dataset(DataSettings.model_validate(tree))


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Twenty training images per category."""
    for name in ("bolt", "nut"):
        make_category(tmp_path / "big", name, train=20)
    return tmp_path / "big"


def paths(images: ImageSet) -> list[Path]:
    return [record.path for record in images.records]


def test_held_out_images_are_disjoint_and_depend_on_the_seed(big: Path) -> None:
    splits = load(big)
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (16, 4, 4)
    assert not set(paths(splits.train)) & set(paths(splits.held_out))
    assert not {p for s in (splits.train, splits.held_out) for p in paths(s)} & set(
        paths(splits.test)
    )
    assert paths(load(big).held_out) == paths(splits.held_out)
    others = [paths(load(big, seed=seed).held_out) for seed in (1, 2, 3)]
    assert any(other != paths(splits.held_out) for other in others)
    assert len(load(big, held_out=0.05).held_out) == 4  # a fifth, where the minimum is 19
    assert len(load(big, held_out=0.5).held_out) == 10


def test_enough_images_are_held_out_for_a_rate_of_five_percent(tmp_path: Path) -> None:
    make_category(tmp_path / "large", "nut", train=100)
    held_out = {
        share: len(load(tmp_path / "large", held_out=share).held_out) for share in (0.05, 0.3)
    }
    assert held_out == {0.05: 19, 0.3: 30}


def test_split_of_a_category_is_independent_of_other_categories(big: Path) -> None:
    both = load(big, categories="all")
    assert both.categories == ("bolt", "nut") and len(both.train) == 32
    single = load(big)
    assert paths(both.held_out.of_category("nut")) == paths(single.held_out)
    ours = both.validation.of_category("nut")
    torch.testing.assert_close(
        ours.batch(range(len(ours))).images, single.validation.batch(range(len(ours))).images
    )


def test_validation_is_held_out_and_synthetic_anomalies(big: Path) -> None:
    splits = load(big, synthetic_defects=4)
    validation = splits.validation
    assert len(validation) == 4 + 16
    batch = validation.batch(range(20))
    assert batch.labels.tolist() == [0] * 4 + [1] * 16
    marked = batch.masks.flatten(1).any(dim=1)
    assert marked.tolist() == [False] * 4 + [True] * 16
    assert {s.defect[:6] for s in validation.records[4:]} == {"drawn_"}
    assert set(paths(validation)) == set(paths(splits.held_out))
    clean = {record.path: image for record, image in zip(batch.records, batch.images, strict=True)}
    for record, image, mask in zip(
        batch.records[4:], batch.images[4:], batch.masks[4:], strict=True
    ):
        changed = (image != splits_image(splits, record.path)).any(dim=0)
        assert changed.any() and mask[changed].float().mean() > 0.5
    assert len(clean) == 4


def splits_image(splits: Splits, path: Path) -> torch.Tensor:
    return splits.held_out.batch([paths(splits.held_out).index(path)]).images[0]


def test_synthetic_anomalies_are_reproducible(big: Path) -> None:
    validation = load(big).validation
    reloaded = load(big).validation
    first = validation.batch(range(len(validation)))
    backwards = reloaded.batch(list(reversed(range(len(reloaded)))))
    torch.testing.assert_close(first.images, backwards.images.flip(0), rtol=0, atol=0)
    assert torch.equal(first.masks, backwards.masks.flip(0))
    other = load(big, seed=5).validation
    assert not torch.equal(first.images[3:], other.batch(range(len(other))).images[3:])


def test_synthetic_anomalies_are_independent_of_the_image_size(tmp_path: Path) -> None:
    """They are generated at one size and downscaled: the masks at 64 px and at 256 px agree."""
    make_category(tmp_path, "nut", size=(300, 200))
    small, large = (load(tmp_path, image_size=side).validation for side in (64, 256))
    assert [s.defect for s in small.records] == [s.defect for s in large.records]
    anomalous = [i for i, record in enumerate(small.records) if record.label]
    faint = []
    for index in anomalous:
        fine = large.resized(index).mask
        coarse = small.resized(index).mask
        np.testing.assert_array_equal(coarse, fine.reshape(64, 4, 64, 4).any(axis=(1, 3)))
        faint.append(coarse.mean() >= fine.mean())
    assert anomalous and all(faint)


def test_synthetic_anomalies_are_inside_the_letterbox(tmp_path: Path) -> None:
    make_category(tmp_path, "nut", size=(20, 60))
    splits = load(tmp_path, resize="letterbox", image_size=64)
    batch = splits.validation.batch(range(len(splits.validation)))
    for image, mask, geometry in zip(batch.images, batch.masks, batch.geometry, strict=True):
        top, left, height, width = geometry.box
        assert (top, left, height, width) == (21, 0, 21, 64)
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[top : top + height] = False
        assert not mask[outside].any() and not image[:, outside].any()


def test_too_narrow_for_its_letterbox(tmp_path: Path) -> None:
    make_category(tmp_path, "nut", size=(10, 100))
    with pytest.raises(UserError, match="letterboxed it is 32x3 pixels|files cannot be used"):
        load(tmp_path, resize="letterbox")
    assert len(load(tmp_path).train) == 4


def test_batches_are_independent_of_caching(big: Path) -> None:
    """Nothing, some or all images cached: the same bits, in any order of batches."""
    order = [5, 3, 8, 0, 1, 15, 2]
    results = []
    for images in (load(big).train, load(big, memory_mib=0).train, _small_memory(big)):
        batches = list(images.batches(3, order))
        assert [len(batch) for batch in batches] == [3, 3, 1]
        results.append(torch.cat([batch.images for batch in batches]))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def _small_memory(root: Path) -> ImageSet:
    images = load(root, memory_mib=0).train
    images._cache._bytes_left = 20_000  # space for four images of 32x32
    images.load()
    assert 0 < sum(item in images._cache for item in images._sources) < len(images)
    return images


def test_cached_images_are_not_decoded_again(big: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load(big)
    list(
        splits.validation.batches(4)
    )  # synthetic anomalies are generated from files on first access
    monkeypatch.setattr(
        image_cache, "read_image", lambda path: pytest.fail("a cached image was decoded")
    )
    list(splits.train.batches(4))
    list(splits.validation.batches(4))


def test_batches(big: Path) -> None:
    train = load(big).train
    batches = list(train.batches(5))
    assert [len(batch) for batch in batches] == [5, 5, 5, 1]
    assert [s.path for b in batches for s in b.records] == paths(train)
    assert batches[0].images.shape == (5, 3, 32, 32)
    assert batches[0].images.dtype == torch.float32 and batches[0].images.is_contiguous()
    assert batches[0].masks.dtype == torch.bool and batches[0].labels.dtype == torch.int64
    assert list(train.batches(5, [])) == []
    unkept = load(big, memory_mib=0).train
    assert len(next(iter(unkept.batches(5)))) == 5  # the remaining images are not waited for
    subset = train.subset([2, 0])
    assert paths(subset) == [paths(train)[2], paths(train)[0]]
    assert torch.equal(subset.batch([1]).images, train.batch([0]).images)


def test_originals(root: Path) -> None:
    splits = load(root)
    np.testing.assert_array_equal(splits.test.original(3), read_image(splits.test.records[3].path))
    mask = splits.test.original_mask(3)
    assert mask.shape == (20, 24) and mask.sum() == 30
    last = len(splits.validation) - 1
    anomalous, mask = splits.validation.original(last), splits.validation.original_mask(last)
    clean = read_image(splits.validation.records[last].path)
    assert anomalous.shape == clean.shape and anomalous.dtype == np.uint8
    assert mask.any() and (anomalous != clean).any()
    np.testing.assert_array_equal(anomalous[~mask], clean[~mask])


def test_cached_images_cannot_be_modified(root: Path) -> None:
    train = load(root).train
    train.batch([0]).images.zero_()
    assert train.batch([0]).images.any()
    with pytest.raises(ValueError, match="read-only"):
        train.resized(0).image[0, 0, 0] = 1


def test_fingerprint(root: Path, tmp_path: Path) -> None:
    """It depends on names, contents, labels and masks, not on the location and times of the
    folder."""
    fingerprint = load(root).fingerprint
    assert len(fingerprint) == 64 and int(fingerprint, 16) > 0
    shutil.copytree(root, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").fingerprint == fingerprint
    assert load(root, seed=3, image_size=64).fingerprint == fingerprint
    fingerprints = {fingerprint, load(root, categories="all").fingerprint}
    nut = root / "nut"
    changes = [
        lambda: write_image(nut / "train/good/000.png", 99),
        lambda: (nut / "train/good/001.png").rename(nut / "train/good/777.png"),
        lambda: shutil.copy(nut / "test/good/000.png", nut / "test/good/009.png"),
        lambda: shutil.copy(nut / "test/hole/000.png", nut / "ground_truth/hole/000_mask.png"),
        lambda: (
            (nut / "test/hole").rename(nut / "test/good2")
            and (nut / "ground_truth/hole").rename(nut / "ground_truth/good2")
        ),
    ]
    for change in changes:
        change()
        fingerprints.add(load(root).fingerprint)
    assert len(fingerprints) == 2 + len(changes)


def test_label_is_part_of_the_fingerprint(root: Path) -> None:
    path = root / "nut/test/good/000.png"
    records = [ImageRecord(path, "nut", defect) for defect in ("good", "hole")]
    prints = [fingerprint([record], detect_layout(root)) for record in records]
    assert prints[0] != prints[1]


def test_progress_counts_every_file(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    settings = DataSettings(root=root, categories="all", image_size=32)
    load_dataset(settings, lambda done, total: calls.append((done, total)))
    assert calls == [(i, 20) for i in range(1, 21)]


@pytest.mark.parametrize(
    ("train", "changes", "copies"),
    [(20, {}, 10), (40, {}, 8), (40, {"synthetic_defects": 2}, 2), (80, {"held_out": 0.5}, 2)],
)
def test_small_sets_get_more_anomalies(
    tmp_path: Path, train: int, changes: dict[str, object], copies: int
) -> None:
    """About 60 anomalies, at most 10 and at least 2 copies of an image."""
    make_category(tmp_path / "set", "nut", train=train)
    splits = load(tmp_path / "set", **changes)
    assert len(splits.validation) == (1 + copies) * len(splits.held_out)


def test_kinds_of_anomalies(big: Path) -> None:
    kinds = {
        name: {r.defect.removeprefix("drawn_") for r in load(big, **changes).validation.records}
        for name, changes in {"all": {}, "generic": {"validation": {"kinds": "generic"}}}.items()
    }
    assert kinds["generic"] == {"good", *GENERIC}
    assert kinds["all"] == {"good", *SHARES} and len(SHARES) == len(GENERIC) + 3
