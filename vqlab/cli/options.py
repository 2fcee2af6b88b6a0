"""Options shared by several commands, and old names that still work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqlab.errors import UserError
from vqlab.text import visible


def output_folder(path: Path) -> Path:
    """Return the path of a folder to write. Raises UserError if it, or a parent, is a file."""
    for place in (path, *path.parents):
        if place.is_dir():
            break
        if place.exists():
            raise UserError(f"--output must be a folder; {visible(place)} is a file.")
    return path


def output_file(path: Path | None) -> Path | None:
    """Return the path of a file to write. Raises UserError if it is a folder, or below a file."""
    if path is not None:
        if path.is_dir():
            raise UserError(f"--output must be a file; {visible(path)} is a folder.")
        output_folder(path.parent)
    return path


Recipe = Annotated[
    str,
    typer.Argument(
        help="YAML file, or the name of a recipe in experiments/ (`vqvae`, `smoke`, "
        "`paper/vqvae`).",
        metavar="[RECIPE]",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings, e.g. training.epochs=10 detector.codebook_size=256."),
]
Category = Annotated[
    str | None,
    typer.Option(
        "--category", "-c", help="Product category, e.g. cable; `all` for all categories."
    ),
]
CategoryArgument = Annotated[
    str | None, typer.Argument(help="Product category, e.g. cable.", metavar="CATEGORY")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="Dataset folder (layout of MVTec AD or VisA)."),
]
Good = Annotated[
    Path | None,
    typer.Option(
        help="Folder of normal images of one category, instead of --data. The category is named by "
        "--category, or after the folder."
    ),
]
Bad = Annotated[
    Path | None,
    typer.Option(
        help="Folder of anomalous images for testing, with --good. A fifth of the normal images "
        "is then held out as normal test images."
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="`full`: the unchanged recipe; `quick`: smaller images, fewer epochs; `tiny`: a smoke "
        "test.",
        envvar="VQLAB_PRESET",
    ),
]
Results = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        "--results",
        help="Folder for pictures and scores.csv.",
        callback=output_folder,
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        "-w",
        help="Condition on a metric, e.g. 'test/image_auroc>=0.9'; may be repeated.",
    ),
]
Detector = Annotated[str | None, typer.Option(help="Detector, e.g. vqvae.")]
Status = Annotated[str | None, typer.Option(help="RUNNING, FINISHED, FAILED or KILLED.")]
Kind = Annotated[
    str | None,
    typer.Option(
        help="train, trial, threshold, evaluate, study, benchmark, comparison or correlate."
    ),
]
Study = Annotated[str | None, typer.Option(help="Name of a study, or key of a benchmark.")]
OlderThan = Annotated[str | None, typer.Option(help="Age, e.g. 12h, 7d or 2w.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")]
RUN = "run ID, unique ID prefix or name"
Tracking = Annotated[
    Path, typer.Option("--mlruns", help="Folder of runs and studies.", envvar="VQLAB_MLRUNS")
]

RENAMED = {
    "--results": "--output",
    "--trials": "--n-trials",
    "--settle": "--unchanged-for",
    "data --to": "--output",
    "data make": "data generate",
    "settings": "config",
}
"""Names of options and commands that work until the next release, and their new names."""


def one_category(argument: str | None, option: str | None) -> str:
    """Return the category given as an argument or as `--category`. Raises UserError otherwise."""
    if argument is None and option is None:
        raise UserError("a category is required, e.g. cable.")
    if argument is not None and option is not None and argument != option:
        raise UserError(f"only one category is allowed; got {argument} and --category {option}.")
    return str(argument if argument is not None else option)
