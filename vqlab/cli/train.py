"""Commands `train` and `config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import (
    RUN,
    Bad,
    Category,
    Data,
    Good,
    Overrides,
    Preset,
    Recipe,
    Results,
    Tracking,
)
from vqlab.cli.processes import process_group

if TYPE_CHECKING:
    from vqlab.config import Tree
    from vqlab.run import Outcome, RunConfig
    from vqlab.tracking import Run, Tracker


@app.command(short_help="Train a detector and evaluate it on the test set.")
def train(
    context: typer.Context,
    recipe: Recipe = "vqvae",
    overrides: Overrides = None,
    category: Category = None,
    data: Data = None,
    good: Good = None,
    bad: Bad = None,
    preset: Preset = "full",
    resume: Annotated[
        str | None,
        typer.Option(help=f"Resume an interrupted run ({RUN})."),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="With --resume: resume even if it is unknown whether the run's process is alive "
            "(its machine or container is gone).",
        ),
    ] = False,
    results: Results = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Train a detector on normal images, set its thresholds, evaluate it on the test set, and log
    the run to MLflow.

    A dataset without test images is evaluated on validation only: held-out normal images and
    synthetic anomalies. `--good FOLDER` takes a folder of images without any layout; `--bad FOLDER`
    adds a test set.

    Trains one model per category, or one for all categories with `data.joint=true`.

    `--resume RUN` continues an interrupted run with the same settings; on a CPU the result is
    identical to that of an uninterrupted run. Use `--data` if the images were moved.

    To train with several processes: `torchrun --nproc-per-node=2 -m vqlab train …`
    (docs/several_gpus.md).
    """
    from vqlab.config import dump
    from vqlab.nn.distributed import from_rank_zero
    from vqlab.recipes import Folders, recipe_tree
    from vqlab.run import model_configs, resolve, train_on_rank
    from vqlab.tracking import Tracker

    jobs: list[tuple[RunConfig, Tracker, Run | None]] = []
    name = _name(recipe, preset, overrides or ())

    def prepare_jobs() -> list[Tree]:
        if resume is not None:
            _refuse_settings_with_resume(context)
            tracker = Tracker.open(mlruns)
            jobs.append(_resumed(tracker, resume, data, take_over))
        else:
            folders = Folders(data, good, bad)
            config = resolve(recipe_tree(recipe, overrides or (), category, folders, preset))
            print_budget(preset, {"": config})
            models = model_configs(config)
            tracker = Tracker.open(mlruns)
            jobs.extend((model, tracker, None) for model in models)
        return [dump(config) for config, _, _ in jobs]

    with process_group():
        trees = from_rank_zero(prepare_jobs)
        for config, tracker, resumed in jobs:
            _train_one(config, tracker, results, resumed, name, preset)
        if not jobs:  # ranks other than 0
            for tree in trees:
                train_on_rank(resolve(tree))


def _resumed(
    tracker: Tracker, reference: str, data: Path | None, take_over: bool
) -> tuple[RunConfig, Tracker, Run]:
    """Reopen an interrupted run. data: the dataset's folder, if it was moved."""
    from vqlab.config import merge, nest
    from vqlab.data import load_dataset
    from vqlab.errors import UserError
    from vqlab.run import resolve

    record = tracker.find(reference)
    config = resolve(
        merge(record.config(), nest("data.root", str(data.absolute())) if data else {})
    )
    if data:
        dataset = load_dataset(config.data)
        fingerprint = record.tags.get("vqlab.data_fingerprint", "")
        if dataset.fingerprint != fingerprint:
            raise UserError(
                f"the images in {dataset.root} must be those of run {record.short} (fingerprint "
                f"{fingerprint[:12]}); got {dataset.fingerprint[:12]}; copy the same images there."
            )
    return config, tracker, tracker.resume(reference, take_over=take_over)


def _name(recipe: str, preset: str, overrides: Sequence[str]) -> str:
    """Return the name of a run: recipe, preset, overridden settings."""
    from vqlab.config import flatten, parse_overrides
    from vqlab.run import run_name

    prefix = Path(recipe).stem + (f" {preset}" if preset != "full" else "")
    settings = flatten(parse_overrides(overrides))
    data_paths = ("data.root", "data.good", "data.bad")
    return run_name(prefix, {k: v for k, v in settings.items() if not k.startswith(data_paths)})


def _refuse_settings_with_resume(context: typer.Context) -> None:
    """Raise UserError for settings on the command line, which a resumed run would ignore.

    Environment variables such as VQLAB_PRESET are not considered.
    """
    from vqlab.errors import UserError

    arguments: list[str] = []
    for name in ("recipe", "overrides", "category", "good", "bad", "preset"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            value = context.params[name]
            option = "" if name in ("recipe", "overrides") else f"--{name} "
            values = value if isinstance(value, list | tuple) else [value]
            arguments += [f"{option}{value}" for value in values]
    if arguments:
        raise UserError(
            "--resume uses the settings of the run and accepts no others; got "
            f"{' '.join(arguments)}; remove them, or start a new run."
        )


def print_budget(preset: str, configs: Mapping[str, RunConfig]) -> None:
    """Print the image size and epochs of a preset other than `full`, for each recipe by name."""
    from vqlab.cli.terminal import marked, out

    if preset != "full":
        image_size = next(iter(configs.values())).data.image_size
        budgets = ", ".join(f"{name} {_budget(each)}".strip() for name, each in configs.items())
        hint = "for the full budget use --preset full (make: PRESET=full)."
        text = f" {image_size} px, {budgets}; {hint}"
        out.print(marked(f"preset {preset}:", "bold yellow", text))


def _budget(config: RunConfig) -> str:
    backbone, epochs = config.features.backbone, config.training.epochs
    if backbone == "pixels":
        return f"{epochs} epochs" if epochs else "no epochs"
    features = f"features of {backbone}"
    if backbone == "filters" and config.features.weights != "hub":
        features += ", which has no weights"
    return f"{epochs} epochs on {features}" if epochs else f"no epochs, {features}"


def print_data(config: RunConfig) -> None:
    """Print the dataset in use."""
    from vqlab.cli.progress import counting
    from vqlab.cli.terminal import marked, out
    from vqlab.data import describe_source, find_root

    with counting() as on_progress:
        root, source = find_root(
            config.data, partial(on_progress, "generating the synthetic dataset")
        )
    style = "bold yellow" if source == "synthetic" else "bold"
    out.print(marked(describe_source(root, source), style))


def _train_one(
    config: RunConfig, tracker: Tracker, results: Path, resumed: Run | None, name: str, preset: str
) -> None:
    from vqlab.cli.progress import interruptible, work
    from vqlab.cli.terminal import out, print_notes
    from vqlab.data import load_dataset
    from vqlab.run import Recording, run

    print_data(config)
    splits = load_dataset(config.data)
    print_notes(splits.notes)
    names = config.data.categories
    title = f"{config.detector['name']} {names if isinstance(names, str) else '+'.join(names)}"
    if not config.training.epochs:
        out.print(f"{title}: fitted without training epochs (training.epochs=0)")
    with interruptible(), work(title) as (on_epoch, on_progress):
        outcome = run(
            config, tracker, Recording(name, {"vqlab.preset": preset}, resumed, results),
            splits=splits, on_epoch=on_epoch, on_progress=on_progress,
        )  # fmt: skip
    print_outcome(outcome, printed=splits.notes)


def print_outcome(outcome: Outcome, printed: Sequence[str] = ()) -> None:
    """Print report, baselines, notes (except those already `printed`) and links of a run."""
    from vqlab.cli.metric_tables import report_table
    from vqlab.cli.terminal import out, print_notes

    rows = [("validation", outcome.validation)]
    if outcome.test is not None:
        rows.append((outcome.test_split, outcome.test))
    baselines = [
        (f"{outcome.test_split}, {name}", each) for name, each in outcome.other_reports.items()
    ]
    title = f"run {outcome.run_id}, {outcome.seconds:.0f} s"
    out.print(report_table(title, rows, outcome.model.thresholds, baselines))
    notes = (outcome.test or outcome.validation).notes
    print_notes([note for note in notes if note not in printed])
    if outcome.pictures:
        out.print(f"pictures: {outcome.pictures}")
    out.print(f"run: {outcome.link} (start it with `vqlab ui`)")


@app.command("settings", hidden=True)
@app.command("config", short_help="Print a recipe with all settings.")
def config(
    recipe: Recipe = "vqvae",
    overrides: Overrides = None,
    category: Category = None,
    data: Data = None,
    good: Good = None,
    bad: Bad = None,
    preset: Preset = "full",
) -> None:
    """Print a recipe with all settings, defaults included."""
    import yaml

    from vqlab.config import dump
    from vqlab.recipes import Folders, recipe_tree
    from vqlab.run import resolve

    folders = Folders(data, good, bad)
    tree = dump(resolve(recipe_tree(recipe, overrides or (), category, folders, preset)))
    typer.echo(yaml.safe_dump(tree, sort_keys=False), nl=False)
