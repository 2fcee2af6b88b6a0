"""Verbs on trained models: `evaluate`, `predict`, `compare`, `promote`, `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import Bad, Category, Data, Good, Results, Tracking

if TYPE_CHECKING:
    from vqlab.model import Model

ModelRef = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="`champion`, a run (id, start of it, name), or a checkpoint file."
    ),
]


def _load(reference: str, category: str | None, mlruns: Path) -> Model:
    from vqlab.predict import load_model

    return load_model(reference, category, mlruns)


@app.command(short_help="Score images: verdicts and pictures.")
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Image files, or folders: images below them, links followed."),
    ],
    model: ModelRef = "champion",
    category: Category = None,
    results: Annotated[
        Path, typer.Option(help="Where scores.csv, scores.jsonl and pictures are written.")
    ] = Path("results/predictions"),
    pictures: Annotated[
        str,
        typer.Option(help="`auto`: of the 200 images with the highest scores; `all`; `none`."),
    ] = "auto",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue an interrupted prediction: same model, --pictures and --results; files "
            "that are new or have changed are scored. Without it the prediction starts over.",
        ),
    ] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Score images: score, verdict and a row of panels for each.

    scores.csv and scores.jsonl have a row per file: file, score, threshold, calibrated, verdict
    (pass, reject, unreadable), picture, reason, marked. A file that cannot be read is
    `unreadable`, the others are scored, and the exit status is 3. Hidden and system files are
    skipped. Earlier predictions in the folder are replaced when the new one is complete.
    """
    from vqlab.cli.predictions import print_predictions
    from vqlab.cli.progress import interruptible, rating
    from vqlab.predict import predict_files

    loaded = _load(model, category, mlruns)
    with interruptible(), rating("scoring images", "images/s") as on_progress:
        summary = predict_files(
            loaded, paths, results, pictures=pictures, resume=resume, progress=on_progress
        )
    print_predictions(summary, loaded)


@app.command(short_help="Score the test set with a trained model.")
def evaluate(
    model: ModelRef = "champion",
    category: Category = None,
    data: Data = None,
    good: Good = None,
    bad: Bad = None,
    results: Results = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Score the test set with a trained model: metrics, pictures, curves, scores.csv."""
    from vqlab.cli.progress import counting, out
    from vqlab.cli.tables import report_table, say_notes
    from vqlab.recipes import Folders
    from vqlab.run import evaluate_model
    from vqlab.tracking import Tracker

    loaded = _load(model, category, mlruns)
    folders, tracker = Folders(data, good, bad), Tracker.open(mlruns)
    with counting() as on_progress:
        report, pictures = evaluate_model(loaded, folders, tracker, results, on_progress)
    out.print(report_table("test", [("test", report)], loaded.thresholds))
    say_notes(report.notes)
    out.print(f"pictures: {pictures}")


@app.command(short_help="By how much do two runs differ, and how surely?")
def compare(
    first: Annotated[str, typer.Argument(help="Run: its id, the start of it, or its name.")],
    second: Annotated[str, typer.Argument(help="The run measured against it.")],
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of the test images.")] = 1000,
    seed: Annotated[int, typer.Option(help="Decides the resamples.")] = 0,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Compare two runs on the same test images: differences with 95 % intervals and p-values.

    A paired bootstrap: both runs are measured on the same resamples of the test images. Rates
    (escapes, false rejects) are compared by McNemar's exact test. There is no interval where there
    are fewer than 5 normal or 5 anomalous images, or where every resample agrees: no proof.
    """
    from vqlab.cli.progress import out
    from vqlab.cli.tables import comparison_tables
    from vqlab.compare import compare as measure
    from vqlab.tracking import Tracker

    found = measure(
        Tracker.open(mlruns, create=False, write=False),
        first,
        second,
        resamples=resamples,
        seed=seed,
    )
    for table in comparison_tables(found):
        out.print(table)
    out.print("bold: 95 % interval excludes 0")


@app.command(short_help="Make a checkpoint the champion, if better.")
def promote(
    category: Annotated[str, typer.Option("--category", "-c", help="Product class, e.g. cable.")],
    run: Annotated[
        str | None, typer.Option(help="Run to promote; default: the best of the latest study.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What decides; default: image AUROC on test, or pixel AUROC or AUPRO where the "
            "test images do not give it.",
        ),
    ] = None,
    min_delta: Annotated[float, typer.Option(help="How much better it must be.")] = 0.0,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it even where it is not better (it is noted).")
    ] = False,
    without_test: Annotated[
        bool,
        typer.Option(
            "--without-test",
            help="Promote without real test images: compare validation/pixel_auroc, measured on "
            "synthetic anomalies (it is noted).",
        ),
    ] = False,
    data: Data = None,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Make a checkpoint the champion of its category, if it is better on the same test data."""
    from vqlab.cli.terminal import marked, out
    from vqlab.promote import promote as gate
    from vqlab.tracking import Tracker

    tracker = Tracker.open(mlruns, create=False)
    result = gate(
        tracker, category, ref=run, metric=metric, min_delta=min_delta, force=force,
        without_test=without_test, data=data,
    )  # fmt: skip
    head = "promoted: " if result.promoted else ""
    out.print(marked(head, "bold green", result.reason))
    if not result.promoted and not result.is_champion:
        raise typer.Exit(1)


@app.command(short_help="Make an earlier champion champion again.")
def rollback(
    category: Annotated[str, typer.Option("--category", "-c", help="Product class, e.g. cable.")],
    to: Annotated[
        int | None, typer.Option(min=1, help="Version to go back to; default: the one before.")
    ] = None,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Make an earlier champion the champion again; repeated, it goes further back in history."""
    from vqlab.cli.progress import out
    from vqlab.promote import rollback as back
    from vqlab.tracking import Tracker

    out.print(back(Tracker.open(mlruns, create=False), category, to).reason)
