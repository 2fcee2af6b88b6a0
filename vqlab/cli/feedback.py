"""Command `feedback`: turn human verdicts into training, threshold and test images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import Bad, Data, Good, Tracking

if TYPE_CHECKING:
    from rich.table import Table

    from vqlab.serve.feedback import FeedbackResult

_ADJECTIVES = {"train": "training", "threshold": "threshold", "test": "test"}


@app.command(short_help="Turn human verdicts into training, threshold and test images.")
def feedback(
    category: Annotated[str, typer.Argument(help="Product category, e.g. cable.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the dataset to write.")
    ] = Path("data/feedback"),
    data: Data = None,
    good: Good = None,
    bad: Bad = None,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Turn human verdicts (from the page of `vqlab serve`) into a dataset to train on.

    The dataset contains the images of the champion's dataset in their current roles, and the judged
    images. Of the good ones, 60 % become training images, 20 % threshold images (held out) and 20 %
    test images, chosen by a hash of the pixels; defects become test images; unsure ones are not
    used. An image never changes its role, which is the same in all categories of a joint model. Use
    --data, --good and --bad if the champion's images were moved.
    """
    from vqlab.cli.progress import counting
    from vqlab.cli.terminal import marked, out, print_notes
    from vqlab.recipes import Folders
    from vqlab.serve.feedback import write_feedback
    from vqlab.text import shell_word, visible

    with counting() as on_progress:
        result = write_feedback(category, mlruns, output, Folders(data, good, bad), on_progress)
    out.print(judged_table(category, result))
    out.print(_counts(result))
    print_notes(tuple(result.notes))
    head = "written: " if result.changed else "unchanged: "
    out.print(marked(head, "bold green", visible(result.folder / category)))
    out.print(f"train on it: vqlab train RECIPE --data {shell_word(output)} {_categories(result)}")
    for name in result.categories:
        if not (result.folder / name).is_dir():
            command = f"vqlab feedback {shell_word(name)}"
            out.print(f"first write all categories of the joint model: {command}")


def judged_table(category: str, result: FeedbackResult) -> Table:
    """Return a table of the judged images."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from vqlab.text import visible

    title = f"{visible(category)}: {len(result.judged)} judged images"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for header in ("image", "verdict", "role"):
        table.add_column(header, overflow="fold")
    for image in result.judged:
        table.add_row(*map(Text, (visible(image.name), image.verdict, image.text)))
    return table


def _categories(result: FeedbackResult) -> str:
    """Return the options of `vqlab train` that name the champion's categories."""
    from vqlab.text import shell_word

    if len(result.categories) == 1:
        return f"--category {shell_word(result.categories[0])}"
    names = ", ".join(result.categories)
    return f"{shell_word(f'data.categories=[{names}]')} data.joint=true"


def _counts(result: FeedbackResult) -> str:
    """Return the numbers of images by role."""
    parts = [
        f"{count + result.added[role]} {_ADJECTIVES[role]} images ({result.added[role]} new)"
        for role, count in result.before.items()
    ]
    return ", ".join(parts)
