"""Capture shifts are reproducible and of the stated strength, and masks move with the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_set import write_tiny_set

from vqlab.data import SHIFTS, DataSettings, Splits, load_dataset, shifted
from vqlab.types import UserError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_set(tmp_path_factory.mktemp("tiny"))


def load(root: Path, **changes: object) -> Splits:
    tree = {"root": root, "categories": "part", "image_size": 32, **changes}
    return load_dataset(DataSettings.model_validate(tree))


@pytest.mark.parametrize("name", SHIFTS)
def test_shift_increases_with_severity(name: str) -> None:
    """Severity starts at almost no change; the shape is kept, and the same seed gives the same
    image."""
    noise = np.random.default_rng(0).uniform(40, 200, (20, 30, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((600, 400), Image.Resampling.BICUBIC))
    shift, changes = SHIFTS[name], []
    for severity in (0, 0.5, 1):
        first, repeated = (
            shift.apply(image, shift.strength(severity), np.random.default_rng(1)) for _ in "ab"
        )
        assert first.shape == image.shape and first.dtype == np.uint8
        assert np.array_equal(first, repeated)
        changes.append(float(np.abs(first.astype(int) - image).mean()))
    assert changes[0] < 1.5 and changes[0] < changes[1] < changes[2]


def test_noise_differs_between_images(tiny: Path) -> None:
    images = load(tiny).test
    noisy = shifted(images, "noise", 1)
    first, second = (noisy.original(i).astype(int) - images.original(i) for i in (0, 1))
    assert 5 < first.std() < 7 and not np.array_equal(first, second)


@pytest.mark.parametrize("name", [name for name, shift in SHIFTS.items() if shift.moves])
def test_mask_moves_with_the_image(tiny: Path, name: str) -> None:
    """The bright defect remains under its mask, also at network size."""
    test = load(tiny).test
    index = next(i for i, record in enumerate(test.records) if record.label)
    moved = shifted(test, name, 1)
    image, mask = moved.original(index), moved.original_mask(index)
    assert abs(int(mask.sum()) - int(test.original_mask(index).sum())) <= 6
    assert image[mask].mean() > 200 > image[~mask].mean()
    assert moved.resized(index).mask.any()


def test_training_images_are_followed_by_their_copies(tiny: Path) -> None:
    plain, more = load(tiny), load(tiny, shifts="jpeg,noise")
    paths = [record.path for record in plain.train.records]
    assert [record.path for record in more.train.records] == [p for p in paths for _ in "ab"]
    assert more.held_out.fingerprint == plain.held_out.fingerprint
    assert more.fingerprint == plain.fingerprint  # in the order of the files
    assert [len(images) for images in more.shifted_normals] == [len(plain.held_out)] * 2
    assert plain.shifted_normals == ()
    first, jpeg, second, noise = (more.train.resized(i).image for i in range(4))
    assert not np.array_equal(first, jpeg) and not np.array_equal(second, noise)


def test_table_lists_each_file_once(tiny: Path, tmp_path: Path) -> None:
    plain, more = load(tiny), load(tiny, shifts=["gain"])
    tables = [s.write_table(tmp_path / f"{i}.csv").read_text() for i, s in enumerate((plain, more))]
    assert tables[0] == tables[1]


def test_unknown_shift_raises() -> None:
    from vqlab.config import validate

    with pytest.raises(UserError, match="data.shifts"):
        validate(DataSettings, {"shifts": "jpg"}, "data.")
