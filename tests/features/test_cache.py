"""The feature cache: hits equal misses, one process extracts, and damaged files are replaced."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vqlab.config import validate
from vqlab.data import DataSettings, ImageSet, load_dataset
from vqlab.evaluation import score_images
from vqlab.features import (
    Backbone,
    FeatureSet,
    FeatureSettings,
    cache_files,
    cached_features,
    clear_cache,
    store,
)
from vqlab.types import Scores, UserError

CPU = torch.device("cpu")
SIDE = 32
CHILD = f"""
import importlib.util, pathlib, sys, time
import numpy as np
spec = importlib.util.spec_from_file_location("store", {str(store.__file__)!r})  # without torch
store = sys.modules["store"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(store)

def make():
    with open("log", "a") as log:
        log.write("made ")
    for row in range(3):
        yield np.full((1, 4), row, np.float16)
        pathlib.Path("writing").touch()
        time.sleep(float(sys.argv[1]))

print(store.cached_records("some", {{}}, 3, 4, make).records.sum())
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A separate cache for the test."""
    monkeypatch.setenv("VQLAB_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def data(root: Path, **values: object) -> DataSettings:
    tree = {"root": str(root), "categories": "all", "image_size": SIDE, **values}
    return validate(DataSettings, tree, "data.")


@pytest.fixture
def backbone() -> Backbone:
    return Backbone(FeatureSettings(backbone="test_resnet", weights="random"), SIDE)


def counted(backbone: Backbone) -> list[int]:
    """A list to which every call of the network appends its number of images."""
    extracted_counts: list[int] = []
    assert backbone.network is not None
    backbone.network.register_forward_hook(
        lambda m, args, out: extracted_counts.append(len(args[0]))
    )
    return extracted_counts


def fresh(backbone: Backbone, images: ImageSet) -> tuple[torch.Tensor, ...]:
    return backbone(images.batch(range(len(images))).images)


def test_hit_equals_miss_without_calling_the_network(backbone, small_root, folder):
    splits = load_dataset(data(small_root))
    extracted_counts = counted(backbone)
    calls: list[tuple[int, int]] = []
    first = cached_features(backbone, splits.train, CPU, lambda *done: calls.append(done))
    assert sum(extracted_counts) == len(splits.train) and calls[-1][0] == calls[-1][1]
    del extracted_counts[:], calls[:]
    repeated = cached_features(backbone, splits.train, CPU, lambda *done: calls.append(done))
    assert extracted_counts == [] and calls == []
    all_images = range(len(splits.train))
    expected = fresh(backbone, splits.train)
    for cached in (first, repeated):
        for a, b in zip(cached(all_images), expected, strict=True):
            assert torch.equal(a, b) and a.dtype == torch.float32 and a.is_contiguous()
    assert [a.shape[0] for a in repeated([5, 1, 5])] == [3, 3]
    assert torch.equal(repeated([5, 1])[0], expected[0][[5, 1]])
    sizes = {path.stat().st_size for path in folder.glob("*.features")}
    numbers = sum(c * h * w for c, (h, w) in zip(backbone.spec.channels, backbone.spec.sizes))  # noqa: B905
    counts = {len(splits.train.of_category(name)) for name in splits.categories}
    assert sizes == {store.HEADER + 2 * numbers * count for count in counts}


def test_subsets_and_single_category_models_share_files(backbone, small_root, folder):
    joint = load_dataset(data(small_root))
    for images in (joint.train, joint.validation):
        cached_features(backbone, images, CPU)
    before = sorted(folder.glob("*.features"))
    assert len(before) == 2 * len(joint.categories)
    extracted_counts = counted(backbone)
    single = load_dataset(data(small_root, categories=["cable"]))
    parts = (
        joint.held_out,
        joint.train.subset([7, 2, 15]),
        joint.train.subset([9, 4, 1]).subset([2, 0]),
        joint.train.of_category("fabric"),
        single.train,
        single.held_out,
    )
    for images in parts:
        cached = cached_features(backbone, images, CPU)
        assert extracted_counts == []
        for a, b in zip(cached(range(len(images))), fresh(backbone, images), strict=True):
            assert torch.equal(a, b)
        del extracted_counts[:]
    assert sorted(folder.glob("*.features")) == before


def test_changed_images_or_backbone_use_another_file(backbone, small_root, tmp_path):
    clone = shutil.copytree(small_root, tmp_path / "own")
    extracted_counts = counted(backbone)

    def extracted(root: Path, network: Backbone = backbone, **values: object) -> bool:
        cached_features(
            network, load_dataset(data(root, categories=["fabric"], **values)).train, CPU
        )
        was_extracted = bool(extracted_counts)
        del extracted_counts[:]
        return was_extracted

    assert extracted(small_root)
    assert not extracted(clone)  # the same images in another folder
    assert extracted(clone, brightness="border")
    assert extracted(clone, seed=1)  # other held-out images
    photo = clone / "fabric" / "train" / "good" / "003.png"
    shutil.copy(clone / "fabric" / "train" / "good" / "004.png", photo)
    assert extracted(clone)
    settings = backbone.settings.model_copy(update={"pool": "avg"})
    other = Backbone(settings, SIDE)
    extracted_counts = counted(other)
    assert extracted(clone, other)
    assert not extracted(clone, other)


def test_nothing_is_cached_for_pixels_or_with_cache_off(backbone, small_root, folder):
    images = load_dataset(data(small_root, categories=["fabric"])).train
    off = Backbone(backbone.settings.model_copy(update={"cache": False}), SIDE)
    assert cached_features(Backbone(FeatureSettings(), SIDE), images, CPU) is None
    assert cached_features(lambda x: (x,), images, CPU) is None
    assert cached_features(off, images, CPU) is None
    order = [3, 0, 3, 1, 2]
    without, with_cache = ([*FeatureSet(images, b).in_order(order, 2)] for b in (off, backbone))
    assert [len(sample) for sample in without] == [2, 2, 1]
    for a, b in zip(without, with_cache, strict=True):
        assert torch.equal(a.image, b.image)
        assert all(torch.equal(x, y) for x, y in zip(a.pyramid, b.pyramid, strict=True))


class Brightness:
    """A detector whose score is the first channel of the finest level."""

    def score(self, sample):
        level = torch.nn.functional.interpolate(sample.pyramid[0], (SIDE, SIDE))
        return Scores(level[:, 0], level.mean(dim=(1, 2, 3)))


def test_scores_are_the_same_with_and_without_the_cache(backbone, small_root, folder):
    images = load_dataset(data(small_root)).validation
    off = Backbone(backbone.settings.model_copy(update={"cache": False}), SIDE)
    expected = score_images(Brightness(), FeatureSet(images, off, CPU, 1))
    assert not folder.exists()
    for size in (1, 5):
        scored = score_images(Brightness(), FeatureSet(images, backbone, CPU, size))
        assert np.array_equal(scored.image_scores, expected.image_scores)
        assert all(np.array_equal(a, b) for a, b in zip(scored.maps, expected.maps, strict=True))


def records(count: int = 3, length: int = 4, about: dict[str, str] | None = None) -> store.Halves:
    """Write a file `some` with rows 0, 1, 2 …"""
    make: Callable[[], Iterator[store.Halves]] = lambda: (  # noqa: E731
        np.full((1, length), row, np.float16) for row in range(count)
    )
    return store.cached_records("some", about or {}, count, length, make).records


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def without_header(path: Path) -> None:
    os.truncate(path, 20)


def extended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def newer_version(path: Path) -> None:
    raw = path.read_bytes()
    header = json.loads(raw[: store.HEADER]) | {"format": store.FORMAT + 1}
    path.write_bytes(json.dumps(header).encode().ljust(store.HEADER) + raw[store.HEADER :])


def foreign(path: Path) -> None:
    path.write_bytes(b"\x00" * 9000)


@pytest.mark.parametrize(
    ("damage", "warning"),
    [
        (cut, "are truncated"),
        (without_header, "are truncated or not a file of vqlab"),
        (extended, "are truncated"),
        (newer_version, f"have format {store.FORMAT + 1}, and this vqlab's is {store.FORMAT}"),
        (foreign, "not a file of vqlab"),
    ],
)
def test_damaged_file_is_replaced_with_a_warning(folder, caplog, damage, warning):
    records()
    assert not caplog.records
    damage(folder / "some.features")
    assert np.array_equal(records(), [[row] * 4 for row in range(3)])
    (message,) = caplog.messages
    assert warning in message and "extracted again" in message and str(folder) in message
    records()
    assert len(caplog.records) == 1


def test_file_with_another_description_is_replaced(caplog, folder):
    records(about={"key": "a"})
    records(about={"key": "b"})
    assert "belong to other settings" in caplog.text


def test_records_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        records()[0] = 1


def child(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, str(seconds)]
    return subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, text=True)


def test_one_of_several_processes_extracts_and_a_killed_one_leaves_no_partial_file(
    tmp_path, folder
):
    with child(tmp_path, 600) as killed:
        while not (tmp_path / "writing").exists():
            assert killed.poll() is None
            time.sleep(0.02)
        assert not (folder / "some.features").exists()
        killed.send_signal(signal.SIGKILL)
    (left,) = cache_files()
    assert left.path.suffix == ".part" and not left.backbone

    (tmp_path / "log").unlink()
    children = [child(tmp_path, 0.1) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in children] == ["12.0"] * 3
    assert (tmp_path / "log").read_text() == "made "
    assert [path.name for path in folder.glob("some*")] == ["some.features"]


def test_error_during_extraction_leaves_no_file(folder):
    def make() -> Iterator[store.Halves]:
        yield np.zeros((1, 4), np.float16)
        raise UserError("image x is bad.")

    with pytest.raises(UserError, match="image x is bad"):
        store.cached_records("some", {}, 2, 4, make)
    assert not list(folder.glob("some*"))
    assert len(records()) == 3


def test_full_disk_raises(folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(
            UserError, match="cannot be cached in .*the disk is full; set VQLAB_CACHE"
        ):
            records()
    assert not list(folder.glob("some*"))
    with pytest.raises(UserError, match="the disk is full"):  # detected before extraction
        store.cached_records(
            "large", {}, 10**9, 10**9, lambda: pytest.fail("extraction must not start")
        )


def test_unwritable_folder_raises(folder):
    folder.write_text("a file in its place")
    with pytest.raises(UserError, match="cannot be cached in .*features.cache=false"):
        records()


def test_clearing_by_last_use_keeps_files_being_written(folder):
    records()
    (folder / "old.part").write_bytes(b"123")
    long_ago = time.time() - 10 * 86400
    os.utime(folder / "old.part", (long_ago, long_ago))
    assert [file.path.name for file in cache_files()] == ["some.features", "old.part"]
    assert [file.path.name for file in clear_cache(older_than=7)] == ["old.part"]
    with store._lock(folder / "some.features"):
        assert clear_cache() == []
    assert [file.images for file in clear_cache()] == [3]
    assert cache_files() == []


def test_reading_updates_the_time_of_last_use(folder):
    records()
    os.utime(folder / "some.features", (0, 0))
    records()
    assert time.time() - cache_files()[0].used < 60
