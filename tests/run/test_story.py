"""A complete run: reproducibility, bit-for-bit resuming, and no use of the test set for
training."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import run_command, start_command

from vqlab.checkpoint import load_checkpoint, load_state
from vqlab.config import merge
from vqlab.evaluation import EVIDENCE, load_evidence
from vqlab.model import Model
from vqlab.promote import promote
from vqlab.run import Outcome, Recording, evaluate_model, fit, model_configs, resolve, run
from vqlab.tracking import NOTE, Tracker
from vqlab.types import UserError

Tree = dict[str, Any]

pytestmark = pytest.mark.usefixtures("blank_figures")


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(checkpoint)[0])


def same(path: Path, other_path: Path) -> bool:
    first, second = tensors(path), tensors(other_path)
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


@pytest.fixture(scope="module")
def outcome(small: Tree, store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(resolve(small), store, Recording(results=tmp_path_factory.mktemp("results")))


def test_run_writes_all_outputs(outcome: Outcome, store: Tracker) -> None:
    record = store.find(outcome.run_id)
    assert record.status == "FINISHED"
    assert {"test/image_auroc", "test/pixel_auroc", "test/aupro", "validation/pixel_auroc"} <= set(
        record.metrics
    )
    assert "test_mean_image/image_auroc" in record.metrics and "train/loss" in record.metrics
    assert "codebook/perplexity" in record.metrics
    assert "test_squared_error/image_auroc" in record.metrics
    assert record.tags["vqlab.data"] == "MVTec AD layout"
    assert record.tags["vqlab.data_fingerprint"] == outcome.model.meta["data"]["fingerprint"]
    assert record.params["training.epochs"] == "3"
    description = record.tags[NOTE]
    for text in ("**cable**", "`vqvae`", "no-learning baseline", outcome.run_id[:12]):
        assert text in description
    picture = re.search(r"get-artifact\?path=([^&]+)&run_uuid=" + outcome.run_id, description)
    assert picture and record.artifact(picture[1]).is_file()
    assert record.artifact("config.yaml").exists()
    assert record.artifact("curves/loss.png").exists()
    assert record.artifact("results/cable/cable_000_viz.png").exists()
    assert outcome.pictures is not None
    rows = list(csv.DictReader((outcome.pictures / "scores.csv").read_text().splitlines()))
    pictures = sorted(outcome.pictures.glob("cable_*_viz.png"))
    assert len(rows) == len(pictures) > 0
    assert not (store.run_folder(outcome.run_id)).exists()


def test_checkpoint_reproduces_the_scores_of_the_run(outcome: Outcome) -> None:
    model = Model.load(outcome.checkpoint, "cpu")
    assert outcome.pictures is not None
    rows = list(csv.DictReader((outcome.pictures / "scores.csv").read_text().splitlines()))
    root = Path(model.meta["config"]["data"]["root"])
    for row in rows[:: max(1, len(rows) // 5)]:
        prediction = model.score(root / row["file"])
        assert repr(prediction.score) == row["score"]
        assert prediction.verdict == row["verdict"]
        assert prediction.mask.any() == (row["verdict"] == "reject")
        assert prediction.anomaly_map.shape == prediction.image.shape[:2]


def test_array_and_file_have_the_same_score(outcome: Outcome) -> None:
    model = outcome.model
    path = next((Path(model.meta["config"]["data"]["root"]) / "cable/test/good").iterdir())
    from_file = model.score(path)
    assert model.score(from_file.image).score == from_file.score
    assert from_file.picture("cable").dtype == np.uint8
    grey = from_file.image[:, :, 0]
    assert np.isfinite(model.score(grey).score)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
    ],
)
def test_invalid_array_raises(outcome: Outcome, array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(UserError, match="uint8 array"):
        outcome.model.score(array)


def test_same_seed_gives_the_same_bits(small: Tree, store: Tracker, outcome: Outcome) -> None:
    repeated = run(resolve(small), store, test=False)
    assert same(repeated.checkpoint, outcome.checkpoint)
    other = run(resolve(merge(small, {"training": {"seed": 1}})), store, test=False)
    assert not same(other.checkpoint, outcome.checkpoint)


@pytest.mark.usefixtures("every_state")
def test_resumed_run_is_bit_identical(
    small: Tree, store: Tracker, outcome: Outcome, tmp_path: Path
) -> None:
    def stop(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(resolve(small), store, Recording(name="stopped"), on_epoch=stop)
    assert store.find("stopped").status == "KILLED"
    trained_epochs = []
    resumed = run(
        resolve(small),
        store,
        Recording(resumed=store.resume("stopped"), results=tmp_path),
        on_epoch=lambda epoch, epochs, metrics: trained_epochs.append(epoch),
    )
    assert trained_epochs == [3]
    assert same(resumed.checkpoint, outcome.checkpoint)
    record = store.find("stopped")
    assert record.status == "FINISHED"
    assert record.metrics["test/aupro"] == outcome.test.mean["aupro"]  # type: ignore[union-attr]


@pytest.mark.usefixtures("empty_mlruns")
def test_resume_after_sigkill(small: Tree, outcome: Outcome, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merge(small, {"training": {"threads": 1}})))
    process = start_command("train", recipe, cwd=tmp_path)
    process.wait_until(lambda: list(tmp_path.glob("mlruns/runs/*/state.safetensors")))
    process.kill()
    store = Tracker.open(tmp_path / "mlruns")
    (record,) = store.runs()
    assert (record.status, record.tags["vqlab.failure"]) == ("FAILED", "interrupted")
    run_command("train", "--resume", record.run_id[:8], cwd=tmp_path)
    record = store.find(record.run_id)
    assert record.status == "FINISHED"
    checkpoint = record.artifact("checkpoint/model.safetensors")
    assert same(checkpoint, outcome.checkpoint)


def test_trial_does_not_use_the_test_set(small: Tree, store: Tracker) -> None:
    trial = run(resolve(small), store, test=False)
    metrics = store.find(trial.run_id).metrics
    assert trial.test is None and not any(key.startswith("test/") for key in metrics)


def test_validation_during_training_has_no_effect_on_it(
    small: Tree, store: Tracker, outcome: Outcome
) -> None:
    reports = []
    validated = run(
        resolve(merge(small, {"training": {"validate_every": 1}})), store, test=False,
        on_epoch=lambda epoch, epochs, metrics: reports.append(metrics),
    )  # fmt: skip
    assert ["validation/pixel_auroc" in metrics for metrics in reports] == [True, True, False]
    assert same(validated.checkpoint, outcome.checkpoint)


def test_repeated_evaluation_gives_the_same_report(
    outcome: Outcome, store: Tracker, tmp_path: Path
) -> None:
    report, pictures = evaluate_model(
        Model.load(outcome.checkpoint, "cpu"), None, store, tmp_path / "results"
    )
    assert outcome.test is not None and report.mean == outcome.test.mean
    assert (pictures / "scores.csv").exists()


def test_one_model_per_category_or_one_for_all(small: Tree) -> None:
    both = resolve(merge(small, {"data": {"categories": ["cable", "fabric"]}}))
    assert [c.data.categories for c in model_configs(both)] == [("cable",), ("fabric",)]
    joint = resolve(merge(small, {"data": {"categories": "all", "joint": True}}))
    (only,) = model_configs(joint)
    assert {"cable", "fabric"} <= set(only.data.categories)


def test_failed_run_records_the_error(small: Tree, store: Tracker) -> None:
    def fail(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        raise UserError("the loss is not what it was.")

    with pytest.raises(UserError):
        run(resolve(small), store, Recording(name="failing"), on_epoch=fail)
    record = store.find("failing")
    assert (record.status, record.tags["vqlab.failure"]) == (
        "FAILED",
        "the loss is not what it was.",
    )


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"detector": "vqvea"}, "did you mean vqvae"),
        ({"detector": {"name": "vqvae", "hiden": 4}}, "did you mean detector.hidden"),
        ({"detector": 3}, "must be a section"),
        ({"training": {"epochs": -1}}, "training.epochs"),
        ({"trainin": {}}, "did you mean training"),
    ],
)
def test_invalid_recipe_raises(tree: Tree, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(tree)


def test_selection_on_the_test_set_is_marked_and_cannot_be_promoted(
    small: Tree, store: Tracker, tmp_path: Path
) -> None:
    """`training.select: best_on_test` keeps the epoch with the best test AUROC and tags the run."""
    config = resolve(merge(small, {"training": {"select": "best_on_test"}}))
    outcome = run(config, store, Recording(results=tmp_path))
    record = store.find(outcome.run_id)
    assert record.tags["vqlab.selected_on"] == "test"
    assert "best_on_test/image_auroc" in record.metrics
    assert not any(key.startswith("test") for key in record.metrics)
    assert outcome.test_split == "best_on_test"
    with pytest.raises(UserError, match="epoch was selected on the test set"):
        promote(store, "cable", ref=outcome.run_id)
    with pytest.raises(UserError, match="must not"):
        run(config, store, Recording(results=tmp_path), test=False)
    # a later evaluation of the checkpoint is marked as well
    evaluate_model(outcome.model, None, store, tmp_path)
    tested = store.runs(tags={"vqlab.model_run": outcome.run_id})
    assert not any(key.startswith("test/") for run_ in tested for key in run_.metrics)


@pytest.mark.usefixtures("every_state")
def test_selected_epoch_is_the_best_on_test(small: Tree, store: Tracker, tmp_path: Path) -> None:
    aurocs: list[float] = []
    best_weights: list[dict[str, torch.Tensor]] = []

    def watch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        aurocs.append(metrics["best_on_test/image_auroc"])
        folder = max(store.run_folder("x").parent.iterdir(), key=lambda f: f.stat().st_mtime)
        best_weights.append(dict(load_state(folder / "state.safetensors")["kept"]))

    config = resolve(merge(small, {"training": {"select": "best_on_test", "seed": 3}}))
    outcome = run(config, store, Recording(results=tmp_path), on_epoch=watch)
    best = best_weights[int(np.argmax(aurocs))]
    weight = "encoder.0.weight"
    assert torch.equal(tensors(outcome.checkpoint)[weight], best[weight])
    assert len(aurocs) == 3
    chosen = store.find(outcome.run_id).tags["vqlab.selected_epoch"]
    assert chosen == str(1 + int(np.argmax(aurocs)))


HASTY = {
    "select": "best_on_validation",
    "validate_every": 1,
    "learning_rate": 0.5,  # destroys the weights of the first epoch
    "ema": 0.5,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "warmup_steps": 2,
    "schedule": "steps",
    "milestones": [2],
    "clip": 0.1,
}


@pytest.mark.usefixtures("every_state")
def test_best_epoch_on_validation_is_selected_also_after_a_resume(
    small: Tree, store: Tracker
) -> None:
    config = resolve(merge(small, {"training": HASTY}))
    history: list[dict[str, float]] = []
    uninterrupted = run(
        config, store, test=False,
        on_epoch=lambda epoch, epochs, metrics: history.append(metrics),
    )  # fmt: skip
    figures = [metrics["best_on_validation/pixel_auroc"] for metrics in history]
    best = 1 + int(np.argmax(figures))
    assert best < 3 and max(figures) > figures[2] + 0.02
    assert ["validation/pixel_auroc" in metrics for metrics in history] == [True, True, False]
    assert 0 <= history[1]["train/clipped"] <= 1 and history[1]["train/gradient_norm"] > 0
    record = store.find(uninterrupted.run_id)
    assert record.tags["vqlab.selected_epoch"] == str(best)
    assert "vqlab.selected_on" not in record.tags and uninterrupted.test_split == "test"

    best_weights, trained = [], []

    def stop(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        if epoch == best:
            folder = store.run_folder(store.find("hasty").run_id)
            state = load_state(folder / "state.safetensors")
            best_weights.append(state["kept"])
            trained.append(state["detector"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, store, Recording(name="hasty"), test=False, on_epoch=stop)
    resumed = run(config, store, Recording(resumed=store.resume("hasty")), test=False)
    assert same(resumed.checkpoint, uninterrupted.checkpoint)
    assert resumed.validation.mean == uninterrupted.validation.mean
    for key in ("encoder.0.weight", "decoder.0.weight"):
        assert torch.equal(tensors(uninterrupted.checkpoint)[key], best_weights[0][key])
        assert not torch.equal(trained[0][key], best_weights[0][key])  # the averaged weights


def test_epochs_shorter_than_a_second_are_retrained(
    small: Tree, store: Tracker, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "STATE_SECONDS", 1e9)
    trained_epochs: list[int] = []

    def stop(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        trained_epochs.append(epoch)
        if epoch == 2 and trained_epochs.count(2) == 1:
            raise KeyboardInterrupt

    config = resolve(small)
    with pytest.raises(KeyboardInterrupt):
        run(config, store, Recording(name="short"), test=False, on_epoch=stop)
    tracked = store.resume("short")
    assert len(load_state(tracked.folder / "state.safetensors")["history"]) == 1
    resumed = run(config, store, Recording(resumed=tracked), test=False, on_epoch=stop)
    assert trained_epochs == [1, 2, 2, 3]
    assert same(resumed.checkpoint, outcome.checkpoint)
    assert len(store.history(tracked.id, ("train/loss",))) == 3


@pytest.mark.usefixtures("every_state")
@pytest.mark.parametrize("test", [True, False])
def test_diverged_run_keeps_its_last_finite_model(
    small: Tree, store: Tracker, tmp_path: Path, test: bool
) -> None:
    """With this β, the first epochs (codebook warm-up) succeed and the next one diverges."""
    trained_epochs: list[int] = []
    tree = merge(small, {"detector": {"commitment": 1e38, "warmup": 5}})
    name = f"diverging-{test}"
    with pytest.raises(UserError, match="diverged: .* at epoch 3, step 2; lower training") as error:
        run(
            resolve(tree),
            store,
            Recording(name=name, results=tmp_path),
            test=test,
            on_epoch=lambda epoch, epochs, metrics: trained_epochs.append(epoch),
        )
    record = store.find(name)
    assert (record.status, record.tags["vqlab.failure"]) == ("FAILED", str(error.value))
    assert trained_epochs == [1, 2]
    state = load_state(store.run_folder(record.run_id) / "state.safetensors")
    assert len(state["history"]) == 2
    assert all(torch.isfinite(tensor).all() for tensor in state["detector"].values())
    if not test:  # a trial of a sweep does not keep a diverged model
        assert f"is in {store.run_folder(record.run_id)}" in str(error.value)
        return
    assert "The model after epoch 2 is saved" in str(error.value)
    assert f"vqlab evaluate --model {record.run_id[:12]}" in str(error.value)
    model = Model.load(store.find(record.run_id[:12]).checkpoint(), "cpu")
    for key, tensor in model.detector.named_parameters():
        if key.startswith(("encoder", "decoder")):
            assert torch.equal(tensor, state["detector"][key])
    image = next((Path(model.meta["config"]["data"]["root"]) / "cable/test/good").iterdir())
    assert np.isfinite(model.score(image).score)


def test_run_that_diverges_at_once_keeps_no_model(small: Tree, store: Tracker) -> None:
    tree = merge(small, {"detector": {"commitment": 1e38, "warmup": 0}})
    with pytest.raises(UserError, match="at epoch 1, step 1; .*no state was saved"):
        run(resolve(tree), store)


def test_intervals_and_evidence_are_logged(outcome: Outcome, store: Tracker) -> None:
    assert outcome.test is not None
    record = store.find(outcome.run_id)
    for name in ("pixel_auroc", "aupro", "aupro_005", "escape_rate", "false_reject_rate"):
        low, high = (record.metrics[f"test/{name}_{end}"] for end in ("low", "high"))
        assert low <= record.metrics[f"test/{name}"] <= high and low < high
    assert (record.metrics["test/normal_images"], record.metrics["test/anomalous_images"]) == (4, 6)
    assert "test/image_auroc_low" not in record.metrics  # of four normal images
    notes = " ".join(outcome.test.notes)
    assert (
        "no 95 % interval for image AUROC, image AP, image F1max" in notes
        and "got 4 and 6" in notes
    )
    assert not any(key.startswith("validation/image_auroc_") for key in record.metrics)
    measured = load_evidence(record.artifact(EVIDENCE))["cable"]
    assert measured.metrics == outcome.test.per_category["cable"]
    assert (measured.evidence.labels == outcome.test.evidence["cable"].labels).all()
    assert max(outcome.test.bounds["cable"].values()) < 1e-2


def test_pixel_metrics_at_the_original_image_size(
    small: Tree, store: Tracker, tmp_path: Path, outcome: Outcome
) -> None:
    model = outcome.model
    changed = merge(model.meta["config"], {"evaluation": {"resolution": "original"}})
    model = replace(model, meta={**model.meta, "config": changed})
    report, _ = evaluate_model(model, None, store, tmp_path)
    assert outcome.test is not None
    assert report.mean["image_auroc"] == outcome.test.mean["image_auroc"]
    network, original = outcome.test.mean["pixel_auroc"], report.mean["pixel_auroc"]
    assert original != network
    assert original == pytest.approx(network, abs=0.1)


def test_all_rows_of_a_report_use_the_evaluation_settings_of_the_model(
    small: Tree, store: Tracker, tmp_path: Path, outcome: Outcome
) -> None:
    own_size = {"evaluation": {"resolution": "original", "resamples": 50}}
    base = {"data": small["data"], "detector": "mean_image", "training": {"epochs": 0}}
    same = run(resolve(merge(base, own_size)), store, Recording(results=tmp_path))
    assert same.test is not None
    assert same.other_reports["mean_image"].mean == same.test.mean
    assert same.other_reports["mean_image"].intervals == same.test.intervals
    other = run(resolve(merge(small, own_size)), store, Recording(results=tmp_path))
    for name in ("squared_error", "mean_image"):
        before, after = (each.other_reports[name].mean for each in (outcome, other))
        assert before["image_auroc"] == after["image_auroc"]
        assert before["pixel_auroc"] != after["pixel_auroc"]
