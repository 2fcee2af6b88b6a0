"""Paired comparison of two runs on the same test images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import call

from vqlab.compare import MEAN, compare, compare_runs
from vqlab.compare.page import comparison_page
from vqlab.config import merge
from vqlab.evaluation import EVIDENCE, CategoryEvidence, load_evidence, paired_differences
from vqlab.metrics import Evidence, image_metrics
from vqlab.run import Outcome, Recording, resolve, run
from vqlab.tracking import NOTE, Tracker
from vqlab.types import UserError

Tree = dict[str, Any]
pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def runs(
    small: Tree, store: Tracker, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Outcome]:
    results = tmp_path_factory.mktemp("results")
    base = {**small, "detector": "mean_image", "training": {"epochs": 0}}
    other = merge(base, {"detector": {"name": "mean_image", "scoring": {"smoothing": 0.2}}})
    first = run(resolve(base), store, Recording(name="sharp", results=results))
    return first, run(resolve(other), store, Recording(name="blurred", results=results))


def test_two_runs_on_the_same_images(store: Tracker, runs: tuple[Outcome, Outcome]) -> None:
    comparison = compare(store, "sharp", runs[1].run_id[:10])
    reports = [outcome.test for outcome in runs]
    assert reports[0] is not None and reports[1] is not None
    for name, difference in comparison.differences["cable"].items():
        first, second = (report.per_category["cable"][name] for report in reports if report)
        assert difference.value == pytest.approx(second - first)
        if difference.interval is not None:
            assert difference.interval.low <= difference.value <= difference.interval.high
            assert difference.p is not None and 0 < difference.p <= 1
        assert (difference.interval is None) == bool(difference.reason)
    assert comparison.differences["cable"]["pixel_auroc"].interval is not None
    assert comparison.differences["cable"]["image_auroc"].interval is None  # of four normal images
    assert comparison.images == {"cable": {"normal_images": 4, "anomalous_images": 6}}
    assert {"image_auroc", "pixel_auroc", "aupro", "escape_rate"} <= set(comparison.values["cable"])
    repeated = compare(store, "sharp", "blurred")
    assert repeated.differences == comparison.differences  # seeded


def test_run_does_not_differ_from_itself(store: Tracker, runs: tuple[Outcome, Outcome]) -> None:
    comparison = compare(store, "sharp", "sharp")
    for difference in comparison.differences["cable"].values():
        assert (difference.value, difference.interval, difference.p) == (0, None, 1)


def test_command_prints_a_table(store: Tracker, runs: tuple[Outcome, Outcome]) -> None:
    printed = call("compare", "sharp", "blurred", "--mlruns", store.root)
    assert "pixel AUROC" in printed and "sharp" in printed
    words = " ".join(printed.split())
    assert "resampling needs at least 5 normal and 5 anomalous images" in words
    assert "[+0.000, +0.000]" not in printed


@pytest.fixture(scope="module")
def third(
    small: Tree, store: Tracker, runs: tuple[Outcome, Outcome], tmp_path_factory: Any
) -> Outcome:
    """A run with the settings of the first, another seed and an untrusted name."""
    training = {"epochs": 0, "seed": 1}
    tree = {**small, "detector": "mean_image", "training": training}
    name = "<script>alert(1)</script>"
    return run(resolve(tree), store, Recording(name=name, results=tmp_path_factory.mktemp("third")))


def test_several_runs_with_settings_seeds_and_images(
    store: Tracker, runs: tuple[Outcome, Outcome], third: Outcome
) -> None:
    several = compare_runs(store, ["sharp", "blurred", third.run_id], images=3)
    assert [run.run_id for run in several.runs] == [runs[0].run_id, runs[1].run_id, third.run_id]
    assert several.settings["training.seed"] == (0, 0, 1)
    smoothing = several.settings["detector.scoring.smoothing"]
    assert smoothing[0] == smoothing[2] != smoothing[1] == 0.2
    assert set(several.settings) == {"training.seed", "detector.scoring.smoothing"}
    assert [set(group) for group in several.groups] == [{"0", "1"}]
    pair = compare(store, "sharp", "blurred")
    assert several.pairs[0].differences == pair.differences
    everything = compare_runs(store, ["sharp", "blurred"], images=100).images
    assert len(everything) == 10
    keys = [(-len(set(image.verdicts)), -image.spread) for image in everything]
    assert keys == sorted(keys) and keys[0][1] < 0
    assert len(several.images) == 3
    assert {len({row["file"] for row in image.rows}) for image in several.images} == {1}


def test_baseline_option(store: Tracker, runs: tuple[Outcome, Outcome]) -> None:
    blurred = runs[1].run_id
    assert compare_runs(store, ["sharp", "blurred"], baseline=blurred).baseline.name == "blurred"
    best = compare_runs(store, ["sharp", "blurred"], baseline="best").baseline
    values = [store.find(each.run_id).metrics["test/image_auroc"] for each in runs]
    assert best.metrics["test/image_auroc"] == max(values)
    with pytest.raises(UserError, match="must be `first`, `best` or one of the compared runs"):
        compare_runs(store, ["sharp", "blurred"], baseline=_other(store))
    with pytest.raises(UserError, match="two or more different runs"):
        compare_runs(store, ["sharp", "sharp"])


def _other(store: Tracker) -> str:
    with store.start(experiment="cable", name="other") as tracked:
        return tracked.id


def test_page_is_self_contained_and_logged(
    store: Tracker, runs: tuple[Outcome, Outcome], third: Outcome, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    arguments = ["compare", "sharp", "blurred", third.run_id, "--mlruns", store.root]
    call(*arguments, "--output", page, "--images", "2")
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert text.count("data:image/jpeg;base64,") == 2 * 3
    assert not re.search(r'(src|href)="(?!data:|http://127.0.0.1)', text)
    assert "Runs that differ only in their seed" in text and "±" in text
    (record,) = store.runs(kinds=["comparison"])
    assert record.artifact("comparison.html").read_text(encoding="utf-8") == text
    assert runs[0].run_id in record.tags[NOTE] and record.experiment == "cable"


@pytest.mark.parametrize("width", [390, 1280])
def test_long_names_do_not_widen_tables(
    width: int, browser: Any, small: Tree, store: Tracker, runs: Any, tmp_path: Path
) -> None:
    names = [f"{width}-" + "-backbone=resnet18" * 7, f"{width}" + "x" * 120]
    for seed, name in enumerate(names, 1):
        tree = {**small, "detector": "mean_image", "training": {"epochs": 0, "seed": seed}}
        run(resolve(tree), store, Recording(name=name, results=tmp_path))
    several = compare_runs(store, ["sharp", *names], images=0)
    file = tmp_path / "page.html"
    file.write_text(comparison_page(several, {runs[0].run_id: "http://127.0.0.1"}))
    context = browser.new_context(viewport={"width": width, "height": 900})
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [cell.bounding_box() for cell in tab.locator("th, td").all()]
    assert max(box["width"] for box in boxes if box) < (240 if width == 390 else 320)
    for name in names:
        assert name in tab.locator("table").first.inner_text()
    context.close()


def test_runs_on_other_test_images_raise(
    small: Tree, store: Tracker, runs: tuple[Outcome, Outcome], tmp_path: Path
) -> None:
    data = {**small["data"], "validation": {"source": "test", "fraction": 0.5}}
    other = resolve({"detector": "mean_image", "data": data, "training": {"epochs": 0}})
    run(other, store, Recording(name="half", results=tmp_path))
    with pytest.raises(UserError, match="the same test images.* evaluate one on the other's data"):
        compare(store, "sharp", "half")
    area = tmp_path / "roi.json"
    polygon = [[0, 0], [24, 0], [24, 32], [0, 32]]
    area.write_text(json.dumps({"size": [32, 32], "polygons": [polygon]}))
    part = {**other.model_dump(), "data": {**small["data"], "roi": str(area)}}
    run(resolve(part), store, Recording(name="inspected", results=tmp_path))
    with pytest.raises(UserError, match="inspect different areas"):
        compare(store, "sharp", "inspected")


def test_run_without_test_metrics_raises(
    small: Tree, store: Tracker, runs: tuple[Outcome, Outcome], tmp_path: Path
) -> None:
    base = {**small, "detector": "mean_image", "training": {"epochs": 0}}
    run(resolve(base), store, Recording(name="untested", results=tmp_path), test=False)
    with pytest.raises(UserError, match="was not measured on test"):
        compare(store, "sharp", "untested")


def test_invalid_evidence_file_raises(tmp_path: Path) -> None:
    (tmp_path / "evidence.npz").write_text("no archive")
    with pytest.raises(UserError, match="must be the evidence"):
        load_evidence(tmp_path / "evidence.npz")
    assert EVIDENCE.endswith("evidence.npz")


def test_mean_over_categories_has_a_separate_table() -> None:
    def measured(seed: int, lift: float) -> CategoryEvidence:
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], 30)
        scores = rng.normal(0, 1, 60) + labels * lift
        return CategoryEvidence(
            image_metrics(scores, labels), Evidence.of(scores, labels, scores > 1, [None] * 60)
        )

    before = {name: measured(place, 1.0) for place, name in enumerate(("bottle", "cable"))}
    after = {name: measured(place, 2.5) for place, name in enumerate(("bottle", "cable"))}
    differences = paired_differences(before, after, 400)
    mean = differences.differences[MEAN]["image_auroc"]
    single = [differences.differences[name]["image_auroc"].value for name in before]
    assert mean.value == pytest.approx(np.mean(single))
    assert mean.interval.low > 0
    assert mean.p < 0.01
    only = paired_differences(before, after, 400, names=["image_auroc"])
    assert only.differences[MEAN] == {"image_auroc": mean}
