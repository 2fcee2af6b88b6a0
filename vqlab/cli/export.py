"""Command `export`: write a model for use without vqlab."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.models import ModelRef
from vqlab.cli.options import Tracking

if TYPE_CHECKING:
    from rich.table import Table

    from vqlab.export import Exported


@app.command(short_help="Export a model to ONNX, TorchScript or OpenVINO.")
def export(
    category: Annotated[str, typer.Argument(help="Product category, e.g. cable.")],
    format: Annotated[
        str, typer.Option("--format", "-f", help="`onnx`, `torchscript` or `openvino`.")
    ] = "onnx",
    model: ModelRef = "champion",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; default: results/export/CATEGORY."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of at least 8 images to compare on; default: test images of the dataset "
            "that the model was trained on."
        ),
    ] = None,
    bundle: Annotated[
        bool,
        typer.Option(
            "--bundle", help="Also write script, requirements, README and checksums (onnx)."
        ),
    ] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Export a model: backbone, detector, normalization and image score as one graph.

    Input: RGB images (batch, 3, H, W) in [0, 1], resized as in training; output: anomaly maps and
    image scores. Thresholds, preprocessing and provenance are in the metadata. The file is
    compared with the model on images, and written only if scores and maps agree within 1e-4
    (relative) and all verdicts are equal. `python -m vqlab.runtime model.onnx IMAGE ...` scores
    images with it.
    """
    from vqlab.cli.progress import out
    from vqlab.export import export_model
    from vqlab.predict import load_model
    from vqlab.text import folder_name, visible
    from vqlab.tracking import Tracker

    loaded, version = load_model(model, category, mlruns), None
    if model == "champion":
        tracker = Tracker.open(mlruns, create=False, write=False)
        version = tracker.champion(tracker.registry.champion_name(category)).version
    folder = output or Path("results/export") / folder_name(loaded.category)
    exported = export_model(loaded, format, folder, images=images, version=version, bundle=bundle)
    detector = loaded.meta["config"]["detector"]["name"]
    out.print(parity_table(f"{loaded.category}: {detector} as {format}", format, exported))
    for path in exported.paths:
        out.print(visible(path))


def parity_table(title: str, format: str, exported: Exported) -> Table:
    """Return a table of differences, verdicts, latency and size."""
    from rich import box
    from rich.table import Table

    parity = exported.parity
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for header in ("", "torch", format, "difference", "relative"):
        table.add_column(header, justify="right" if header else "left")
    sizes = [f"{size / 1e6:.1f} MB" for size in (exported.checkpoint_bytes, exported.bytes)]
    times = [f"{time:.1f} ms" for time in (parity.torch_ms, parity.exported_ms)]
    maps, scores = (
        [f"{difference:.2g}", f"{relative:.2g}"]
        for difference, relative in (
            (parity.map_difference, parity.map_relative),
            (parity.score_difference, parity.score_relative),
        )
    )
    table.add_row("anomaly map", "", "", *maps)
    table.add_row("image score", "", "", *scores)
    if parity.ties:
        ties = "1 image" if parity.ties == 1 else f"{parity.ties} images"
        table.add_row(f"both, without ties ({ties})", "", "", "", f"{parity.error:.2g}")
    equal = parity.images - len(parity.different)
    table.add_row("verdicts equal", "", f"{equal} of {parity.images}")
    table.add_row("latency, one thread", *times)
    table.add_row("size", *sizes)
    if parity.ties:
        table.caption = (
            "ties: rounding decides between two codes; PyTorch itself differs as much if noise of "
            "1e-6 is added to the image"
        )
    return table
