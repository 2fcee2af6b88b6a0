"""Evaluate a model on the test set, once."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from vqlab.data import (
    GOOD_AND_BAD,
    Splits,
    find_layout,
    fingerprint,
    read_image,
)
from vqlab.evaluation import (
    EVIDENCE,
    FoundConcepts,
    Predictions,
    Report,
    evaluate,
    save_evidence,
)
from vqlab.model import Model
from vqlab.plots import attempt, in_two_rows, write_results
from vqlab.run.concepts import show_concepts, training_concepts
from vqlab.run.evaluators import (
    AUDIT,
    EVALUATORS,
    WARNED,
    EvaluatorInput,
    images_for_thresholds,
)
from vqlab.run.settings import BEST_ON_TEST, RunConfig
from vqlab.text import category_text, folder_name
from vqlab.tracking import Run
from vqlab.types import UserError

OnProgress = Callable[[str, int, int], None]
"""Called while images are scored and drawn, with (what, images done, images in all)."""


def has_test(splits: Splits, config: RunConfig) -> bool:
    """Whether there are test images. Raises UserError where `training.select` needs them."""
    if config.training.select == BEST_ON_TEST:
        require_test(splits, "for training.select=best_on_test")
    return len(splits.test) > 0


def require_test(splits: Splits, purpose: str) -> None:
    """Raise UserError where there are no test images."""
    if not len(splits.test):
        names = ", ".join(splits.categories)
        raise UserError(
            f"data must have test images {purpose}; {splits.root} has none of {names}; add "
            "test/good and test/<defect>, or a folder of defective images (--bad beside --good)."
        )


def without_trained_on(model: Model, config: RunConfig, splits: Splits) -> Splits:
    """Leave out the test normals where the model was trained on them, which a folder of good images
    that became its test normals later allows; say so where it may be."""
    same = splits.fingerprint == model.meta["data"]["fingerprint"]
    if same or splits.source != GOOD_AND_BAD or all(s.label for s in splits.test.records):
        return splits
    trained_on = model.meta["config"]["data"].get("good")
    good = config.data.good
    if trained_on is None or good is None or Path(trained_on).absolute() != good.absolute():
        note = (
            "The test normals are a fifth of a folder of good images; if the model was trained on "
            "images of this folder, false rejects and image AUROC look better than they are."
        )
        return replace(splits, notes=(*splits.notes, note))
    defects = [i for i, record in enumerate(splits.test.records) if record.label]
    test = splits.test.subset(defects)
    note = (
        f"The model was trained on images of {good}, so none of them is a test normal: false "
        "rejects and image AUROC cannot be measured; train again with --good and --bad."
    )
    own = fingerprint(test.records, find_layout(config.data))
    return replace(splits, test=test, test_fingerprint=own, notes=(note,))


def test_model(
    model: Model,
    config: RunConfig,
    splits: Splits,
    tracked: Run,
    results: Path,
    on_progress: OnProgress = lambda what, done, total: None,
    *,
    validation: Predictions | None = None,
    concepts: FoundConcepts | None = None,
) -> tuple[Report, dict[str, Report], Path]:
    """Predict the test set in one pass, run the evaluators, write the pictures, record all of it.

    validation: predictions of the validation images, with alternatives; concepts: of the training
    images; both are computed where they are not given. Returns the report, the reports of other
    scores and of the baseline by name, all with the same `config.evaluation`, and the folder of
    the pictures.
    """
    batch_size = config.evaluation.batch_size
    say = partial(on_progress, "scoring the test set")
    predictions = model.predict_set(splits.test, say, batch_size, alternatives=True, panels=True)
    scored = predictions.scored
    concepts = concepts or training_concepts(model, splits)
    if validation is None and (predictions.alternatives or concepts is not None):
        images = images_for_thresholds(config, splits)
        validation = model.predict_set(images, batch_size=batch_size, alternatives=True)
    report = evaluate(scored, model.thresholds, config.evaluation, splits.test)
    test = EvaluatorInput(model, config, splits, predictions, validation, tracked)
    findings = [evaluator(test) for evaluator in EVALUATORS]
    notes = [note for each in findings for note in each.notes]
    warned = tuple(category for each in findings for category in each.warned)
    report = replace(report, notes=(*report.notes, *splits.notes, *notes), warned=warned)
    beside = {
        name: replace(other, warned=warned)
        for each in findings
        for name, other in each.reports.items()
    }
    split = config.test_split
    for key, other in {split: report, **{f"{split}_{k}": v for k, v in beside.items()}}.items():
        tracked.log_metrics(other.keyed(key))
    for each in findings:
        tracked.log_metrics(each.metrics)
    log_evidence(report, tracked, EVIDENCE)
    tracked.log_dataset(
        f"{splits.source}/{category_text(splits.categories)}", splits.fingerprint, str(splits.root),
        context="test",
    )  # fmt: skip
    draw = partial(on_progress, "drawing pictures")
    folders = write_results(results, model, splits.test, predictions, report, draw)
    by_name = dict(zip(map(folder_name, scored.by_category()), folders, strict=True))
    for name, folder in by_name.items():
        tracked.log_artifacts(folder, f"results/{name}")
    for key, file in chosen_pictures(splits).items():
        picture = by_name[Path(file).parent.name] / Path(file).name
        if picture.exists():
            with attempt(f"the picture {key}"):
                tracked.log_pictures({key: in_two_rows(read_image(picture))})
    whole = results if len(folders) > 1 else folders[0]
    with attempt("the pictures of concepts"):
        sets = {"test": scored}
        if validation is not None:
            sets["held-out"] = validation.scored.take(range(len(splits.held_out)))
        show_concepts(concepts, model, splits, sets, tracked, whole)
    return report, beside, whole


def log_evidence(report: Report, tracked: Run, path: str) -> None:
    """Log what resampling the images of a report needs as the artifact `path`."""
    if report.evidence:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            save_evidence(report, file)
            tracked.log_artifact(file, Path(path).parent.name)


def warned_of(tags: Mapping[str, str], categories: Iterable[str]) -> list[str]:
    """Return the categories with a data-audit warning in the tags of a tested run."""
    with suppress(KeyError, ValueError):
        return [name for name in categories if name in json.loads(tags[WARNED])]
    text = tags.get(AUDIT, "")
    return [name for name in categories if re.search(rf"(^| ){re.escape(name)}: ", text)]


def chosen_pictures(splits: Splits) -> dict[str, str]:
    """Of every defect type its first test image, so that runs on the same data show the same ones:
    the key of the picture, `<category>/<defect>`, and its file in the folder of results. Defects
    come before `good`."""
    pictures: dict[str, str] = {}
    places: Counter[str] = Counter()
    for record in splits.test.records:
        folder = folder_name(record.category)
        file = f"{folder}/{folder}_{places[record.category]:03d}_viz.png"
        places[record.category] += 1
        pictures.setdefault(f"{record.category}/{record.defect}", file)
    return dict(sorted(pictures.items(), key=lambda pair: pair[0].endswith("/good")))
