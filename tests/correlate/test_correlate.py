"""The study of validation against test metrics: ranks, reuse, tracking, invalid arguments."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_set import tiny_recipe
from typer.testing import CliRunner

from vqlab.cli import load_commands
from vqlab.correlate import Correlation, correlate, mean, measure, read_grid
from vqlab.correlate.grid import plan
from vqlab.correlate.rank_correlation import correlations, group_by, spearman
from vqlab.correlate.reliability import (
    DIVISIONS,
    corrected,
    divide,
    measure_halves,
    reliability,
    spread,
)
from vqlab.correlate.table import Row, Table
from vqlab.data import load_dataset
from vqlab.metrics import Evidence
from vqlab.promote import promote
from vqlab.tracking import RunRecord, Tracker
from vqlab.types import UserError

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def mlruns(store: Tracker) -> Path:
    return store.root


def study_file(folder: Path, root: Path, name: str = "little", **changes: Any) -> Path:
    """Write a study of two trainings and two scorings of a tiny VQ-VAE, and four smoothings of the
    baseline."""
    recipes = {"vqvae": tiny_recipe(root), "mean_image": tiny_recipe(root)}
    recipes["mean_image"]["detector"] = {"name": "mean_image"}
    for detector, recipe in recipes.items():
        (folder / f"{detector}.yaml").write_text(yaml.safe_dump(recipe))
    tree: Tree = {
        "vqvae": {
            "recipe": str(folder / "vqvae.yaml"),
            "set": {"training.epochs": 1},
            "train": {"detector.codebook_size": [4, 16]},
            "score": [
                {"detector.scoring.terms": [["error"]], "detector.scoring.error": ["plain"]},
                {"detector.scoring.terms": [["neighbours"]]},
            ],
            "hold": ["detector.scoring.terms"],
        },
        "mean_image": {
            "recipe": str(folder / "mean_image.yaml"),
            "score": [{"detector.scoring.smoothing": [0, 0.02, 0.1, 0.25]}],
        },
    }
    for detector, values in changes.items():
        tree[detector] |= values
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"detectors": tree}, sort_keys=False))
    return path


def counted(monkeypatch: pytest.MonkeyPatch, limit: int = 100) -> list[str]:
    """Count calls of training and evaluation; evaluation is interrupted after `limit` calls."""
    calls: list[str] = []
    train, judge = measure._train, measure.measure

    def trained(*arguments: Any) -> Any:
        calls.append("train")
        return train(*arguments)

    def measured(*arguments: Any) -> Any:
        if calls.count("measure") == limit:
            raise KeyboardInterrupt
        calls.append("measure")
        return judge(*arguments)

    monkeypatch.setattr(measure, "_train", trained)
    monkeypatch.setattr(measure, "measure", measured)
    return calls


# Complete study


def test_study_is_evaluated_once_and_resumes(
    root: Path, tmp_path: Path, mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tracker = study_file(tmp_path, root), Tracker.open(mlruns)

    def run_study() -> list[Correlation]:
        return correlate(str(path), [root], ["part"], tracker, results=tmp_path / "results")

    table = tmp_path / "results/correlate/little/part.csv"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        counted(patched, limit=3)
        run_study()
    before = table.read_text().splitlines()
    assert len(before) == 1 + 3 and runs_of(tracker) == []
    with monkeypatch.context() as patched:
        calls = counted(patched)
        result = run_study()
        # one scoring of the second training was missing; the baseline has one training
        assert (calls.count("train"), calls.count("measure")) == (2, 1 + 4)
    assert table.read_text().splitlines()[1][:40] == before[1][:40]
    with monkeypatch.context() as patched:
        calls = counted(patched)
        assert run_study() == result and calls == []
    assert len(runs_of(tracker)) == 2
    assert [path.name for path in table.parent.iterdir()] == ["part.csv"]

    vqvae, baseline = result
    assert (vqvae.detector, vqvae.settings, baseline.settings) == ("vqvae", 4, 4)
    assert vqvae.fixed == {}, "two settings of a form are too few to rank"
    assert baseline.overall["pixel_auroc", "pixel_auroc"] == pytest.approx(
        correlations(rows_of(table, "mean_image"))["pixel_auroc", "pixel_auroc"]
    )
    assert all(-1 <= rho <= 1 for rho in {**vqvae.overall, **baseline.overall}.values())
    every = rows_of(table, "vqvae") + rows_of(table, "mean_image")
    across = correlations(every)["pixel_auroc", "pixel_auroc"]
    assert vqvae.across == baseline.across == pytest.approx(across)
    for rows in (rows_of(table, "vqvae"), rows_of(table, "mean_image")):
        assert_halves_average_to_the_whole(rows)
    assert baseline.reliability is not None and -1 <= baseline.reliability <= 1
    assert baseline.spread == pytest.approx(spread(rows_of(table, "mean_image")))
    assert_no_test_metrics(tracker)
    other = table.with_name("other.csv")
    correlate(str(path), [root], ["other"], tracker, results=tmp_path / "results")
    assert other.exists() and len(runs_of(tracker)) == 4


def assert_halves_average_to_the_whole(rows: list[Tree]) -> None:
    """Assert that pixel AUROC on the halves is near that on all images."""
    for row in rows:
        for split, values in json.loads(row["halves"]).items():
            assert np.shape(values) == (DIVISIONS, 2)
            assert np.mean(values) == pytest.approx(float(row[f"{split}/pixel_auroc"]), abs=0.05)


def runs_of(tracker: Tracker) -> list[RunRecord]:
    return tracker.runs(tags={"vqlab.correlate": "little"})


def rows_of(table: Path, detector: str) -> list[Tree]:
    with table.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["detector"] == detector]


def assert_no_test_metrics(tracker: Tracker) -> None:
    """Assert that the runs have correlations and the table but no test metric, and cannot be
    promoted."""
    for record in runs_of(tracker):
        assert record.tags["vqlab.kind"] == "correlate" and record.status == "FINISHED"
        assert {key.partition("/")[0] for key in record.metrics} <= {
            "study", "correlation", "correlation_held", "correlation_kind",
        }  # fmt: skip
        with record.artifact("settings.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == record.metrics["study/settings"] == 4
        assert {"test/pixel_auroc", "validation/pixel_auroc", "settings"} <= set(rows[0])
        with pytest.raises(
            UserError, match="must be a finished training run to be promoted; got a"
        ):
            promote(tracker, "part", ref=record.run_id)


def test_changed_synthetic_anomalies_are_evaluated_again(root: Path) -> None:
    config = plan("vqvae", read_grid("validation")[1].detectors["vqvae"], "part", root, "tiny")
    data = config[0].config.data
    first, second = load_dataset(data), load_dataset(data)
    assert measure.validation_digest(first) == measure.validation_digest(second)
    more = load_dataset(data.model_copy(update={"synthetic_defects": 3}))
    marks = [measure.validation_digest(splits) for splits in (first, more)]
    keys = {measure.setting_key(config[0].config, first, mark) for mark in marks}
    assert len(set(marks)) == len(keys) == 2


def test_command_prints_the_result(root: Path, tmp_path: Path, mlruns: Path) -> None:
    small = {"train": {}, "score": [{"detector.scoring.error_smoothing": [0, 0.02, 0.05, 0.1]}]}
    path = study_file(tmp_path, root, "verb", vqvae=small)
    done = CliRunner().invoke(
        load_commands(),
        ["correlate", str(path), "-d", str(root), "-c", "part, other", "--mlruns",
         str(mlruns), "--output", str(tmp_path / "results")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for words in (
        "vqvae: rank correlation of validation",
        "mean_image, mean over categories",
        "reliability: of the ranking on test",
        "all detectors",
        "part",
        "mean",
    ):
        assert words in done.output


# Ranks


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 21, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [1, 2, 3]) is None, "too few"
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None, "constant"


def row(chosen: float, judged: float, settings: str = "{}") -> Row:
    figures = {"validation/pixel_auroc": chosen, "test/pixel_auroc": judged}
    return {"key": "k", "detector": "d", "settings": settings, **figures}


def test_rank_correlation_within_and_across_groups() -> None:
    """Two forms of score: validation ranks correctly within each form but orders the forms
    incorrectly."""
    rows = [row(0.9 + i / 100, 0.5 + i / 100, '{"terms": ["a"]}') for i in range(4)]
    rows += [row(0.5 + i / 100, 0.9 + i / 100, '{"terms": ["b"]}') for i in range(4)]
    objective = ("pixel_auroc", "pixel_auroc")
    assert correlations(rows)[objective] < 0
    groups = group_by(rows, ["terms"])
    assert [len(group) for group in groups] == [4, 4]
    assert mean([correlations(group) for group in groups])[objective] == pytest.approx(1)
    assert group_by(rows, []) == []
    assert set(correlations(rows)) == {objective}, "metrics that were not computed are absent"


# Reliability


def test_division_into_halves() -> None:
    strata = ["good"] * 7 + ["crack"] * 5 + ["hole"]
    halves = divide(strata)
    assert halves.shape == (2 * DIVISIONS, 13)
    assert np.array_equal(halves[::2] + halves[1::2], np.ones((DIVISIONS, 13)))
    for stratum in set(strata):
        members = [i for i, name in enumerate(strata) if name == stratum]
        sizes = halves[:, members].sum(axis=1)
        assert np.all(np.abs(2 * sizes - len(members)) <= 1)
    assert np.array_equal(halves, divide(strata)) and len(np.unique(halves[::2], axis=0)) > 1


def test_halves_are_measured_as_sets_of_their_own() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 6)
    negatives, positives = rng.integers(1, 50, (2, 12, 8)).astype(np.float32)
    positives[labels == 0] = 0
    evidence = Evidence(labels * 1.0, labels, labels > 0, negatives, positives, positives)
    defects = ["good", "crack"] * 6
    measured = np.array(measure_halves(evidence, defects))
    for half, value in zip(divide(defects), measured.ravel(), strict=True):
        chosen = half > 0
        # area under the ROC curve of the histograms, ties within a bin count half
        above = np.cumsum(positives[chosen].sum(0)) - positives[chosen].sum(0) / 2
        total = positives[chosen].sum()
        share = negatives[chosen].sum(0) / negatives[chosen].sum()
        assert value == pytest.approx(float((share * above).sum() / total), abs=1e-5)
    normal = replace(evidence, positives=np.zeros_like(positives))
    assert measure_halves(normal, defects) == []


def noisy(settings: int, noise: float) -> list[Row]:
    """Rows of settings whose true quality is 0 to 1, measured on halves with an error."""
    rng = np.random.default_rng(1)
    quality = np.linspace(0, 1, settings)
    halves = quality[:, None, None] + noise * rng.normal(size=(settings, DIVISIONS, 2))
    return [
        {**row(value, value), "halves": json.dumps({"test": each.tolist()})}
        for value, each in zip(quality, halves, strict=True)
    ]


def test_reliability_falls_with_the_error_of_the_halves() -> None:
    exact, some, pure = (reliability(noisy(200, noise)) for noise in (0, 0.3, 100))
    assert exact == pytest.approx(1) and pure == pytest.approx(0, abs=0.15)
    # the variance of the settings is 1/12, that of the error of the mean of both halves 0.09 / 2
    assert some == pytest.approx(1 / (1 + 12 * 0.09 / 2), abs=0.05)
    assert spread(noisy(5, 0)) == pytest.approx(1)
    assert corrected(0.4, 0.64) == pytest.approx(0.5)
    assert corrected(0.4, -0.1) is None and corrected(None, 1) is None
    assert corrected(0.4, reliability([row(1, 1)] * 5)) is None, "measured without halves"


# Invalid arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"detector.codebok_size": [4, 8]}}, "did you mean detector.codebook_size"),
        ({"score": [{"training.epochs": [1, 2]}]}, "move it to train"),
        ({"train": {}, "score": []}, "must have at least 4 settings; got 1"),
        ({"train": {"detector": [4]}}, "dotted"),
        ({"trian": {}}, "did you mean"),
        ({"recipe": "nothing"}, "does not exist"),
        ({"recipe": "mean_image"}, "must be a recipe of vqvae; got one of mean_image"),
    ],
)
def test_invalid_study_raises(
    changes: Tree, message: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)
    path = study_file(tmp_path, root)
    tree = yaml.safe_load(path.read_text())
    if changes.get("recipe") == "mean_image":
        changes = {**changes, "train": {}, "set": {}, "score": [], "hold": []}
    tree["detectors"]["vqvae"] |= changes
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(UserError, match=message):
        correlate(str(path), [root], ["part"], None)  # type: ignore[arg-type]


def test_invalid_names_raise(root: Path, tmp_path: Path) -> None:
    path = str(study_file(tmp_path, root))
    for roots, categories, words in (
        ([root], ["prat"], "no category 'prat' in the data; it has other, part"),
        ([root / "none"], ["part"], "does not exist"),
        ([root], [], "at least one category"),
    ):
        with pytest.raises(UserError, match=words):
            correlate(path, roots, categories, None)  # type: ignore[arg-type]
    with pytest.raises(
        UserError,
        match="study nothing does not exist; available: choice, validation; or use a YAML file",
    ):
        read_grid("nothing")
    (tmp_path / "part.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="must be a table of measured settings"):
        Table(tmp_path / "part.csv")


# Bundled studies


@pytest.mark.parametrize("path", sorted((EXPERIMENTS / "studies").glob("*.yaml")), ids=str)
def test_bundled_studies_have_at_least_twelve_settings(
    path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)
    assert path.read_text().startswith("# ")
    name, study = read_grid(path.stem)
    assert name == path.stem and {"vqvae", "mean_image"} <= set(study.detectors)
    for detector, part in study.detectors.items():
        trainings = plan(detector, part, "part", root, "quick")
        configs = [config for training in trainings for _, config in training.settings]
        assert len(configs) >= 12 and len({repr(config) for config in configs}) == len(configs)
