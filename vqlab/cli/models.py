"""Commands on trained models: `predict`, `evaluate`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import RUN, Bad, Category, Data, Good, Results, Tracking
from vqlab.errors import UserError

ModelRef = Annotated[
    str,
    typer.Option("--model", "-m", help=f"`champion`, a run ({RUN}) or a checkpoint file."),
]


@app.command(short_help="Score images: verdicts, scores and pictures.")
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Image files or folders (searched recursively; links are followed)."),
    ],
    model: ModelRef = "champion",
    category: Category = None,
    results: Annotated[
        Path,
        typer.Option(
            "--output", "-o", "--results", help="Folder for scores.csv, scores.jsonl and pictures."
        ),
    ] = Path("results/predictions"),
    pictures: Annotated[
        str,
        typer.Option(
            help="Which images get a picture: `auto` (200 highest scores), `all` or `none`."
        ),
    ] = "auto",
    min_area: Annotated[
        int, typer.Option(min=1, help="Minimum area of a defect region in pixels.")
    ] = 1,
    mm_per_pixel: Annotated[
        float | None,
        typer.Option(
            help="Pixel size in millimetres, for defect areas in mm²; default: data.mm_per_pixel "
            "of the model.",
        ),
    ] = None,
    coco: Annotated[
        bool,
        typer.Option(
            "--coco", help="Also write the defect regions as predictions.coco.json (COCO format)."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume an interrupted prediction with the same model, --pictures and --output; "
            "new and changed files are scored.",
        ),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Inference engine of the backbone on a CPU: `torch`, `onnx`, `openvino` or "
            "`auto`; default: inference.engine of the model."
        ),
    ] = None,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Score images and write a score, a verdict and a picture for each.

    scores.csv and scores.jsonl have one row per file: file, score, threshold, calibrated, verdict
    (pass, review, reject, unreadable), picture, reason, marked, regions (scores.csv: their number;
    scores.jsonl: box, contour, area and peak of each defect region), p_value, review_threshold,
    width, height, note (if the shape of the image is unlike that of all training images).
    Files that cannot be read, or whose scores are not finite numbers, get the verdict `unreadable`,
    and the exit status is 3; verdicts do not change the exit status. Hidden and system files are
    skipped. An earlier prediction in the folder is replaced when the new one is complete.
    """
    from vqlab.cli.predictions import print_predictions
    from vqlab.cli.progress import interruptible, rating
    from vqlab.predict import load_model, predict_files

    loaded = load_model(model, category, mlruns).use_engine(engine)
    if mm_per_pixel is not None:
        if not 0 < mm_per_pixel < math.inf:
            raise UserError(
                f"--mm-per-pixel must be a finite number above 0; got {mm_per_pixel:g}."
            )
        loaded = replace(loaded, data=loaded.data.model_copy(update={"mm_per_pixel": mm_per_pixel}))
    with interruptible(), rating("scoring images", "images/s") as on_progress:
        summary = predict_files(
            loaded,
            paths,
            results,
            pictures=pictures,
            min_area=min_area,
            coco=coco,
            resume=resume,
            progress=on_progress,
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
    shifts: Annotated[
        int,
        typer.Option(
            "--shifts",
            min=0,
            metavar="N",
            help="Also score N normal and N anomalous images under capture shifts: JPEG "
            "compression, noise, gain, blur and others (docs/shifts.md).",
        ),
    ] = 0,
) -> None:
    """Score the test set with a trained model: metrics, pictures, curves, scores.csv."""
    from vqlab.cli.metric_tables import report_table
    from vqlab.cli.progress import counting, out
    from vqlab.cli.terminal import print_notes
    from vqlab.predict import load_model
    from vqlab.recipes import Folders
    from vqlab.run import evaluate_model
    from vqlab.tracking import Tracker

    loaded = load_model(model, category, mlruns)
    folders, tracker = Folders(data, good, bad), Tracker.open(mlruns)
    with counting() as on_progress:
        report, pictures = evaluate_model(loaded, folders, tracker, results, on_progress, shifts)
    out.print(report_table("test", [("test", report)], loaded.thresholds))
    print_notes(report.notes)
    out.print(f"pictures: {pictures}")
