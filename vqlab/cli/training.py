"""Verbs that train: `train` and `sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import (
    Category,
    Data,
    Overrides,
    Preset,
    Recipe,
    Results,
    Tracking,
)

if TYPE_CHECKING:
    from vqlab.config import Tree
    from vqlab.run import Outcome, RunConfig
    from vqlab.sweep import Space, Spaces, SweepResult
    from vqlab.tracking import Run, Tracker


@app.command(short_help="Train a detector and score it on test.")
def train(
    recipe: Recipe = "vqvae",
    overrides: Overrides = None,
    category: Category = None,
    data: Data = None,
    preset: Preset = "full",
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with an interrupted run: its id, the start of it, or its name."),
    ] = None,
    results: Results = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Train a detector on good images, choose its thresholds, score the test set, track it all.

    One model per category; `data.joint=true` makes one for all of them. An interrupted training
    goes on with `--resume RUN`, bit for bit as if never stopped (on a CPU).
    """
    from vqlab.recipes import recipe_tree
    from vqlab.run import each_model, resolve
    from vqlab.tracking import Tracker

    if resume is not None:
        tracker = Tracker.open(mlruns)
        resumed = tracker.resume(resume)
        _train_one(resolve(resumed.config()), tracker, results, resumed)
        return
    config = resolve(recipe_tree(recipe, overrides or (), category, data, preset))
    say_budget(preset, {"": config})
    models = each_model(config)
    tracker = Tracker.open(mlruns)
    for model in models:
        _train_one(model, tracker, results, None)


def say_budget(preset: str, configs: Mapping[str, RunConfig]) -> None:
    """One loud line where a preset made the work of the recipes, by name, smaller."""
    from vqlab.cli.progress import out

    if preset != "full":
        first = next(iter(configs.values()))
        each = (f"{name} {_budget(config)}".strip() for name, config in configs.items())
        out.print(
            f"[bold yellow]preset {preset}:[/] {first.data.image_size} px, {', '.join(each)}; the "
            "recipe's own budget: --preset full (make: PRESET=full)."
        )


def _budget(config: RunConfig) -> str:
    backbone, epochs = config.features.backbone, config.training.epochs
    seen = "" if backbone == "pixels" else f" on features of {backbone}"
    return (f"{epochs} epochs" if epochs else "nothing to train") + seen


def say_data(config: RunConfig) -> None:
    """One loud line saying which data are used."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import describe_source, find_root

    with counting() as on_progress:
        root, source = find_root(config.data, partial(on_progress, "drawing the synthetic set"))
    style = "bold yellow" if source == "synthetic" else "bold"
    out.print(f"[{style}]{describe_source(root, source)}[/]")


def _train_one(config: RunConfig, tracker: Tracker, results: Path, resumed: Run | None) -> None:
    from vqlab.cli.progress import interruptible, work
    from vqlab.run import run

    say_data(config)
    names = config.data.categories
    title = f"{config.detector['name']} {names if isinstance(names, str) else '+'.join(names)}"
    with interruptible(), work(title) as (on_epoch, on_progress):
        outcome = run(
            config, tracker, resumed=resumed, results=results, on_epoch=on_epoch,
            on_progress=on_progress,
        )  # fmt: skip
    say_outcome(outcome, tracker)


def say_outcome(outcome: Outcome, tracker: Tracker) -> None:
    """The report of a run, beside the no-learning baseline, and where to look further."""
    from vqlab.cli.progress import out
    from vqlab.cli.tables import report_table, say_notes

    rows = [("validation", outcome.validation)]
    if outcome.test is not None:
        rows.append((outcome.test_split, outcome.test))
    rows += [(f"{outcome.test_split}, {name}", report) for name, report in outcome.beside.items()]
    title = f"run {outcome.run_id}, {outcome.seconds:.0f} s"
    out.print(report_table(title, rows, outcome.model.thresholds.promised))
    say_notes(outcome.test.notes if outcome.test else [])
    if outcome.pictures:
        out.print(f"pictures: {outcome.pictures}")
    out.print(f"run: {tracker.link(outcome.run_id)} (start it with `vqlab ui`)")


@app.command(short_help="Search settings on validation; score the best on test.")
def sweep(
    recipe: Recipe = "vqvae",
    overrides: Overrides = None,
    category: Category = None,
    data: Data = None,
    preset: Preset = "full",
    space: Annotated[
        Path | None, typer.Option(help="Sweep space (YAML); default: the detector's own.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials the study shall have in all.")] = 12,
    workers: Annotated[int, typer.Option(min=1, help="Processes that work on trials at once.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    results: Results = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Search settings with Optuna, on validation only; the winner is scored once on test.

    `vqlab sweep all` compares several recipes in one study, in which they take turns; a setting for
    one of them alone is written `vqflow.training.epochs=5`.

    Running it again continues to TRIALS, then only prints the result. A changed space or changed
    data is a new study. Several workers share this machine's cores; more of them, on any machine,
    join by `vqlab worker STUDY` (docs/several_machines.md).
    """
    from vqlab.cli.progress import interruptible, sweeping
    from vqlab.config import merge, nest
    from vqlab.run import each_model, resolve
    from vqlab.sweep import Spaces
    from vqlab.sweep import sweep as search
    from vqlab.tracking import Tracker

    found, trees = _searched(recipe, space, overrides or [], category, data, preset)
    configs = {name: resolve(tree) for name, tree in trees.items()}
    config = next(iter(configs.values()))
    say_budget(preset, configs)
    say_data(config)
    models = each_model(config)
    tracker = Tracker.open(mlruns)
    for model in models:
        only = nest("data.categories", list(model.data.categories))
        ones = {name: merge(tree, only) for name, tree in trees.items()}
        with interruptible(), sweeping() as on_event:
            result = search(
                ones if isinstance(found, Spaces) else ones[""],
                found,
                tracker,
                trials=trials,
                workers=workers,
                seed=seed,
                preset="" if preset == "full" else preset,
                on_event=on_event,
                results=results,
            )
        say_result(result)


def _searched(
    recipe: str,
    space: Path | None,
    overrides: list[str],
    category: str | None,
    data: Path | None,
    preset: str,
) -> tuple[Space | Spaces, dict[str, Tree]]:
    """The space of a sweep, and its recipe's tree under the empty name, or its recipes' by name."""
    from vqlab.errors import UserError
    from vqlab.recipes import ALL, EXPERIMENTS, recipe_tree, recipe_trees
    from vqlab.run import resolve
    from vqlab.sweep import Spaces, read_space

    if recipe == ALL:
        path = space or EXPERIMENTS / "sweeps" / f"{ALL}.yaml"
        found = read_space(path)
        if not isinstance(found, Spaces):
            raise UserError(
                f"space {path} must name several `recipes` for a sweep of all; it is of one."
            )
        return found, recipe_trees(found.recipes, overrides, category, data, preset)
    tree = recipe_tree(recipe, overrides, category, data, preset)
    path = space or EXPERIMENTS / "sweeps" / f"{resolve(tree).detector['name']}.yaml"
    found = read_space(path)
    if isinstance(found, Spaces):
        raise UserError(
            f"space {path} must be of one recipe for a sweep of {recipe}; it is of several; write "
            f"`vqlab sweep all --space {path}`."
        )
    return found, {"": tree}


def say_result(result: SweepResult) -> None:
    """What a study came to: trials, the best one's figures, and where to look."""
    from vqlab.cli.progress import out
    from vqlab.cli.tables import figures_table, recipes_table, say_notes, trials_table

    out.print(trials_table(result))
    best = result.best
    if best.recipe:
        out.print(recipes_table(result))
    of = f" ({best.recipe})" if best.recipe else ""
    out.print(
        f"[bold]best run[/]: trial {best.number}{of}, {result.objective} {best.value:.4f}, run "
        f"{best.run_id}"
    )
    out.print(
        figures_table(
            "the best trial, beside the no-learning baseline",
            {
                "validation": (result.validation, "validation"),
                "test": (result.test, "test"),
                "test, mean_image": (result.baseline, "test_mean_image"),
            },
            warned=bool(result.warned),
        )
    )
    say_notes(result.notes)
    out.print(f"pictures: {result.pictures or 'in the artifacts of the best run'}")
    out.print(f"best settings: vqlab train {result.recipe}")
    out.print(f"best run in MLflow: {result.best_link}")
    out.print(f"all trials in MLflow: {result.link}")
    out.print("(start the MLflow UI with: make ui)")


@app.command(short_help="Print a recipe with every setting.")
def settings(
    recipe: Recipe = "vqvae",
    overrides: Overrides = None,
    category: Category = None,
    data: Data = None,
    preset: Preset = "full",
) -> None:
    """Print a recipe as it would run: every setting, defaults filled in."""
    import yaml

    from vqlab.config import dump
    from vqlab.recipes import recipe_tree
    from vqlab.run import resolve

    tree = dump(resolve(recipe_tree(recipe, overrides or (), category, data, preset)))
    typer.echo(yaml.safe_dump(tree, sort_keys=False), nl=False)
