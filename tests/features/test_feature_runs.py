"""Runs on a timm backbone: tags, states, checkpoints without weights files, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import call, refusal, start_program

from vqlab.checkpoint import BACKBONE, load_checkpoint, load_state, save_checkpoint
from vqlab.data import load_dataset
from vqlab.features import cache_files
from vqlab.features.store import read_header
from vqlab.model import Model
from vqlab.run import Outcome, Recording, make_trainer, resolve, run
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")
SCORE = """
import sys
from pathlib import Path
from vqlab.model import Model
model = Model.load(Path(sys.argv[1]), "cpu")
print(repr(model.score(sys.argv[2]).score))
"""


def tree(root: Path, **features: object) -> dict[str, object]:
    return {
        "data": {"root": str(root), "categories": ["fabric"], "image_size": 64},
        "evaluation": {"resamples": 50},
        "features": {"backbone": "test_resnet", **features},
        "detector": {"name": "mean_image"},
        "training": {"epochs": 0, "device": "cpu"},
    }


@pytest.fixture(scope="module")
def outcome(small_root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run with weights from a file that is then deleted."""
    place = tmp_path_factory.mktemp("run")
    torch.manual_seed(3)
    torch.save(timm.create_model("test_resnet").state_dict(), place / "w.pth")
    config = resolve(tree(small_root, weights=str(place / "w.pth")))
    stages: list[str] = []
    done = run(
        config,
        store,
        Recording(results=place / "results"),
        on_progress=lambda what, done, total: stages.append(what),
    )
    assert stages[0] == "extracting features"
    (place / "w.pth").unlink()
    return done


def test_checkpoint_requires_neither_hub_nor_weights_file(outcome, small_root):
    tensors, _ = load_checkpoint(outcome.checkpoint)
    assert any(key.startswith(BACKBONE) for key in tensors)
    image = sorted((small_root / "fabric" / "test" / "hole").glob("*.png"))[0]
    expected = outcome.model.score(image).score
    result = start_program(SCORE, outcome.checkpoint, image, cwd=small_root).result()
    assert float(result.stdout) == expected, result.stderr


def test_loaded_model_reproduces_the_scores_of_the_cached_test_set(outcome, small_root):
    splits = load_dataset(resolve(tree(small_root)).data)
    expected = outcome.model.score_set(splits.test)
    loaded = Model.load(outcome.checkpoint, "cpu")
    assert loaded.backbone.key == outcome.model.backbone.key
    assert np.array_equal(loaded.score_set(splits.test).image_scores, expected.image_scores)
    for index, record in enumerate(splits.test.records):
        assert loaded.score(record.path).score == expected.image_scores[index]


def test_checkpoint_with_incomplete_backbone_raises(outcome, tmp_path):
    _, meta = load_checkpoint(outcome.checkpoint)
    path = save_checkpoint(tmp_path / "m.safetensors", outcome.model.detector, meta)
    with pytest.raises(UserError, match="does not fit its own settings"):
        Model.load(path, "cpu")


def test_detector_must_not_use_the_prefix_of_the_backbone(tmp_path):
    detector = torch.nn.ModuleDict({"backbone": torch.nn.Linear(1, 1)})
    with pytest.raises(TypeError, match="must not begin with 'backbone.'"):
        save_checkpoint(tmp_path / "m.safetensors", detector, {})


def test_run_is_tagged_with_its_backbone(store, small_root, tmp_path):
    config = resolve(tree(small_root, weights="random"))
    done = run(config, store, Recording(results=tmp_path / "results"), test=False)
    tags = store.find(done.run_id).tags
    assert tags["vqlab.backbone"] == "test_resnet" and tags["vqlab.features"] == "random"


def test_model_with_two_networks_is_loaded_from_its_checkpoint(store, small_root, tmp_path):
    both = tree(small_root, backbone="test_resnet+test_convnext", weights="random")
    done = run(resolve(both), store, Recording(results=tmp_path / "results"), test=False)
    assert store.find(done.run_id).tags["vqlab.backbone"] == "test_resnet+test_convnext"
    loaded = Model.load(done.checkpoint, "cpu")
    assert loaded.backbone.key == done.model.backbone.key
    image = sorted((small_root / "fabric" / "test" / "hole").glob("*.png"))[0]
    assert loaded.score(image).score == done.model.score(image).score


def test_run_records_which_features_were_cached(store, small_root, tmp_path, monkeypatch):
    monkeypatch.setenv("VQLAB_CACHE", str(tmp_path / "kept"))
    config = resolve(tree(small_root, weights="random"))
    outcomes = [run(config, store, test=False) for _ in range(2)]
    first, repeated = (store.find(outcome.run_id).tags for outcome in outcomes)
    assert "vqlab.reused" not in first, "features extracted by the same run do not count as cached"
    files = cache_files()
    seconds = sum(read_header(file.path)["seconds"] for file in files)
    assert repeated["vqlab.reused"] == f"features of {sum(file.images for file in files)} images"
    assert repeated["vqlab.seconds_saved"] == f"{seconds:.2f}" and seconds > 0


def test_training_state_has_no_backbone_weights_but_its_key(small_root, tmp_path):
    from vqlab.checkpoint import save_state

    first, other = (
        make_trainer(config, load_dataset(config.data), torch.device("cpu"))
        for config in (resolve(tree(small_root, weights="random", seed=s)) for s in (0, 1))
    )
    save_state(tmp_path / "s", first.state())
    state = load_state(tmp_path / "s")
    assert (tmp_path / "s").stat().st_size < 200_000  # the network has 100,000 weights
    first.load(state)
    with pytest.raises(UserError, match="with the same backbone"):
        other.load(state)


def test_command_shows_and_clears_the_cache(monkeypatch, small_root, tmp_path):
    monkeypatch.setenv("VQLAB_CACHE", str(tmp_path / "kept"))
    assert "0 files (0.0 MB)" in call("data", "cache")
    config = resolve(tree(small_root, weights="random"))
    make_trainer(config, load_dataset(config.data), torch.device("cpu")).fit(lambda e, m: None)
    (tmp_path / "kept" / "dead.part").write_bytes(b"x")
    listed = call("data", "cache")
    assert "test_resnet" in listed and "fabric" in listed and "2 files" in listed
    assert "incomplete: dead.part" in listed
    assert refusal("data", "cache", "--older-than", "3")
    for age in ("3", "0.5", "12h", "2w"):
        assert "Deleted 0 files" in call("data", "cache", "--clear", "--older-than", age)
    for age in ("-1", "nan", "3y"):
        assert "an age must be" in refusal("data", "cache", "--clear", f"--older-than={age}")
    assert "Deleted 2 files" in call("data", "cache", "--clear")
    assert not list((tmp_path / "kept").glob("*.features"))
