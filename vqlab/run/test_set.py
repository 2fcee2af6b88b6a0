"""Evaluate a model on the test set, once."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vqlab.data import GOOD_AND_BAD, ImageSet, Splits, find_layout, fingerprint, read_image
from vqlab.evaluation import (
    BASELINE_EVIDENCE,
    EVIDENCE,
    Budget,
    Concepts,
    Predictions,
    Progress,
    Report,
    Scored,
    evaluate,
    predict_images,
    save_evidence,
)
from vqlab.model import Model
from vqlab.plots import ResultsWriter, attempt, in_two_rows
from vqlab.run.concepts import show_concepts, training_concepts
from vqlab.run.description import describe_run
from vqlab.run.evaluators import (
    AUDIT,
    BASELINE,
    EVALUATORS,
    WARNED,
    EvaluatorInput,
    images_for_thresholds,
)
from vqlab.run.settings import BEST_ON_TEST, RunConfig
from vqlab.text import category_text, folder_name
from vqlab.tracking import NOTE, Run, RunRecord
from vqlab.types import UserError, indices_by_category

OnProgress = Callable[[str, int, int], None]
"""Called while images are scored and drawn, with (what, images done, images in all)."""


def has_test(splits: Splits, config: RunConfig) -> bool:
    """Return whether there are test images. Raises UserError if `training.select` needs them."""
    if config.training.select == BEST_ON_TEST:
        require_test(splits, "for training.select=best_on_test")
    return len(splits.test) > 0


def require_test(splits: Splits, purpose: str) -> None:
    """Raise UserError if there are no test images."""
    if not len(splits.test):
        names = ", ".join(splits.categories)
        raise UserError(
            f"data must have test images {purpose}; {splits.root} has none of {names}; add "
            "test/good and test/<defect>, or a folder of defective images (--bad with --good)."
        )


def without_trained_on(model: Model, config: RunConfig, splits: Splits) -> Splits:
    """Remove normal test images that the model was trained on (from a folder of good images that
    had no test split then); add a note if this cannot be excluded."""
    same = splits.fingerprint == model.meta["data"]["fingerprint"]
    if same or splits.source != GOOD_AND_BAD or all(s.label for s in splits.test.records):
        return splits
    trained_on = model.meta["config"]["data"].get("good")
    good = config.data.good
    if trained_on is None or good is None or Path(trained_on).absolute() != good.absolute():
        note = (
            "The normal test images are a fifth of a folder of good images; if the model was "
            "trained on images of this folder, false rejects and image AUROC are too optimistic."
        )
        return replace(splits, notes=(*splits.notes, note))
    defects = [i for i, record in enumerate(splits.test.records) if record.label]
    test = splits.test.subset(defects)
    note = (
        f"The model was trained on images of {good}, so they cannot be used for testing: false "
        "rejects and image AUROC cannot be measured; train again with --good and --bad."
    )
    test_fingerprint = fingerprint(test.records, find_layout(config.data), splits.areas)
    return replace(splits, test=test, test_fingerprint=test_fingerprint, notes=(note,))


class TestResult(NamedTuple):
    """Result of a test evaluation; all reports have the same settings."""

    report: Report
    other_reports: dict[str, Report]
    """Reports of the detector's alternative scores and of the baseline, by name."""
    pictures: Path
    """Folder of the pictures."""


def test_model(
    model: Model,
    config: RunConfig,
    splits: Splits,
    tracked: Run,
    results: Path,
    on_progress: OnProgress = lambda task, done, total: None,
    validation: Predictions | None = None,
    concepts: Concepts | None = None,
) -> TestResult:
    """Predict the test set in one pass, run the evaluators, draw the pictures, log the results.

    validation: predictions of the validation images, with alternatives; concepts: of the training
    images; computed if not given.
    """
    batch_size = config.evaluation.batch_size
    with ResultsWriter(results, model) as writer:
        progress = partial(on_progress, "scoring the test set")
        predictions = _predict(model, splits.test, batch_size, writer, progress)
        concepts = concepts or training_concepts(model, splits)
        if validation is None and (predictions.alternatives or concepts is not None):
            images = images_for_thresholds(config, splits)
            validation = model.predict_set(images, batch_size=batch_size, alternatives=True)
        test = EvaluatorInput(model, config, splits, predictions, validation, tracked)
        report, others = _evaluate(test)
        folders = writer.finish(report, partial(on_progress, "drawing pictures"))
    picture = next((f"results/{file}" for file in example_pictures(splits).values()), "")
    reports = {config.test_split: report, **others}
    note = describe_run(config, splits, model.thresholds, reports, tracked.id, picture)
    tracked.set_tags({NOTE: note})
    _log_pictures(folders, predictions.scored, splits, tracked)
    pictures = results if len(folders) > 1 else folders[0]
    with attempt("the pictures of concepts"):
        sets = {"test": predictions.scored}
        if validation is not None:
            sets["held-out"] = validation.scored.take(range(len(splits.held_out)))
        show_concepts(concepts, model, splits, sets, tracked, pictures)
    return TestResult(report, others, pictures)


def _predict(
    model: Model, images: ImageSet, batch_size: int, writer: ResultsWriter, progress: Progress
) -> Predictions:
    """Predict a set by category; the pictures of a category are drawn while the next is scored."""
    parts: list[Predictions] = []
    order: list[int] = []
    budget = Budget()
    for indices in indices_by_category(images.records).values():
        subset, done = images.subset(indices), len(order)

        def on_images(count: int, _: int, done: int = done) -> None:
            progress(done + count, len(images))

        part = predict_images(
            model.detector, model.features(subset, batch_size), on_images,
            alternatives=True, panels=True, budget=budget,
        )  # fmt: skip
        writer.draw(subset, part)
        parts.append(part)
        order += indices
    return Predictions.concatenate(parts).take(np.argsort(order).tolist())


def _evaluate(test: EvaluatorInput) -> tuple[Report, dict[str, Report]]:
    """Log and return the report of the test set, and those of other scores by name."""
    config, splits, tracked = test.config, test.splits, test.tracked
    report = evaluate(test.scored, test.model.thresholds, config.evaluation, splits.test)
    findings = [evaluator(test) for evaluator in EVALUATORS]
    notes = [note for finding in findings for note in finding.notes]
    warned = tuple(category for finding in findings for category in finding.warned)
    report = replace(report, notes=(*report.notes, *splits.notes, *notes), warned=warned)
    other_reports = {
        name: replace(other, warned=warned)
        for finding in findings
        for name, other in finding.reports.items()
    }
    split = config.test_split
    tracked.log_metrics(report.keyed(split))
    for name, other in other_reports.items():
        tracked.log_metrics(other.keyed(f"{split}_{name}"))
    for finding in findings:
        tracked.log_metrics(finding.metrics)
    log_evidence(report, tracked, EVIDENCE)
    if str(BASELINE["name"]) in other_reports:
        log_evidence(other_reports[str(BASELINE["name"])], tracked, BASELINE_EVIDENCE)
    tracked.log_dataset(
        f"{splits.source}/{category_text(splits.categories)}", splits.fingerprint, str(splits.root),
        context="test",
    )  # fmt: skip
    return report, other_reports


def _log_pictures(folders: list[Path], scored: Scored, splits: Splits, tracked: Run) -> None:
    by_name = dict(zip(map(folder_name, scored.by_category()), folders, strict=True))
    for name, folder in by_name.items():
        tracked.log_artifacts(folder, f"results/{name}")
    for key, file in example_pictures(splits).items():
        picture = by_name[Path(file).parent.name] / Path(file).name
        if picture.exists():
            with attempt(f"the picture {key}"):
                tracked.log_pictures({key: in_two_rows(read_image(picture))})


def log_evidence(report: Report, tracked: Run, path: str) -> None:
    """Log the evidence of a report, which later comparisons resample, as the artifact `path`."""
    if report.evidence:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            save_evidence(report, file)
            tracked.log_artifact(file, Path(path).parent.name)


def audit_warned(tags: Mapping[str, str], categories: Iterable[str]) -> list[str]:
    """Return the categories with a data-audit warning in the tags of a tested run."""
    with suppress(KeyError, ValueError):
        return [name for name in categories if name in json.loads(tags[WARNED])]
    text = tags.get(AUDIT, "")
    return [name for name in categories if re.search(rf"(^| ){re.escape(name)}: ", text)]


def example_pictures(splits: Splits) -> dict[str, str]:
    """Return the picture files of the first test image of each defect type, relative to the folder
    of results, by `<category>/<defect>`; `good` comes last.

    Runs on the same data show the same images.
    """
    pictures: dict[str, str] = {}
    places: Counter[str] = Counter()
    for record in splits.test.records:
        folder = folder_name(record.category)
        file = f"{folder}/{folder}_{places[record.category]:03d}_viz.png"
        places[record.category] += 1
        pictures.setdefault(f"{record.category}/{record.defect}", file)
    return dict(sorted(pictures.items(), key=lambda pair: pair[0].endswith("/good")))


def score_rows(record: RunRecord, category: str) -> list[dict[str, str]]:
    """Return the rows of the scores of a category's test images. Raises UserError if the run has
    none."""
    try:
        path = record.artifact(f"results/{folder_name(category)}/scores.csv")
    except UserError:  # vqlab 0.1 named the folder after the category
        path = record.artifact(f"results/{category}/scores.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_picture(record: RunRecord, category: str, index: int, width: int) -> bytes | None:
    """Return a test image in panels as a JPEG file of at most this width, None if it was not
    logged. index: of the image in its category."""
    folder = folder_name(category)
    try:
        path = record.artifact(f"results/{folder}/{folder}_{index:03d}_viz.png")
        picture = Image.fromarray(in_two_rows(read_image(path)))
    except UserError:
        return None
    picture.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()
