"""The inspected area: read from files, applied to images and masks, invalid files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vqlab.config import validate
from vqlab.data import (
    CheckReport,
    DataSettings,
    InspectedArea,
    Splits,
    areas_of,
    check_dataset,
    contact_sheet,
    load_dataset,
    read_image,
    to_network,
)
from vqlab.data.area import decode_areas, encode_areas
from vqlab.data.images import read_mask
from vqlab.data.synthetic_anomalies import KINDS, draw_anomaly
from vqlab.pixels.area import FILL
from vqlab.pixels.preprocessing import Preprocessing
from vqlab.types import UserError

RNG = np.random.default_rng(0)


def settings(**values: Any) -> DataSettings:
    return validate(DataSettings, values, "data.")


def mask_file(path: Path, mask: Any) -> Path:
    Image.fromarray(np.asarray(mask, np.uint8) * 255).save(path)
    return path


def disc(size: tuple[int, int]) -> Any:
    """Return the ellipse with 3/4 of the size of an image (H, W)."""
    image = Image.new("L", size[::-1])
    (height, width) = size
    box = (width // 8, height // 8, width - width // 8, height - height // 8)
    ImageDraw.Draw(image).ellipse(box, fill=255)
    return np.asarray(image) > 0


def read(**values: Any) -> InspectedArea | None:
    return areas_of(settings(**values), ["nut"])["nut"]


def test_white_is_included_by_roi_and_excluded_by_ignore(tmp_path: Path) -> None:
    mask = disc((40, 60))
    path = mask_file(tmp_path / "mask.png", mask)
    roi, ignored = read(roi=str(path)), read(ignore=str(path))
    assert roi is not None and (roi.mask == mask).all()
    assert ignored is not None and (ignored.mask == ~mask).all()
    left = np.zeros((80, 120), bool)
    left[:, :60] = True
    both = read(roi=str(path), ignore=str(mask_file(tmp_path / "left.png", left)))
    assert both is not None and both.mask.shape == (80, 120) and not both.mask[:, :60].any()
    assert (both.mask[:, 60:] == roi.at((80, 120))[:, 60:]).all()
    assert read() is None is read(roi="")
    assert read(roi=str(mask_file(tmp_path / "all.png", np.ones((4, 4))))) is None


def test_area_per_category(tmp_path: Path) -> None:
    path = mask_file(tmp_path / "mask.png", disc((40, 40)))
    names = ["nut", "bolt"]
    different = areas_of(settings(roi={"nut": str(path), "007": ""}), names)
    assert different["nut"] is not None and different["bolt"] is None
    equal = areas_of(settings(roi=str(path)), names)
    stored = encode_areas(different), encode_areas(equal), encode_areas({"nut": None})
    assert stored == ({"nut": equal["nut"].encode()}, equal["nut"].encode(), None)
    for areas, value in zip((different, equal), stored, strict=False):
        reloaded = decode_areas(json.loads(json.dumps(value)), names)
        assert {name: area and area.digest for name, area in reloaded.items()} == {
            name: area and area.digest for name, area in areas.items()
        }


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_polygons_are_filled(tmp_path: Path, suffix: str) -> None:
    square, overlapping = [[2, 2], [8, 2], [8, 6], [2, 6]], [[6, 4], [12, 4], [12, 9], [6, 9]]
    path = tmp_path / f"roi.{suffix}"
    path.write_text(json.dumps({"size": [20, 10], "polygons": [square, overlapping]}))
    area = read(roi=str(path))
    assert area is not None and area.mask.shape == (10, 20)
    expected = np.zeros((10, 20), bool)
    expected[2:7, 2:9] = expected[4:10, 6:13] = True
    assert (area.mask == expected).all()


INVALID = {
    "missing.png": (None, "data.roi .*missing.png cannot be used: it does not exist"),
    "text.png": ("text", "cannot be used: unsupported or corrupt image"),
    "missing.json": (None, "cannot be read: No such file"),
    "broken.json": ("{", "is not valid"),
    "list.json": ("[1]", r"must have the form \{\"size\""),
    "flat.json": ('{"size": [4, 4], "polygons": [[1, 2, 3]]}', "must have the form"),
    "line.yaml": ("{size: [4, 4], polygons: [[[1, 2], [2, 3]]]}", "must have the form"),
    "big.yaml": ("{size: [4, 1.e+9], polygons: [[[1, 2], [2, 3], [1, 3]]]}", "must have the form"),
    "many.yaml": ("{size: [20000, 20000], polygons: [[[1, 2], [2, 3], [1, 3]]]}", "have the form"),
    "nan.yaml": ("{size: [4, 4], polygons: [[[1, 2], [2, .nan], [1, 3]]]}", "must have the form"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_area_file_raises(tmp_path: Path, name: str) -> None:
    content, message = INVALID[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read(roi=str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_empty_areas_and_mismatched_shapes_raise(tmp_path: Path) -> None:
    empty = mask_file(tmp_path / "empty.png", np.zeros((4, 4)))
    full = mask_file(tmp_path / "full.png", np.ones((4, 8)))
    with pytest.raises(UserError, match="data.roi of category nut must leave pixels.*got none"):
        read(roi=str(empty))
    with pytest.raises(UserError, match="data.ignore of category nut must leave pixels"):
        read(ignore=str(full))
    with pytest.raises(UserError, match="must have the same aspect ratio; got 4x4 and 8x4 pixels"):
        read(roi=str(mask_file(tmp_path / "some.png", np.eye(4))), ignore=str(full))
    with pytest.raises(UserError, match="setting data.roi: must be a path"):
        settings(roi=3)


def test_mask_may_have_another_size_but_not_another_aspect_ratio() -> None:
    area = InspectedArea(disc((100, 75)))
    for size in ((100, 75), (1000, 750), (999, 749), (50, 37), (50, 38)):
        assert area.fits(size) and area.at(size).shape == size and area.at(size).any()
    for size in ((75, 100), (100, 78), (100, 100), (1000, 700)):
        assert not area.fits(size)
        with pytest.raises(UserError, match=rf"it is {size[1]}x{size[0]} pixels; .* 75x100, which"):
            area.at(size)
    repeated = InspectedArea.decode(area.encode())
    assert (repeated.mask == area.mask).all() and repeated.digest == area.digest
    assert InspectedArea(~area.mask).digest != area.digest


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("brightness", ["keep", "border"])
@pytest.mark.parametrize("size", [(64, 64), (200, 150), (33, 45)])
@pytest.mark.parametrize("border", [False, True])
def test_pixels_outside_the_area_have_no_effect(
    resize: str, brightness: str, size: tuple[int, int], border: bool
) -> None:
    chosen = settings(image_size=64, resize=resize, brightness=brightness)
    mask = disc(size) | (border & (np.arange(size[1]) < 5))
    area = InspectedArea(mask)
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    disturbed = np.where(mask[..., None], image, np.uint8(255))
    inputs, geometry = to_network(image, chosen, area)
    assert (to_network(disturbed, chosen, area)[0] == inputs).all()
    assert not (to_network(disturbed, chosen)[0] == to_network(image, chosen)[0]).all()
    assert (area.fill(image)[~mask] == FILL).all() and (area.fill(image)[mask] == image[mask]).all()
    exported = Preprocessing.parse(chosen.model_dump() | {"inspected": area.encode()})
    values, fitted = exported.network_input(image)
    assert fitted == geometry and np.array_equal(values, inputs.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_anomalies_are_inside_the_area(kind: str) -> None:
    image, texture = RNG.integers(90, 110, (2, 96, 96, 3), np.uint8)
    small = np.zeros((96, 96), bool)
    small[40:44, 60:63] = True
    for inside in (disc((96, 96)), small):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            anomalous, mask, _ = draw_anomaly(image, texture, rng, kind, inside=inside)
            assert mask.any() and (anomalous == image)[~inside].all()


@pytest.fixture
def half(small_root: Path, tmp_path: Path) -> Path:
    """A mask that includes the left half."""
    return mask_file(tmp_path / "half.png", np.arange(64) < np.full((64, 1), 32))


def test_dataset_is_masked_by_the_area(small_root: Path, half: Path, tmp_path: Path) -> None:
    tree = {"root": str(small_root), "categories": ["cable"], "image_size": 32}
    plain, splits = load_dataset(settings(**tree)), load_dataset(settings(**tree, roi=str(half)))
    assert plain.areas["cable"] is None and splits.areas["cable"] is not None
    for images in (splits.train, splits.validation, splits.test):
        for index, record in enumerate(images.records):
            resized = images.resized(index)
            assert (resized.image[:, 16:] == FILL).all() and not resized.mask[:, 16:].any()
            inspected, mask = images.original_inspected(index), images.original_mask(index)
            assert inspected is not None and not (mask & ~inspected).any()
            assert (record.defect.startswith("drawn_")) <= resized.mask.any()
    assert plain.fingerprint != splits.fingerprint
    assert plain.test_fingerprint != splits.test_fingerprint
    reloaded = mask_file(tmp_path / "other.bmp", np.arange(64) >= np.full((64, 1), 32))
    assert load_dataset(settings(**tree, ignore=str(reloaded))).fingerprint == splits.fingerprint


def test_each_category_of_a_joint_model_has_its_own_area(small_root: Path, half: Path) -> None:
    tree = {"root": str(small_root), "categories": ["cable", "fabric"], "image_size": 32}
    tree |= {"resize": "letterbox", "brightness": "border"}

    def load(**values: Any) -> Splits:
        return load_dataset(settings(**tree, **values))

    plain, shared = load(), load(roi=str(half))
    splits = load(roi={"cable": str(half)})
    other = mask_file(half.with_name("other.png"), ~read_mask(half))
    swapped = load(roi={"cable": str(half), "fabric": str(other)})
    for part in ("train", "validation", "test"):
        sets = {
            "cable": (getattr(splits, part), getattr(shared, part)),
            "fabric": (getattr(splits, part), getattr(plain, part)),
        }
        for name, (actual, expected) in sets.items():
            images, expected_images = actual.of_category(name), expected.of_category(name)
            assert images.fingerprint == expected_images.fingerprint
            batch, reference = (each.batch(range(len(each))) for each in (images, expected_images))
            assert torch.equal(batch.images, reference.images)
            assert torch.equal(batch.masks, reference.masks)
            assert batch.inspected is not None
            assert batch.inspected.all() == (name == "fabric")
        both = getattr(splits, part)
        first = [both.records.index(both.of_category(name).records[0]) for name in sets]
        mixed = both.batch(first).inspected
        assert mixed is not None and not mixed[0, :, 16:].any() and mixed[1].all()
        assert both.original_inspected(first[1]) is None
    fabric = swapped.validation.of_category("fabric")
    assert all((fabric.resized(i).image[:, :16] == FILL).all() for i in range(len(fabric)))
    prints = [each.fingerprint for each in (plain, shared, splits, swapped)]
    assert len(set(prints)) == 4
    assert len({each.test_fingerprint for each in (plain, shared, splits, swapped)}) == 4


def test_defects_outside_are_noted(small_root: Path, tmp_path: Path) -> None:
    corner = mask_file(tmp_path / "corner.png", np.add.outer(np.arange(64), np.arange(64)) < 8)
    tree = {"root": str(small_root), "categories": ["cable"], "image_size": 32}
    splits = load_dataset(settings(**tree, roi=str(corner)))
    (note,) = (note for note in splits.notes if "outside the inspected area" in note)
    assert "category cable: the masks of 6 of 6 defect images (e.g. cut_outer_insulation/" in note


def test_invalid_shapes_and_categories_raise(small_root: Path, tmp_path: Path) -> None:
    tree = {"root": str(small_root), "categories": ["cable"], "image_size": 32}
    wide = mask_file(tmp_path / "wide.png", disc((30, 60)))
    with pytest.raises(UserError, match=r"files cannot be used.*64x64 pixels; the inspected area"):
        load_dataset(settings(**tree, roi=str(wide)))
    with pytest.raises(UserError, match="data.roi names category cabel.*did you mean cable"):
        load_dataset(settings(**tree, roi={"cabel": str(wide)}))


def test_check_validates_the_area(small_root: Path, half: Path, tmp_path: Path) -> None:
    tree = {"root": str(small_root), "categories": "all"}

    def report(**values: Any) -> CheckReport:
        chosen = settings(**tree, **values)
        return check_dataset(small_root, areas=areas_of(chosen, ["cable", "fabric"]))

    plain, checked = report(), report(roi=str(half))
    assert not checked.errors and checked.fingerprint != plain.fingerprint
    corner = mask_file(tmp_path / "corner.png", np.add.outer(np.arange(64), np.arange(64)) < 8)
    partial = report(roi={"cable": str(corner)})
    assert partial.rows[1].fingerprint == plain.rows[1].fingerprint
    joint = load_dataset(settings(**tree, roi={"cable": str(corner)}))
    assert partial.fingerprint == joint.fingerprint != plain.fingerprint
    assert "the masks of 6 of 6 defect images" in partial.warnings[-1]
    wide = report(ignore=str(mask_file(tmp_path / "wide.png", disc((30, 60)))))
    images = len(list(small_root.glob("*/t*/*/*.png")))
    assert len(wide.errors) == images and "which is another aspect ratio" in wide.errors[0]
    single = load_dataset(settings(root=str(small_root), categories=["cable"], roi=str(half)))
    assert checked.rows[0].fingerprint == single.fingerprint


def test_contact_sheet_shows_the_area(small_root: Path, half: Path, tmp_path: Path) -> None:
    area = InspectedArea(read_mask(half))
    sheets = [
        read_image(contact_sheet(small_root, ["cable"], tmp_path / "sheet.png", areas))
        for areas in (None, {"cable": area})
    ]
    changed = (sheets[0] != sheets[1]).any(axis=2)[26:186, :160]
    assert changed[:, 84:156].mean() > 0.5 and not changed[:, :76].any()


def test_damaged_area_in_a_checkpoint_raises() -> None:
    text = InspectedArea(disc((20, 20))).encode()
    empty = InspectedArea(np.zeros((4, 4), bool)).encode()
    for damaged in ("", "!", text[:40], "A" * 80, 7, None):
        with pytest.raises(UserError, match="the inspected area is damaged"):
            InspectedArea.decode(damaged)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must be a mask with pixels to inspect"):
        InspectedArea.decode(empty)
