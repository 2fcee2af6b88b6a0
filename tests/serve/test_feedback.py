from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from servers import copy_store
from tiny_set import baseline_recipe

from vqlab.data import DataSettings, load_dataset, pixels_digest, read_image
from vqlab.errors import UserError
from vqlab.run import Recording, resolve, run
from vqlab.serve.feedback import FeedbackResult, claim_threshold_images, write_feedback
from vqlab.serve.feedback_dataset import DatasetImage, read_manifest, write_category
from vqlab.serve.history import FOLDER, History, Role
from vqlab.serve.roles import assigned_role
from vqlab.tracking import CHECKPOINT, Tracker

FOLDERS: dict[Role, str] = {"train": "train", "threshold": "validation", "test": "test"}
Write = Callable[[], FeedbackResult]
JOINT = ("other", "part")


@pytest.fixture(scope="module")
def champion(root: Path, store: Tracker) -> Path:
    """mlruns/ with a champion of `part`."""
    return promote(store, root)


def promote(tracker: Tracker, root: Path) -> Path:
    recipe = baseline_recipe(root)
    run_id = run(resolve(recipe), tracker, Recording(name="part"), test=False).run_id
    version = tracker.registry.register(run_id, CHECKPOINT, "part")
    tracker.registry.set_champion(version, tracker.registry.by_alias("part"))
    return tracker.root


@pytest.fixture
def mlruns(champion: Path) -> Path:
    shutil.rmtree(champion / FOLDER, ignore_errors=True)
    return champion


@pytest.fixture
def history(mlruns: Path) -> History:
    return History(mlruns / FOLDER)


@pytest.fixture
def write(mlruns: Path, tmp_path: Path) -> Write:
    return lambda: write_feedback("part", mlruns, tmp_path / "data")


def picture(folder: Path, number: int) -> Path:
    path = folder / f"new{number}.png"
    pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def judge(history: History, path: Path, verdict: str) -> str:
    digest = pixels_digest(read_image(path))
    history.store("part", digest, path.name, path.suffix, path.read_bytes(), verdict)
    return digest


def roles_in(folder: Path) -> dict[str, set[str]]:
    """Return the digests of the images of a written dataset by top folder."""
    return {
        name: {pixels_digest(read_image(p)) for p in (folder / "part" / name).rglob("*.png")}
        for name in FOLDERS.values()
    }


def test_images_have_the_role_shown_on_the_page(
    history: History, write: Write, tmp_path: Path
) -> None:
    announced = {}
    for number in range(20):
        digest = judge(history, picture(tmp_path, number), "good")
        announced[digest] = assigned_role("part", digest, "good", None)
    defect = judge(history, picture(tmp_path, 20), "defect")
    judge(history, picture(tmp_path, 21), "unsure")
    result = write()
    written = roles_in(tmp_path / "data")
    for digest, role in announced.items():
        assert role is not None
        assert [name for name, digests in written.items() if digest in digests] == [FOLDERS[role]]
    assert defect in written["test"]
    assert sum(result.added.values()) == 21
    assert (tmp_path / "data/part/test/defect" / f"feedback_{defect[:16]}.png").is_file()
    assert {image.text for image in result.judged if image.verdict == "unsure"} == {
        "Not used: you are unsure."
    }


def test_training_uses_the_roles(
    root: Path, history: History, write: Write, tmp_path: Path
) -> None:
    judge(history, picture(tmp_path, 0), "defect")
    write()
    before = load_dataset(DataSettings(root=root, categories=("part",), image_size=32))
    after = load_dataset(DataSettings(root=tmp_path / "data", categories=("part",), image_size=32))
    for split in ("train", "held_out"):
        names = [
            sorted(pixels_digest(read_image(r.path)) for r in getattr(splits, split).records)
            for splits in (before, after)
        ]
        assert names[0] == names[1]
    assert len(after.test) == len(before.test) + 1
    assert sum(r.mask is not None for r in after.test.records) == sum(
        r.mask is not None for r in before.test.records
    )


def test_renamed_and_converted_image_keeps_its_role(
    root: Path, history: History, write: Write, tmp_path: Path
) -> None:
    for place in ("train/good/000.png", "test/good/000.png", "test/hole/000.png"):
        copy = tmp_path / f"{place.replace('/', '_')}.bmp"
        Image.open(root / "part" / place).save(copy)
        judge(history, copy, "defect")
    result = write()
    texts = {image.name: image.text for image in result.judged}
    assert texts["test_hole_000.png.bmp"] == "Already in the dataset: a test image (defect)."
    for name in ("train_good_000.png.bmp", "test_good_000.png.bmp"):
        assert texts[name].startswith("Already in the dataset: a ")
        assert "(good), which contradicts your verdict; check " in texts[name]
    assert sum(result.added.values()) == 0


def test_repeated_call_changes_nothing(history: History, write: Write, tmp_path: Path) -> None:
    judge(history, picture(tmp_path, 0), "good")
    assert write().changed
    state = {path: path.stat().st_mtime_ns for path in (tmp_path / "data/part").rglob("*")}
    assert not write().changed
    assert state == {path: path.stat().st_mtime_ns for path in (tmp_path / "data/part").rglob("*")}


def test_roles_are_disjoint_for_any_feedback(
    history: History, write: Write, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pictures = [picture(tmp_path, number) for number in range(12)]
    used: dict[str, set[bool]] = {}
    for _ in range(6):
        for path in pictures:
            judge(history, path, str(rng.choice(["good", "defect", "unsure"])))
        write()
        for name, digests in roles_in(tmp_path / "data").items():
            for digest in digests:
                used.setdefault(digest, set()).add(name == "test")
    assert all(len(kinds) == 1 for kinds in used.values())


def test_champion_of_the_written_dataset_keeps_all_roles(
    root: Path, history: History, write: Write, tmp_path: Path
) -> None:
    judge(history, picture(tmp_path, 0), "defect")
    flipped = judge(history, picture(tmp_path, 1), "good")
    write()
    before = roles_in(tmp_path / "data")
    tracker = Tracker.open(history.folder.parent)
    first = tracker.registry.by_alias("part")
    try:
        promote(tracker, tmp_path / "data")
        added = judge(history, picture(tmp_path, 2), "defect")
        judge(history, picture(tmp_path, 1), "unsure")
        write()
        after = roles_in(tmp_path / "data")
        assert after["train"] | after["validation"] == (before["train"] | before["validation"]) - {
            flipped
        }
        assert after["test"] == before["test"] - {flipped} | {added}
    finally:
        assert first is not None
        tracker.registry.set_champion(first, tracker.registry.by_alias("part"), back=True)


def test_image_moved_between_folders_is_skipped(
    root: Path, mlruns: Path, history: History, tmp_path: Path
) -> None:
    from vqlab.recipes import Folders

    copy = copy_store(root, tmp_path / "copy")
    judge(history, picture(tmp_path, 0), "good")
    write_feedback("part", mlruns, tmp_path / "data", Folders(copy))
    moved = copy / "part/train/good/003.png"
    digest = pixels_digest(read_image(moved))
    moved.rename(copy / "part/test/good/moved.png")
    result = write_feedback("part", mlruns, tmp_path / "data", Folders(copy))
    [note] = [note for note in result.notes if "moved.png" in note]
    assert "is a test image of the dataset, but was a t" in note
    assert all(digest not in digests for digests in roles_in(tmp_path / "data").values())


def test_damaged_stored_image_is_not_used(history: History, write: Write, tmp_path: Path) -> None:
    digest = judge(history, picture(tmp_path, 0), "good")
    (history.images / f"{digest}.png").write_bytes(b"damaged")
    [image] = write().judged
    assert image.role is None and image.text.endswith("is missing or damaged.")


def test_folder_of_another_program_is_not_replaced(
    history: History, write: Write, tmp_path: Path
) -> None:
    judge(history, picture(tmp_path, 0), "good")
    foreign = tmp_path / "data/part/train/good/precious.png"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"precious")
    with pytest.raises(UserError, match="was not written by vqlab feedback and is not replaced"):
        write()
    assert foreign.read_bytes() == b"precious"


@pytest.fixture
def joint(champion: Path, root: Path, store: Tracker) -> Path:
    """mlruns/ with a champion of `other` and `part` as a joint model, whose mask files are gone."""
    shutil.rmtree(champion / FOLDER, ignore_errors=True)
    if store.registry.by_alias(JOINT) is None:
        mask = champion / "roi.png"
        Image.fromarray(np.full((32, 32), 255, np.uint8) * np.tri(32, dtype=np.uint8)).save(mask)
        recipe = baseline_recipe(root)
        recipe["data"] |= {"categories": JOINT, "joint": True, "roi": {"other": str(mask)}}
        run_id = run(resolve(recipe), store, Recording(name="joint"), test=False).run_id
        version = store.registry.register(run_id, CHECKPOINT, JOINT)
        store.registry.set_champion(version, None)
        mask.unlink()
    return champion


def judge_as(category: str, history: History, path: Path, verdict: str) -> str:
    digest = pixels_digest(read_image(path))
    history.store(category, digest, path.name, path.suffix, path.read_bytes(), verdict)
    return digest


def test_category_of_a_joint_model(root: Path, joint: Path, tmp_path: Path) -> None:
    """Its threshold depends on images of all categories; none of them becomes a test image."""
    history = History(joint / FOLDER)
    settings = DataSettings(root=root, categories=JOINT, joint=True, image_size=32)
    splits = load_dataset(settings)
    used, others = ([r.path for r in splits.held_out.records if r.category == c] for c in JOINT)
    new = [picture(tmp_path, number) for number in range(30)]
    for path in new:
        judge_as("other", history, path, "good")
    in_own = judge_as("other", history, used[0], "defect")
    in_other = judge_as("other", history, others[0], "defect")
    good_in_other = judge_as("other", history, others[1], "good")
    test_of_other = next(r.path for r in splits.test.records if r.category == "part")
    as_test = judge_as("other", history, test_of_other, "good")
    claimed = judge_as("other", history, picture(tmp_path, 99), "defect")
    claim_threshold_images(JOINT, joint, {tmp_path / "new99.png": claimed})
    result = write_feedback("other", joint, tmp_path / "data")
    assert result.categories == JOINT and sum(result.added.values()) == 32
    written = {
        name: {pixels_digest(read_image(p)) for p in (tmp_path / "data/other" / name).rglob("*.p*")}
        for name in FOLDERS.values()
    }
    assert in_own in written["validation"] and good_in_other in written["validation"]
    assert all(in_other not in digests and claimed not in digests for digests in written.values())
    assert as_test in written["test"]
    held_out = {pixels_digest(read_image(record.path)) for record in splits.held_out.records}
    assert not (held_out | {claimed}) & written["test"]
    digests = {path: pixels_digest(read_image(path)) for path in new}
    tested = {path: digest for path, digest in digests.items() if digest in written["test"]}
    with pytest.raises(
        UserError, match="cannot set a threshold: for vqlab feedback it is a test im"
    ):
        claim_threshold_images(JOINT, joint, tested)
    with pytest.raises(UserError, match=r"other\+part is a joint model .* -c other -c part"):
        write_feedback("other+part", joint, tmp_path / "data")


def test_roles_of_one_category_hold_in_the_joint_model(joint: Path, tmp_path: Path) -> None:
    history = History(joint / FOLDER)
    digests = [judge_as("other", history, picture(tmp_path, n), "good") for n in range(3)]
    history.set_roles("part", {digests[0]: "test", digests[1]: "threshold", digests[2]: "test"})
    history.set_roles("other", {digests[2]: "train"})
    result = write_feedback("other", joint, tmp_path / "data")
    assert {image.name: image.role for image in result.judged} == {
        "new0.png": "test", "new1.png": "threshold", "new2.png": None,
    }  # fmt: skip
    [mixed] = [image.text for image in result.judged if image.role is None]
    assert mixed == (
        "Not used: it is already a test image of one category and a training or threshold image of "
        "another."
    )


def test_no_feedback_raises(write: Write) -> None:
    with pytest.raises(UserError, match="there is no feedback on part in .*; judge images on the"):
        write()


def _write_repeatedly(folder: Path, images: list[DatasetImage]) -> None:
    for index in range(10_000):
        write_category(folder, images[: 2 + index % 2])


def _listed(folder: Path) -> list[str]:
    manifest = read_manifest(folder)
    return [] if manifest is None else list(manifest["images"])


@pytest.mark.slow
def test_killed_process_leaves_no_partial_dataset(tmp_path: Path) -> None:
    images = [DatasetImage(picture(tmp_path, i), f"{i}.png", "train", str(i)) for i in range(3)]
    folder = tmp_path / "data/part"
    for attempt in range(4):
        process = multiprocessing.get_context("spawn").Process(
            target=_write_repeatedly, args=(folder, images)
        )
        process.start()
        deadline = time.monotonic() + 60
        while len(_listed(folder)) != 2:  # the process is writing
            assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05 + 0.013 * attempt)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        if folder.exists():  # otherwise killed between two renames: the next call completes it
            listed = json.loads((folder / "feedback.json").read_text())["images"]
            assert {f"train/good/{p.name}" for p in folder.rglob("*.png")} == set(listed)
        write_category(folder, images)
        assert len(list(folder.rglob("*.png"))) == 3
        assert [p.name for p in folder.parent.iterdir() if p.suffix == ".part"] == []
