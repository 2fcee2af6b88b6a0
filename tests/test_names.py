"""Unusual names in datasets, from training to prediction and promotion."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_set import baseline_recipe, write_tiny_set

from vqlab.data.datasets import Layout
from vqlab.data.splits import fingerprint
from vqlab.errors import UserError
from vqlab.evaluation import Report
from vqlab.plots import PictureWarning, results
from vqlab.predict import load_model
from vqlab.promote import promote
from vqlab.run import Outcome, Recording, model_configs, resolve, run
from vqlab.tracking import Tracker
from vqlab.types import ImageRecord

BYTES = os.fsdecode(b"n\xfct")
pytestmark = pytest.mark.usefixtures("empty_mlruns")


def trained(root: Path, category: str, tmp_path: Path) -> tuple[Tracker, Outcome]:
    tree = baseline_recipe(root, category)
    tracker = Tracker.open(tmp_path / "mlruns")
    return tracker, run(resolve(tree), tracker, Recording(results=tmp_path / "results"))


@pytest.mark.slow
def test_undecodable_names_from_training_to_promotion(tmp_path: Path) -> None:
    root = write_tiny_set(tmp_path / BYTES, (BYTES,))
    for part in ("test", "ground_truth"):
        (root / BYTES / part / "hole").rename(root / BYTES / part / f"h{BYTES}")
    good = root / BYTES / "test" / "good"
    (good / "000.png").rename(good / f"{BYTES}.png")
    tracker, outcome = trained(root, BYTES, tmp_path)
    assert outcome.pictures is not None
    with (outcome.pictures / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["defect"] for row in rows} == {"good", r"hn\xfct"}
    assert len(list(outcome.pictures.glob("*_viz.png"))) == len(rows)
    assert promote(tracker, BYTES, ref=f"mean_image-{BYTES}").promoted
    model = load_model("champion", BYTES, tmp_path / "mlruns")
    assert model.categories == (BYTES,) and model.category == r"n\xfct"
    with pytest.raises(UserError, match="no champion"):
        load_model("champion", r"n\xfct", tmp_path / "mlruns")


@pytest.mark.slow
@pytest.mark.parametrize(
    "category", ["a+b", "007", 'Gehäuse 外壳 $x$ [1] it\'s "q"', "-x", "y" * 240]
)
def test_category_may_have_any_name(category: str, tmp_path: Path) -> None:
    root = write_tiny_set(tmp_path / "data", (category,))
    tracker, outcome = trained(root, category, tmp_path)
    assert promote(tracker, category, ref=outcome.run_id).promoted
    assert load_model("champion", category, tmp_path / "mlruns").categories == (category,)
    assert tracker.find(f"mean_image-{category}").categories == (category,)


@pytest.mark.slow
def test_metric_keys_of_a_joint_model_are_distinct(tmp_path: Path) -> None:
    root = write_tiny_set(tmp_path / "data", ("nut#1", "nut_1", "pooled"))
    tree = baseline_recipe(root)
    tree["data"] |= {"categories": "all", "joint": True}
    (config,) = model_configs(resolve(tree))
    tracker = Tracker.open(tmp_path / "mlruns")
    outcome = run(config, tracker, Recording(results=tmp_path / "results"))
    metrics = tracker.find(outcome.run_id).metrics
    keys = [key for key in metrics if key.startswith("test/") and key.endswith("/image_auroc")]
    assert len(keys) == 5  # the mean, three categories, and all images pooled
    with pytest.raises(UserError, match="no champion"):
        load_model("champion", "nut_1", tmp_path / "mlruns")
    assert promote(tracker, "nut#1+nut_1+pooled", ref=outcome.run_id).promoted
    assert (
        load_model(outcome.run_id, "nut#1", tmp_path / "mlruns").categories
        == config.data.categories
    )


def test_fingerprint_uses_the_bytes_of_names(tmp_path: Path) -> None:
    """For decodable names, these are their UTF-8 bytes, as in earlier versions."""
    for name in ("part ü 划", BYTES):
        path = tmp_path / f"{name}.png"
        path.write_bytes(b"pixels")
        content = hashlib.sha256(b"pixels").hexdigest()
        line = os.fsencode(f"{name}.png") + f"\t{content}\t0\t".encode()
        record = ImageRecord(path, "part", "good")
        layout = Layout(tmp_path, "MVTec AD layout", {})
        assert fingerprint([record], layout) == hashlib.sha256(line).hexdigest()
        assert name == BYTES or line.decode() == f"{name}.png\t{content}\t0\t"


def test_keys_of_a_report_are_distinct() -> None:
    groups = {name: {"image_auroc": 0.5} for name in ("nut#1", "nut_1", "nut?1", "pooled")}
    report = Report(per_category=groups, mean={}, pooled={"image_auroc": 1.0})
    keyed = report.keyed("test")
    assert len([key for key in keyed if key.endswith("/image_auroc")]) == 5
    assert keyed["test/pooled/image_auroc"] == 1.0 and keyed["test/nut_1/image_auroc"] == 0.5


def test_failed_picture_does_not_fail_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise ValueError("no such letter")

    for name in ("draw_row", "draw_worst", "score_by_defect", "roc_figure"):
        monkeypatch.setattr(results, name, broken)
    root = write_tiny_set(tmp_path / "data")
    with pytest.warns(PictureWarning, match=r"could not be drawn \(ValueError: no such letter\)"):
        tracker, outcome = trained(root, "part", tmp_path)
    assert tracker.find(outcome.run_id).status == "FINISHED"
    assert outcome.pictures is not None and (outcome.pictures / "scores.csv").exists()
    assert outcome.test is not None and outcome.test.mean["image_auroc"] > 0


@pytest.mark.slow
def test_training_succeeds_on_a_terminal_with_a_limited_encoding(tmp_path: Path) -> None:
    root = write_tiny_set(tmp_path / "data", ("外壳[b]",))
    done = subprocess.run(
        [sys.executable, "-m", "vqlab", "train", "mean_image", "--preset", "tiny", "-c", "外壳[b]"]
        + ["-d", str(root)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "VQLAB_CACHE": str(tmp_path / "cache")},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert rb"\u5916\u58f3[b]" in done.stdout
    assert rb"pictures: results" in done.stdout
