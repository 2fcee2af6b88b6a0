"""Command `threshold`: move the operating point of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.champions import CategoryOption
from vqlab.cli.options import RUN, CategoryArgument, Data, Tracking, one_category, output_folder

if TYPE_CHECKING:
    from vqlab.cli.fit_width import FittedTable
    from vqlab.evaluation import OperatingPoint
    from vqlab.threshold import ThresholdMove
    from vqlab.tracking import RunRecord, Tracker

_RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""False-reject rates whose thresholds the table shows."""


@app.command(short_help="Move the image threshold of a champion without training.")
def threshold(
    category: CategoryArgument = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Gates of --promote, e.g. gates.promise=warn.", metavar="GATES"),
    ] = None,
    option: CategoryOption = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help=f"`champion` or a run ({RUN}).")
    ] = "champion",
    max_rejects: Annotated[
        float | None,
        typer.Option(help="Reject at most this share of the good parts, e.g. 0.01 (conformal)."),
    ] = None,
    max_escapes: Annotated[
        float | None,
        typer.Option(help="Let at most this share of the defects escape, e.g. 0.02."),
    ] = None,
    cost_reject: Annotated[
        float | None, typer.Option(help="Cost of a rejected good part, with --cost-escape.")
    ] = None,
    cost_escape: Annotated[
        float | None,
        typer.Option(help="Cost of a defect that escapes; minimizes the expected cost."),
    ] = None,
    defect_rate: Annotated[
        float | None,
        typer.Option(help="Share of defective parts in the expected cost; default: 0.01."),
    ] = None,
    good: Annotated[
        Path | None,
        typer.Option(
            help="Folder of new good images that set the threshold; default: the held-out normal "
            "images. Test and training images are refused. A joint model that inspects a different "
            "area in each category needs a subfolder for each."
        ),
    ] = None,
    promote: Annotated[
        bool,
        typer.Option(
            "--promote", help="Register the changed model, and promote it if it passes the gates."
        ),
    ] = False,
    data: Data = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the curve and the report.", callback=output_folder
        ),
    ] = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Move the image threshold of a champion, or of another run, without training.

    Prints the false-reject and escape rates of the current threshold, of the new one and of
    others, with exact 95 % intervals, and plots them (results/threshold/CATEGORY.png). Choose one
    target: --max-rejects, --max-escapes, or --cost-reject with --cost-escape; without a target,
    only the rates are shown. Escapes are measured on the validation images (synthetic anomalies),
    never on test images. Nothing is stored without --promote, which saves the model with its new
    threshold as a run, measures it on test, and promotes it if it passes the gates of
    `vqlab promote`. Exit status 1: refused.

    Examples: vqlab threshold cable --max-rejects 0.01 --good photographs/monday;
    vqlab threshold cable --max-escapes 0.02 --promote.
    """
    from vqlab.cli.metric_tables import thresholds_text
    from vqlab.cli.progress import counting, out
    from vqlab.cli.terminal import print_notes
    from vqlab.promote import gate_settings
    from vqlab.threshold import make_target, plan_move
    from vqlab.tracking import Tracker

    if category and option and "=" in category:  # vqlab threshold -c cable gates.promise=warn
        overrides = [category, *(overrides or [])]
        category = None
    name = one_category(category, option)
    target = make_target(max_rejects, max_escapes, cost_reject, cost_escape, defect_rate)
    settings = gate_settings(overrides or ())
    if promote and target is None:
        from vqlab.errors import UserError

        raise UserError("--promote requires a target, e.g. --max-rejects 0.01.")
    tracker = Tracker.open(mlruns, create=False)
    record, checkpoint = _model(tracker, name, model)
    with counting() as on_progress:
        move = plan_move(tracker, record, checkpoint, target, good, data, on_progress)
    out.print(points_table(move))
    out.print(f"curve: {_draw(move, output)}")
    out.print(f"{'chosen' if target else 'current'} {thresholds_text(move.thresholds)}")
    print_notes(move.thresholds.notes if target else ())
    if not promote:
        hint = "add --promote to register and promote it" if target else "choose a target"
        out.print(f"Nothing was changed; {hint}.")
        return
    from vqlab.cli.champions import print_promotion
    from vqlab.promote import promote as promote_run
    from vqlab.serve.feedback import claim_threshold_images
    from vqlab.threshold import save_move

    if move.good is not None:
        claim_threshold_images(record.categories, mlruns, move.good.digests)
    run_id = save_move(tracker, move)
    result = promote_run(
        tracker, name, ref=run_id, gates=settings, without_test=not len(move.splits.test),
        data=data, output=output,
    )  # fmt: skip
    print_promotion(result)


def _model(tracker: Tracker, category: str, model: str) -> tuple[RunRecord, Path]:
    """Return the run and the checkpoint of the champion or a run of the category."""
    if model == "champion":
        champion = tracker.champion(category)
        return tracker.find(champion.run_id), champion.checkpoint
    record = tracker.find(model)
    record.require_categories(category)
    return record, record.checkpoint()


def points_table(move: ThresholdMove) -> FittedTable:
    """Return the error rates of the current, the chosen and some other thresholds."""
    from vqlab.cli.fit_width import Column, FittedTable, Row

    normals, anomalies = move.image_names
    columns = [
        Column("", text=True), Column("threshold"), Column(f"rejected, {normals}"),
        Column(f"escaped, {anomalies}"),
    ]  # fmt: skip
    named = [("current", move.current), ("chosen", move.moved)]
    labels: dict[float, str] = {}
    for name, point in named:
        if point:
            labels[point.threshold] = ", ".join(filter(None, [labels.get(point.threshold), name]))
    points = [move.at(value) for value in labels]
    for rate in _RATES:
        close = [p for p in move.curve if p.rejects and p.rejects.hits <= rate * p.rejects.total]
        if close:
            point = min(close, key=lambda p: p.threshold)
            if all(point.rejects != p.rejects or point.escapes != p.escapes for p in points):
                points.append(point)
    rows = [
        Row(
            [labels.get(point.threshold, ""), f"{point.threshold:.5g}", *_errors(point)],
            "bold" if point.threshold in labels else "",
        )
        for point in sorted(points, key=lambda point: point.threshold)
    ]
    caption = "k of n images: share [95 % interval, Clopper–Pearson]"
    if move.model.thresholds.review is not None:
        caption += "; escaped: not rejected, also if in review"
    return FittedTable(f"image thresholds of {move.category}", columns, rows, caption)


def _errors(point: OperatingPoint) -> list[str]:
    cells = []
    for count, interval in (
        (point.rejects, point.reject_interval), (point.escapes, point.escape_interval),
    ):  # fmt: skip
        text = "–"
        if count is not None and interval is not None:
            text = f"{count}: {count.hits / count.total:.3f} [{interval.text(3)}]"
        cells.append(text)
    return cells


def _draw(move: ThresholdMove, output: Path) -> Path:
    from vqlab.plots import operating_curve, save_figure
    from vqlab.text import folder_name

    file = output / "threshold" / f"{folder_name(move.category)}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    marks = {"current": move.current.threshold}
    marks |= {"chosen": move.moved.threshold} if move.moved else {}
    save_figure(operating_curve(move.category, move.curve, move.image_names, marks), file)
    return file
