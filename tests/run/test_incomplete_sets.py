"""Sets without masks, without defects or without test images, from training to prediction."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_set import baseline_recipe, tiny_recipe, write_tiny_set

from vqlab.cli import main
from vqlab.config import merge
from vqlab.predict import load_model, predict_files
from vqlab.promote import GateSettings, promote
from vqlab.promote.comparison import NO_IMAGES
from vqlab.promote.reproduce import Reproduction
from vqlab.recipes import Folders
from vqlab.run import Outcome, Recording, evaluate_model, resolve, run
from vqlab.sweep import SweepResult, make_comparison, make_space, sweep
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")
Tree = dict[str, Any]
IMAGE = {"image_auroc", "image_ap", "image_f1max"}
PIXEL = {"pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_iou", "aupro", "aupro_005"}


@pytest.fixture
def part(root: Path, tmp_path: Path) -> Path:
    """The folder of a category, which a test may modify."""
    shutil.copytree(root / "part", tmp_path / "data/part")
    return tmp_path / "data/part"


def baseline(folder: Path, **data: Any) -> Tree:
    """Return the recipe of a detector that needs no training."""
    return merge(baseline_recipe(folder.parent, folder.name), {"data": data})


def skip_reproduction(record: Any, data: Any) -> Reproduction:
    return Reproduction(0, True)


def no_masks(part: Path) -> None:
    shutil.rmtree(part / "ground_truth")


def one_mask(part: Path) -> None:
    for path in sorted((part / "ground_truth/hole").iterdir())[1:]:
        path.unlink()


def no_defects(part: Path) -> None:
    shutil.rmtree(part / "test/hole")


def no_normals(part: Path) -> None:
    shutil.rmtree(part / "test/good")


CASES: dict[str, tuple[Callable[[Path], None], set[str], set[str], str]] = {
    "no masks": (
        no_masks, IMAGE | {"escape_rate", "false_reject_rate"}, PIXEL,
        r"4 of 4 defect images have no mask; pixel metrics \(.*\) are missing",
    ),
    "one mask": (one_mask, IMAGE | PIXEL, set(), "3 of 4 defect images have no mask.*exclude them"),
    "no defects": (
        no_defects, {""
        "false_reject_rate"}, IMAGE | PIXEL | {"escape_rate"}, "has no anomalous images",
    ),
    "no normals": (
        no_normals, PIXEL | {"escape_rate"}, IMAGE | {"false_reject_rate"}, "no normal images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_available_metrics_are_computed(
    case: str, part: Path, store: Tracker, tmp_path: Path
) -> None:
    """Metrics that are not available are absent, with one note."""
    modify, there, missing, words = CASES[case]
    modify(part)
    outcome = run(resolve(baseline(part)), store, Recording(results=tmp_path / "results"))
    assert outcome.test is not None
    assert sum(re.search(words, note) is not None for note in outcome.test.notes) == 1
    metrics = store.find(outcome.run_id).metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert {f"test/{name}" for name in there} <= metrics.keys()
    assert not {f"test/{name}" for name in missing} & metrics.keys()
    assert {"validation/pixel_auroc", "validation/image_auroc"} <= metrics.keys()
    summary = predict_files(outcome.model, [part / "train/good/000.png"], tmp_path / "predictions")
    assert summary.total == 1 and not summary.unreadable


@pytest.fixture(scope="module")
def untested(root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A sweep on images without a test set."""
    tree = tiny_recipe(root)
    good = {"root": None, "good": str(root / "part/train/good"), "categories": ["flat"]}
    space = make_space(
        {"objective": "validation/pixel_auroc",
         "space": {"training.learning_rate": {"low": 0.0005, "high": 0.002}}},
    )  # fmt: skip
    results = tmp_path_factory.mktemp("results")
    return sweep(
        make_comparison(space, merge(tree, {"data": good})), store, trials=2, results=results
    )


@pytest.mark.slow
def test_sweep_without_a_test_set(untested: SweepResult, store: Tracker) -> None:
    assert untested.test == {} and untested.tested == () and untested.pictures is None
    assert "validation/pixel_auroc" in untested.validation
    assert "flat has no test images" in " ".join(untested.notes)
    record = store.find(str(untested.best.run_id))
    assert record.tags["vqlab.test_fingerprint"] == NO_IMAGES
    assert not any(key.startswith("test") for key in record.metrics)
    assert untested.page.is_file()


@pytest.mark.slow
def test_promotion_without_a_test_set(
    untested: SweepResult, root: Path, store: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promotion requires real test images or the flag, and then compares on the same validation
    images."""
    monkeypatch.setattr("vqlab.promote.promotion.reproduce", skip_reproduction)
    with pytest.raises(UserError, match="real test images.*--without-test"):
        promote(store, "flat")
    with pytest.raises(UserError, match="must be one of validation/image_auroc.*got 'test/image"):
        promote(store, "flat", without_test=True, gates=GateSettings(metric="test/image_auroc"))
    first = promote(store, "flat", without_test=True)
    assert first.promoted and first.value == untested.best.value
    assert "no real test image was used" in first.reason
    folder = root / "part/train/good"
    data = {"good": str(folder), "categories": ["flat"], "image_size": 32}
    tree = {**baseline_recipe(root), "data": data}
    other = run(resolve(tree), store, test=False)
    second = promote(store, "flat", ref=other.run_id, without_test=True)
    assert second.champion_value == first.value
    model = load_model("champion", "flat", store.root)
    assert model.score(folder / "000.png").score >= 0
    with pytest.raises(UserError, match="must have test images to evaluate a model on"):
        evaluate_model(model, None, store, Path("results"))


def test_run_with_test_images_is_not_promoted_without_a_test(root: Path, store: Tracker) -> None:
    outcome = run(resolve(baseline(root / "other")), store, test=False)
    with pytest.raises(UserError, match="requires data without test images"):
        promote(store, "other", ref=outcome.run_id, without_test=True)


def test_trials_are_not_scored_on_a_missing_test_set(part: Path, store: Tracker) -> None:
    shutil.rmtree(part / "test")
    space = make_space(
        {"objective": "validation/pixel_auroc", "space": {"training.seed": {"choices": [0, 1]}}}
    )
    with pytest.raises(UserError, match="test images to score trials on"):
        sweep(make_comparison(space, baseline(part)), store, trials=1, test=[0])
    best_on_test = merge(tiny_recipe(part.parent), {"training": {"select": "best_on_test"}})
    with pytest.raises(UserError, match="test images for training.select=best_on_test"):
        run(resolve(best_on_test), store)


@pytest.mark.slow
def test_promotion_compares_metrics_that_both_runs_have(
    part: Path, store: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vqlab.promote.promotion.reproduce", lambda record, data: Reproduction(0, True)
    )
    no_normals(part)
    results = tmp_path / "results"
    baseline_run = run(resolve(baseline(part)), store, Recording(results=results))
    champion = promote(store, "part", ref=baseline_run.run_id)
    assert champion.promoted and "test/pixel_auroc" in champion.reason
    trained = resolve(tiny_recipe(part.parent))
    vqvae_run = run(trained, store, Recording(results=results))
    challenger = promote(store, "part", ref=vqvae_run.run_id)
    assert challenger.champion_value == champion.value
    with pytest.raises(
        UserError, match="has no test/image_auroc: it is undefined.*test/escape_rate"
    ):
        promote(store, "part", ref=vqvae_run.run_id, gates=GateSettings(metric="test/image_auroc"))
    no_masks(part)
    unmasked_run = run(resolve(baseline(part)), store, Recording(results=results))
    with pytest.raises(UserError, match=r"lacks normal or anomalous.*--metric \(test/escape"):
        promote(store, "part", ref=unmasked_run.run_id)


@pytest.fixture
def folders(part: Path) -> Folders:
    """A flat folder of good images and one of bad images."""
    return Folders(None, part / "train/good", part / "test/hole")


@pytest.mark.slow
def test_good_and_bad_folders(folders: Folders, store: Tracker, tmp_path: Path) -> None:
    """From training to promotion, and to evaluation after the folders were moved."""
    tree = folders.over(baseline(Path(folders.good or ""), categories=["widget"]))
    outcome: Outcome = run(resolve(tree), store, Recording(results=tmp_path / "results"))
    metrics = store.find(outcome.run_id).metrics
    assert {f"test/{name}" for name in IMAGE} <= metrics.keys()
    assert outcome.test is not None and "2 of 14 normal images" in " ".join(outcome.test.notes)
    assert promote(store, "widget", ref=outcome.run_id).promoted
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "data", moved)
    here = Folders(None, moved / "part/train/good", moved / "part/test/hole")
    report, _ = evaluate_model(outcome.model, here, store, tmp_path / "results")
    assert report.mean == pytest.approx(outcome.test.mean)
    assert not any("are too optimistic" in note for note in report.notes)
    (moved / "part/train/good/000.png").unlink()
    report, _ = evaluate_model(outcome.model, here, store, tmp_path / "results")
    assert any("are too optimistic" in note for note in report.notes)


def test_training_images_are_not_used_as_test_normals(
    folders: Folders, store: Tracker, tmp_path: Path
) -> None:
    """A model trained with `--good` only has seen the images that `--bad` would use as test
    normals."""
    good = Folders(None, folders.good)
    tree = good.over(baseline(Path(folders.good or ""), categories=["widget"]))
    outcome = run(resolve(tree), store, Recording(results=tmp_path / "results"))
    report, _ = evaluate_model(outcome.model, folders, store, tmp_path / "results")
    assert "escape_rate" in report.mean
    assert not {"image_auroc", "false_reject_rate"} & report.mean.keys()
    assert sum("so they cannot be used for testing" in note for note in report.notes) == 1


def vqlab(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["vqlab", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_command_line(
    folders: Folders,
    tmp_path: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`vqlab train --good FOLDER` names the category after the folder; errors are one sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    shutil.copytree(empty_store, "mlruns")
    settings = ("vqvae", "detector=mean_image", "data.image_size=32", "training.epochs=0")
    assert vqlab(monkeypatch, "train", *settings, "--good", folders.good) == 0
    output = capsys.readouterr().out
    assert (
        "good has no test images" in output
        and "validation" in output
        and "test, mean_image" not in output
    )
    run_id = Tracker.open(Path("mlruns")).runs(kinds=["train"])[0].run_id
    assert vqlab(monkeypatch, "promote", "--category", "good", "--run", run_id) == 2
    assert "--without-test" in capsys.readouterr().err
    assert vqlab(monkeypatch, "data", "check", "--good", folders.good, "--bad", folders.bad) == 0
    assert "2 of 14 normal images" in capsys.readouterr().out
    assert vqlab(monkeypatch, "train", *settings, "--data", tmp_path, "--good", folders.good) == 2
    assert "--good, --bad (folders of images) are mutually exclusive" in capsys.readouterr().err
    assert vqlab(monkeypatch, "train", *settings, "--bad", folders.bad) == 2
    assert "add --good FOLDER" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_of_a_sweep_read_the_same_folders(folders: Folders, tmp_path: Path) -> None:
    """The paths are relative, and other processes read them."""
    command = [
        sys.executable, "-m", "vqlab", "sweep", "memory_bank", "--preset", "tiny",
        "--n-trials", "2",
        "--good", "data/part/train/good", "--bad", "data/part/test/hole", "--category", "widget",
        "--workers", "2",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 14 normal images" in " ".join(done.stdout.split())
    tested = Tracker.open(tmp_path / "mlruns").runs(kinds=["trial"], tags={"vqlab.tested": "true"})
    assert {"test/image_auroc", "test/escape_rate"} <= tested[0].metrics.keys()
    assert "test/pixel_auroc" not in tested[0].metrics


@pytest.mark.slow
def test_dataset_in_another_layout_is_read_and_written(tmp_path: Path, store: Tracker) -> None:
    """OK and NG folders below each of two categories."""
    source = write_tiny_set(tmp_path / "source", ("pen", "cup"))
    for name in ("pen", "cup"):
        shutil.copytree(source / name / "train/good", tmp_path / "line" / name / "OK")
        shutil.copytree(source / name / "test/hole", tmp_path / "line" / name / "NG")
    tree = merge(baseline(tmp_path / "line/pen"), {"data": {"categories": "all", "joint": True}})
    outcome = run(resolve(tree), store, Recording(results=tmp_path / "results"))
    assert outcome.test is not None and set(outcome.test.per_category) == {"cup", "pen"}
    assert all("image_auroc" in metrics for metrics in outcome.test.per_category.values())
