"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[
    str,
    typer.Argument(
        help="A recipe: a YAML file, or the name of one under experiments/, yours or the shipped "
        "ones (`vqvae`, `smoke`, `paper/vqvae`).",
        metavar="[RECIPE]",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings, e.g. training.epochs=10 detector.codebook_size=256."),
]
Category = Annotated[
    str | None,
    typer.Option("--category", "-c", help="Product class, e.g. cable; `all` for every one."),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="Data set folder (MVTec AD, VisA or that layout)."),
]
Good = Annotated[
    Path | None,
    typer.Option(
        help="Instead of --data: a folder of good images of one category, which is named by "
        "--category or like the folder."
    ),
]
Bad = Annotated[
    Path | None,
    typer.Option(
        help="Beside --good: a folder of defective images, used for test only. A fifth of the good "
        "images is then not trained on and becomes the test normals."
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="`full`: the recipe as written; `quick`: smaller images, fewer epochs.",
        envvar="VQLAB_PRESET",
    ),
]
Results = Annotated[Path, typer.Option(help="Where pictures and scores.csv are written.")]
Tracking = Annotated[
    Path, typer.Option("--mlruns", help="Folder of the tracking store.", envvar="VQLAB_MLRUNS")
]
