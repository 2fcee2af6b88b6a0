"""Search over the backbones that are available on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants as hub
from tiny_set import tiny_recipe

from vqlab.config import merge, read_recipe
from vqlab.data import load_dataset
from vqlab.evaluation import Report
from vqlab.features import Backbone
from vqlab.run import resolve
from vqlab.sweep import (
    Comparison,
    Event,
    StudyOpened,
    make_comparison,
    make_space,
    make_spaces,
    sweep,
)
from vqlab.sweep.study.storage import opened_storage, storage_address
from vqlab.sweep.study.studies import load_studies
from vqlab.sweep.workers.task import load_task
from vqlab.tracking import Tracker
from vqlab.types import UserError

Tree = dict[str, Any]
pytestmark = pytest.mark.usefixtures("blank_figures")
BACKBONE = "features.backbone"
CHECKPOINT_REQUESTS: Tree = {BACKBONE: {"available": ["test_resnet", "filters", "test_convnext"]}}
SIZE: Tree = {"detector.bank_size": {"low": 10, "high": 40}}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with a state dict of `test_resnet`."""
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "test_resnet_part.pth")
    return folder


@pytest.fixture
def bank(root: Path) -> Tree:
    """A memory bank on features of `filters`."""
    return {
        **tiny_recipe(root, epochs=0),
        "detector": {"name": "memory_bank", "bank_size": 30},
        "features": {"backbone": "filters"},
    }


def no_test(model: Any, config: Any, splits: Any, run: Any, results: Path) -> Any:
    """Skip scoring and pictures of the test set, which take longer than everything else."""
    return Report({}, {}), {}, results


def no_pictures(study: Any, objectives: Any, folder: Path, *_: Any) -> None:
    (folder / "study.html").write_text("nothing")


def with_weights(tree: Tree, weights: Path | str) -> Tree:
    return merge(tree, {"features": {"weights": str(weights)}})


def comparison_of(tree: Tree, **axes: Any) -> Comparison:
    return make_comparison(make_space({"space": {**CHECKPOINT_REQUESTS, **SIZE, **axes}}), tree)


def choices(comparison: Comparison) -> tuple[Any, ...] | None:
    axis = comparison.first.space.axes.get(BACKBONE)
    return axis.choices if axis else None


def test_backbone_of_the_recipe_precedes_other_available_ones(bank: Tree, weights: Path) -> None:
    comparison = comparison_of(with_weights(bank, weights))
    assert choices(comparison) == ("filters", "test_resnet")
    assert comparison.first.recipe_params()[BACKBONE] == "filters"
    (note,) = comparison.notes
    assert note.startswith(f"{BACKBONE} is one of filters, test_resnet; excluded: test_convnext (")
    assert "must hold test_convnext.pth" in note and "it holds test_resnet_part.pth)." in note
    everything = comparison_of(with_weights(bank, "random"))
    assert choices(everything) == ("filters", "test_resnet", "test_convnext")
    assert "excluded" not in everything.notes[0]


def test_checkpoint_file_makes_only_its_backbone_available(bank: Tree, weights: Path) -> None:
    comparison = comparison_of(with_weights(bank, weights / "test_resnet_part.pth"))
    assert choices(comparison) == ("filters", "test_resnet")
    assert "test_resnet_part.pth does not fit test_convnext" in comparison.notes[0]


def test_single_available_backbone_is_not_searched(bank: Tree) -> None:
    comparison = comparison_of(bank)
    assert choices(comparison) is None and BACKBONE not in comparison.first.sampled
    assert comparison.notes == (
        f"{BACKBONE} is filters in all trials; excluded: test_resnet, test_convnext (weights not "
        f"on this machine, and {hub.ENDPOINT} cannot be reached (HF_HUB_OFFLINE is set)).",
    )
    splits = load_dataset(resolve(bank).data)
    without = make_comparison(make_space({"space": SIZE}), bank)
    assert comparison.sweep_name(splits) == without.sweep_name(splits)
    with pytest.raises(UserError, match="must leave something to search; only filters is"):
        make_comparison(make_space({"space": CHECKPOINT_REQUESTS}), bank)


def test_available_backbones_are_part_of_the_study_name(bank: Tree, weights: Path) -> None:
    splits = load_dataset(resolve(bank).data)
    tree = with_weights(bank, weights)
    name = comparison_of(tree).sweep_name(splits)
    assert name == comparison_of(tree).sweep_name(splits)
    torch.save(timm.create_model("test_convnext").state_dict(), weights / "test_convnext.pth")
    assert name != comparison_of(tree).sweep_name(splits)


def test_note_is_printed_once_for_several_recipes(bank: Tree) -> None:
    space = {"space": {**CHECKPOINT_REQUESTS, **SIZE}}
    both = make_spaces({"recipes": {"one": space, "two": space}}, "both")
    comparison = make_comparison(both, {"one": bank, "two": bank})
    assert len(comparison.notes) == 1 and comparison.notes[0].startswith(
        "one, two: features.backbone is"
    )
    assert make_spaces(comparison.tree, "both").recipes["two"].axes.keys() == SIZE.keys()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"detector.bank_size": {"available": ["1", "2"]}}, "only possible for features.backbone"),
        ({BACKBONE: {"available": []}}, "must not be"),
        ({BACKBONE: {"available": ["filters"], "choices": ["filters"]}}, "must not be"),
        ({BACKBONE: {"available": ["resnet81"]}}, "value 'resnet81': .*did you mean resnet18"),
    ],
)
def test_invalid_axes_raise(axes: Tree, message: str, bank: Tree) -> None:
    with pytest.raises(UserError, match=message):
        make_comparison(make_space({"space": {**SIZE, **axes}}), bank)


def test_sweep_tries_both_backbones_and_workers_do_not_search_again(
    bank: Tree, weights: Path, store: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqlab.sweep.result.test_model", no_test)
    monkeypatch.setattr("vqlab.sweep.result.write_report", no_pictures)
    events: list[Event] = []
    result = sweep(
        make_comparison(
            make_space({"validations": 0, "space": {**CHECKPOINT_REQUESTS, **SIZE}}),
            with_weights(bank, weights),
        ),
        store,
        trials=4,
        on_event=events.append,
        results=tmp_path / "results",
    )
    assert [row.state for row in result.trials] == ["COMPLETE"] * 4
    tried = [row.params[BACKBONE] for row in result.trials]
    assert tried[0] == "filters" and set(tried) == {"filters", "test_resnet"}
    for row in result.trials:
        tags = store.find(str(row.run_id)).tags
        assert tags["vqlab.backbone"] == row.params[BACKBONE]
    (opened,) = (event for event in events if isinstance(event, StudyOpened))
    assert "excluded: test_convnext" in opened.notes[0]
    parent = store.find(result.parent_id)
    assert parent.tags["vqlab.available"] == opened.notes[0]
    axis = read_recipe(parent.artifact("space.yaml"))["space"][BACKBONE]
    assert axis["choices"] == ["filters", "test_resnet"] and "available" not in axis
    shutil.rmtree(weights)
    with opened_storage(storage_address(store.root)) as storage:
        task, _ = load_task(load_studies(storage, result.study), store)
        comparison = task.comparison()
    assert choices(comparison) == ("filters", "test_resnet") and comparison.notes == ()


def test_auto_is_resnet18_if_its_weights_are_available(
    bank: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = {"features": {"backbone": "auto"}, "data": {"image_size": 64}}
    assert resolve(merge(bank, auto)).features.backbone == "filters"
    resnet = timm.create_model("resnet18", features_only=True, out_indices=(2, 3))
    torch.save(resnet.state_dict(), tmp_path / "resnet18_part.pth")
    monkeypatch.setenv("VQLAB_WEIGHTS", str(tmp_path))
    features = resolve(merge(bank, auto)).features
    assert features.backbone == "resnet18" and features.weights == "hub"
    state = Backbone(features, 64).state_dict()
    for name, value in resnet.state_dict().items():
        assert torch.equal(state[f"network.model.{name}"], value)


def test_workers_receive_the_resolved_backbone(bank: Tree) -> None:
    """`auto` may resolve to another backbone on another machine."""
    comparison = comparison_of(merge(bank, {"features": {"backbone": "auto"}}))
    assert comparison.first.tree["features"]["backbone"] == "filters"
