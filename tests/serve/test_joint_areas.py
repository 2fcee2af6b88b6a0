"""A joint model whose categories have different inspected areas, from training to serving."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from commands import call, refusal
from PIL import Image
from servers import error_of, post, running
from tiny_set import baseline_recipe, write_tiny_set

from vqlab import runtime
from vqlab.data import load_dataset
from vqlab.model import Model
from vqlab.predict import load_model
from vqlab.promote import history, promote
from vqlab.promote.reproduce import score_images
from vqlab.recipes import Folders
from vqlab.run import Outcome, Recording, evaluate_model, resolve, run
from vqlab.serve import ServeSettings
from vqlab.serve.champions import Champions
from vqlab.sweep.trial.constraints import costs
from vqlab.tracking import CHECKPOINT, Tracker
from vqlab.types import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures")]
NAMES = ("other", "part")
ALL = "other+part"
AREAS = {
    "other": np.arange(32) < np.full((32, 1), 24),
    "part": np.hypot(*np.mgrid[-15.5:16, -15.5:16]) < 13,
}
REFUSED = "the category of the images must be one of other, part, because"


@dataclass
class Joint:
    tracker: Tracker
    root: Path
    outcome: Outcome

    def command(self, *words: str) -> str:
        return call(*words, "--mlruns", self.tracker.root)

    def refusal(self, *words: str) -> str:
        return refusal(*words, "--mlruns", self.tracker.root)

    def model(self, category: str) -> Model:
        return load_model("champion", category, self.tracker.root)

    def files(self, category: str) -> list[Path]:
        return sorted((self.root / category / "test").glob("*/*.png"))


@pytest.fixture(scope="module")
def joint(
    root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory, blank_figures: None
) -> Iterator[Joint]:
    """The champion of both categories, whose area files are gone."""
    folder = tmp_path_factory.mktemp("joint")
    roi = {}
    for name, area in AREAS.items():
        roi[name] = str(folder / f"{name}.png")
        Image.fromarray(area.astype(np.uint8) * 255).save(roi[name])
    recipe = baseline_recipe(root)
    recipe["data"] |= {"categories": list(NAMES), "joint": True, "roi": roi}
    outcome = run(resolve(recipe), store, Recording(name="joint", results=folder / "results"))
    shutil.rmtree(folder / "results")
    for file in roi.values():
        Path(file).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
        assert promote(store, ALL, ref=outcome.run_id).promoted
        yield Joint(store, root, outcome)


def test_images_are_scored_within_the_area_of_their_category(joint: Joint) -> None:
    record = joint.tracker.find("joint")
    for name, area in AREAS.items():
        model = joint.model(name)
        assert model.area is not None and (model.area.mask == area).all()
        assert model.category == name and model.categories == NAMES
        stored = record.artifact(f"data/inspected_area_{name}.png")
        assert ((np.asarray(Image.open(stored)) > 0) == area).all()
        with record.artifact(f"results/{name}/scores.csv").open() as file:
            recorded = {row["file"][-12:]: float(row["score"]) for row in csv.DictReader(file)}
        noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
        for path in joint.files(name):
            prediction = model.score(path)
            assert prediction.score == recorded[str(path)[-12:]]
            assert not prediction.mask[~area].any()
            disturbed = np.where(area[..., None], prediction.image, noise)
            assert model.score(disturbed).score == prediction.score
    path = joint.files("part")[0]
    maps = [joint.model(name).score(path).anomaly_map for name in NAMES]
    assert (maps[0] != maps[1]).any()
    report, _ = evaluate_model(
        joint.model("part"), Folders(None), joint.tracker, joint.root.parent / "results"
    )
    assert joint.outcome.test is not None and report.mean == joint.outcome.test.mean


def test_category_of_the_images_is_required(joint: Joint, tmp_path: Path) -> None:
    both = joint.model(ALL)
    path = joint.files("part")[0]
    with pytest.raises(UserError, match=f"{REFUSED} the model inspects .*; got none"):
        both.score(path)
    with pytest.raises(UserError, match=r"category 'prat'; did you mean part\?"):
        both.for_category("prat")
    with pytest.raises(UserError, match="must be one of other, part.*; got bolt"):
        both.area_of("bolt")
    watch = ["watch", str(path.parent), "--once", "-c"]
    for command in (["predict", str(path), "-c"], watch, ["export"]):
        assert REFUSED in joint.refusal(*command, ALL, "-o", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    joint.command("predict", str(path), "-c", "part", "-o", str(tmp_path / "predicted"))
    with (tmp_path / "predicted" / "scores.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["score"]) == joint.model("part").score(path).score


def test_category_uses_its_own_champion_or_the_joint_one(
    joint: Joint, caplog: pytest.LogCaptureFixture
) -> None:
    registry = joint.tracker.registry
    assert registry.champion_name("part") == registry.champion_name(ALL) == ALL
    assert registry.champion_name("bolt") == "bolt"
    single = registry.register(joint.outcome.run_id, CHECKPOINT, "part")
    second = registry.register(joint.outcome.run_id, CHECKPOINT, ("lid", "other"))
    try:
        registry.set_champion(single, None)
        registry.set_champion(second, None)
        assert registry.champion_name("part") == "part"
        with pytest.raises(UserError, match=r"of the joint models lid\+other, other\+part; choose"):
            registry.champion_name("other")
        current = Champions(ServeSettings(mlruns=joint.tracker.root)).current
        assert sorted(current) == list(NAMES) and current["part"].registered == "part"
        messages = [record.getMessage() for record in caplog.records]
        assert f"category part is served with the champion of part, not of {ALL}." in messages
    finally:
        for version in (single, second):
            registry._client.delete_registered_model(version.model)


def test_cost_is_measured_with_the_areas(joint: Joint) -> None:
    model = Model.load(joint.outcome.checkpoint)
    splits = load_dataset(model.data, area_of=model.area_of)
    measured = costs(model, splits, {"cost/cpu_seconds_per_image"})
    assert measured["cost/cpu_seconds_per_image"] > 0


def test_threshold_is_moved_with_normal_images_of_each_category(
    joint: Joint, tmp_path: Path
) -> None:
    new = write_tiny_set(tmp_path / "new", NAMES, seed=5)
    good = tmp_path / "good"
    for name in NAMES:
        shutil.copytree(new / name / "train" / "good", good / name)
    words = ["threshold", ALL, "--max-rejects", "0.25", "-o", str(tmp_path / "results")]
    words += ["gates.promise=ignore", "--promote"]
    joint.command(*words, "--good", str(good))
    version = history(joint.tracker, ALL)[0]
    assert version.state == "champion" and version.version == 2
    scores = [
        joint.model(name).score(path).score
        for name in NAMES
        for path in sorted((good / name).iterdir())
    ]
    calibration = joint.model("part").thresholds.calibration
    assert calibration is not None and list(calibration.quantiles) == sorted(scores)
    (good / "part").rename(good / "parts")
    sentence = joint.refusal(*words, "--good", str(good))
    assert "good/parts/000.png must be in a folder named like" in sentence


def test_each_category_is_exported(joint: Joint, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    for name, area in AREAS.items():
        folder = tmp_path / name
        printed = joint.command("export", name, "-o", str(folder), "--bundle")
        assert f"{name}: mean_image as onnx" in printed
        exported, model = runtime.Model(folder / "model.onnx"), joint.model(name)
        assert exported.description["category"] == name
        assert exported.description["categories"] == list(NAMES)
        inspected = exported.preprocessing.area and exported.preprocessing.area.at((32, 32))
        assert inspected is not None and (inspected == area).all()
        for path in joint.files(name):
            result, expected = exported.score(path), model.score(path)
            assert result.score == pytest.approx(expected.score, rel=1e-5)
            assert result.verdict == expected.verdict
        assert f"# Visual inspection of {name}\n" in (folder / "README.md").read_text()


def test_each_category_is_served(joint: Joint) -> None:
    with running(ServeSettings(mlruns=joint.tracker.root)) as address:
        listed = requests.get(f"{address}/v1/categories", timeout=10).json()
        assert [each["category"] for each in listed] == list(NAMES)
        for name in NAMES:
            files = joint.files(name)
            body = post(address, *(f.read_bytes() for f in files), category=name).json()
            model = joint.model(name)
            scores = [model.score(file).score for file in files]
            assert [image["score"] for image in body["images"]] == pytest.approx(scores)
            url = f"{address}/v1/categories/{name}"
            versions = requests.get(f"{url}/versions", timeout=10).json()
            assert versions[0]["champion"] and versions[-1]["version"] == 1
            first = post(address, files[0].read_bytes(), category=name, version=1).json()
            assert first["version"] == 1 and first["images"][0]["score"] == scores[0]
            points = requests.get(f"{url}/operating-points", timeout=10).json()
            assert points["defects"]["count"] == 4
        content = joint.files("part")[0].read_bytes()
        for category, sentence in (
            ({}, "one of other, part; got none"),
            ({"category": ALL}, "is not"),
        ):
            refused = post(address, content, **category)
            assert refused.status_code == 404 and sentence in error_of(refused)
    with running(ServeSettings(mlruns=joint.tracker.root, categories=("part",))) as address:
        body = post(address, content).json()
        assert body["category"] == "part"


def test_mlflow_model_accepts_the_category(joint: Joint) -> None:
    import mlflow.pyfunc  # after `vqlab.tracking.logged_model`, which filters its warnings

    version = joint.tracker.registry.versions(ALL)[-1]
    stored = joint.tracker._client.get_logged_model(version.tags["vqlab.model_id"])
    model = mlflow.pyfunc.load_model(stored.artifact_location)
    files = [(name, file) for name in NAMES for file in joint.files(name)]
    table = pd.DataFrame([(file.read_bytes(), name) for name, file in files])
    table.columns = ["image", "category"]
    expected = [joint.model(name).score(file).score for name, file in files]
    assert list(model.predict(table)["score"]) == expected
    wide = io.BytesIO()
    Image.new("RGB", (32, 8)).save(wide, "PNG")
    answers = model.predict(table.assign(image=[wide.getvalue(), *table["image"][1:]]))
    assert list(answers["score"])[1:] == expected[1:] and answers["verdict"][0] == "unreadable"
    assert "another aspect ratio" in answers["reason"][0]
    for wrong, sentence in (
        (table.drop(columns="category"), REFUSED),
        (table.assign(category="prat"), "did you mean part"),
    ):
        with pytest.raises(UserError, match=sentence):
            model.predict(wrong)
