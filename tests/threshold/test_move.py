"""A changed threshold is registered as a new version; test and training images cannot set it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import call, refusal
from tiny_set import baseline_recipe, write_tiny_set

from vqlab.config import merge
from vqlab.data import pixels_digest
from vqlab.data.appearance import NORMAL_IMAGES
from vqlab.model import Model
from vqlab.predict.properties import properties_of
from vqlab.promote import history, promote
from vqlab.promote.reproduce import score_images
from vqlab.run import Recording, resolve, run
from vqlab.serve.history import FOLDER, History
from vqlab.threshold.move import CHOICE
from vqlab.tracking import Tracker

pytestmark = pytest.mark.usefixtures("blank_figures")


@dataclass
class Store:
    tracker: Tracker
    folder: Path
    run_id: str

    def move(self, *words: object) -> str:
        """Run `vqlab threshold`; return what it prints."""
        return call("threshold", *words, *self._paths)

    def refusal(self, *words: object) -> str:
        """Run `vqlab threshold`; return its error message."""
        return refusal("threshold", *words, *self._paths)

    @property
    def _paths(self) -> tuple[object, ...]:
        return "--mlruns", self.tracker.root, "--output", self.folder / "results"

    def champion(self) -> Model:
        return Model.load(self.tracker.champion("part").checkpoint, "cpu")


@pytest.fixture(scope="module")
def trained(
    root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory, blank_figures: None
) -> Store:
    folder = tmp_path_factory.mktemp("threshold")
    recipe = baseline_recipe(root)
    outcome = run(resolve(recipe), store, Recording(name="first", results=folder / "results"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
        assert promote(store, "part", ref=outcome.run_id).promoted
    return Store(store, folder, outcome.run_id)


@pytest.fixture
def good(trained: Store, tmp_path: Path) -> Path:
    """New normal images: the training images of another set."""
    other = write_tiny_set(tmp_path / "other", seed=5)
    folder = tmp_path / "good"
    shutil.copytree(other / "part" / "train" / "good", folder)
    return folder


def test_nothing_is_stored_without_promote(trained: Store) -> None:
    before = len(trained.tracker.runs())
    printed = trained.move("part", "--max-escapes", "0.2")
    assert "Nothing was changed; add --promote" in printed
    assert "current" in printed and "chosen" in printed and "synthetic anomalies" in printed
    unchanged = trained.move("part", "--max-rejects", "0.05")  # the original threshold
    assert "current, chosen" in unchanged
    assert (trained.folder / "results" / "threshold" / "part.png").exists()
    assert "choose a target" in trained.move("-c", "part", "gates.promise=warn")
    assert len(trained.tracker.runs()) == before


def test_test_and_training_images_are_rejected(trained: Store, good: Path, root: Path) -> None:
    """Images are identified by their pixels, for any name and format."""
    from PIL import Image

    for split, name in (("test", "test"), ("train", "training")):
        used = sorted((root / "part" / split / "good").iterdir())[0]
        copied = good / "renamed.bmp"
        Image.open(used).save(copied)
        refused = trained.refusal("part", "--max-rejects", "0.1", "--good", good)
        assert re.search(rf"1 of \d+ images .* are {name} images", refused)
        copied.unlink()


def test_invalid_options(trained: Store, good: Path) -> None:
    for words, sentence in (
        (["part", "--promote"], "--promote requires a target"),
        (["part", "--max-rejects", "0"], "must be above 0"),
        (["prat"], "did you mean part"),
        (["part", "gates.marjin=1"], "did you mean gates.margin"),
        (["part", "--good", "nowhere"], "nowhere does not exist"),
    ):
        assert sentence in trained.refusal(*words)
    (good / "broken.png").write_bytes(b"no image")
    assert "broken.png" in trained.refusal("part", "--good", good)


def test_image_with_another_role_is_rejected(trained: Store, tmp_path: Path) -> None:
    model = trained.champion()
    folder = write_tiny_set(tmp_path / "more", seed=7) / "part" / "train" / "good"
    image = sorted(folder.iterdir())[0]
    digest = pixels_digest(model.read(image))
    History(trained.tracker.root / FOLDER).set_roles("part", {digest: "test"})
    words = ("part", "--max-rejects", "0.25", "--good", folder, "--promote")
    assert f"{image} cannot set a threshold" in trained.refusal(*words)


def test_changed_threshold_is_promoted_through_the_gates(
    trained: Store, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    before = trained.champion()
    words = ("part", "gates.promise=ignore", "--max-rejects", "0.25", "--good", good)
    trained.move(*words, "--promote")
    assert "only its thresholds changed" in history(trained.tracker, "part")[0].reason
    after = trained.champion()
    scores = np.sort([before.score(path).score for path in good.iterdir()])
    place = int(np.ceil((len(scores) + 1) * 0.75 - 1e-9))
    assert after.thresholds.image == scores[place - 1] != before.thresholds.image
    assert after.thresholds.promised == 0.25 and after.thresholds.pixel == before.thresholds.pixel
    assert after.thresholds.calibration is not None
    assert after.thresholds.calibration.count == len(scores)
    properties = [properties_of(before.score(path)) for path in sorted(good.iterdir())]
    for name in ("brightness", "sharpness", "noise"):  # reference of `vqlab watch` for new parts
        assert after.meta[NORMAL_IMAGES][name] == [each[name] for each in properties]
    for name, value in before.detector.state_dict().items():
        assert (after.detector.state_dict()[name] == value).all()
    version = trained.tracker.registry.by_alias("part")
    assert version is not None and version.version == 2
    record = trained.tracker.find(version.run_id)
    assert record.tags["vqlab.threshold_of"] == trained.run_id
    first = trained.tracker.find(trained.run_id)
    assert record.metrics["test/image_auroc"] == first.metrics["test/image_auroc"]
    logged = json.loads(record.artifact(CHOICE).read_text())
    assert len(logged["good_images"]) == len(scores)
    gates = json.loads(record.artifact("acceptance/gates.json").read_text())["gates"]
    status = {gate["name"]: gate["status"] for gate in gates}
    assert status["comparison"] == "passed" and status["promise"] == "passed"
    roles = History(trained.tracker.root / FOLDER).roles("part")
    model = trained.champion()
    digests = {pixels_digest(model.read(path)) for path in good.iterdir()}
    assert {roles.get(digest) for digest in digests} == {"threshold"}
    # the original can be promoted again, and its threshold changed again
    assert promote(trained.tracker, "part", ref=trained.run_id).promoted
    assert "chosen" in trained.move("part", "--model", record.run_id, "--max-rejects", "0.5")


def test_review_rate_is_printed_before_the_threshold_changes(root: Path, tmp_path: Path) -> None:
    """A model with three verdicts, calibrated on two held-out normal images."""
    recipe = merge(baseline_recipe(root), {"threshold": {"review_rate": 0.7}})
    tracker = Tracker.open(tmp_path / "mlruns")
    recording = Recording(name="three", results=tmp_path / "results")
    run_id = run(resolve(recipe), tracker, recording).run_id
    store = Store(tracker, tmp_path, run_id)

    def printed(*target: object) -> str:
        return " ".join(store.move("part", "-m", run_id, *target).split())

    for name, target in (("current", ()), ("chosen", ("--max-rejects", 0.34))):
        text = printed(*target)
        assert f"{name} thresholds (conformal" in text and "not rejected, also if in review" in text
        assert re.search(r"else in review .* Of 100 normal images, 33.3 are expected in rev", text)
    for target in (("--max-rejects", 0.9), ("--max-escapes", 0.5)):
        text = printed(*target)
        assert "there is no review" in text and "else in review" not in text
