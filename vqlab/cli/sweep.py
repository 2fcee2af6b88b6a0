"""The verb `sweep`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vqlab.cli import app
from vqlab.cli.options import (
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
from vqlab.cli.processes import alone
from vqlab.cli.train import say_budget, say_data

if TYPE_CHECKING:
    from vqlab.config import Tree
    from vqlab.recipes import Folders
    from vqlab.sweep import Launcher, Space, Spaces, SweepResult
    from vqlab.tracking import Tracker


@app.command(short_help="Search settings on validation; score the best on test.")
def sweep(
    recipe: Recipe = "all",
    overrides: Overrides = None,
    category: Category = None,
    data: Data = None,
    good: Good = None,
    bad: Bad = None,
    preset: Preset = "full",
    space: Annotated[
        Path | None, typer.Option(help="Sweep space (YAML); default: the detector's own.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials the study shall have in all.")] = 12,
    workers: Annotated[int, typer.Option(min=1, help="Processes that work on trials at once.")] = 1,
    launcher: Annotated[
        Literal["local", "ray", "none"],
        typer.Option(
            help="Who starts workers: `local`, here; `ray`, on a Ray cluster; `none`: they join by "
            "`vqlab worker STUDY`."
        ),
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster; `auto`: the one that runs here.")
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="Share of GPUs, on Ray.")] = 0,
    cpus_per_worker: Annotated[float, typer.Option(min=0, help="Share of CPUs, on Ray.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    test: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="Trial to score on test too, besides the best; may be given several times.",
        ),
    ] = None,
    results: Results = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Search settings with Optuna, on validation only; the winner is scored once on test, where
    there are test images.

    Without a recipe (or with `all`) several recipes are compared in one study: each gets two
    trials, the first with its own settings, then the better half gets more (successive halving). A
    setting of one of them alone is written `vqflow.training.epochs=5`. `vqlab sweep vqvae` searches
    one recipe.

    A trial replaces its recipe's own settings only if it is clearly better on validation: the 95 %
    interval of the difference (paired bootstrap over the images) excludes 0.

    Run it again to continue to TRIALS; after that it only prints the result. A changed space or
    changed data is a new study. Several workers share this machine's cores; more of them, on any
    machine, join with `vqlab worker STUDY` (docs/sweeps.md).

    `--test 4` scores trial 4 on test as well, for comparison: it decides nothing.
    """
    alone("sweep", "give a sweep --workers instead")
    from vqlab.cli.progress import interruptible, sweeping
    from vqlab.config import merge, nest
    from vqlab.errors import UserError
    from vqlab.recipes import Folders
    from vqlab.run import each_model, resolve
    from vqlab.sweep import Spaces
    from vqlab.sweep import sweep as search
    from vqlab.tracking import Tracker

    folders = Folders(data, good, bad)
    found, trees = _searched(recipe, space, overrides or [], category, folders, preset)
    configs = {name: resolve(tree) for name, tree in trees.items()}
    config = next(iter(configs.values()))
    say_budget(preset, configs)
    say_data(config)
    models = each_model(config)
    if test and len(models) > 1:
        raise UserError(
            f"--test must be about the trials of one study; got {len(models)} categories, each of "
            "which is a study of its own; name one with --category."
        )
    tracker = Tracker.open(mlruns)
    shares = cpus_per_worker, gpus_per_worker
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
                launcher=_launcher(launcher, workers, tracker, shares, ray_address, data),
                seed=seed,
                test=test or (),
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
    data: Folders,
    preset: str,
) -> tuple[Space | Spaces, dict[str, Tree]]:
    """The space of a sweep, and its recipe's tree under the empty name, or its recipes' by name."""
    from vqlab.errors import UserError
    from vqlab.experiment_files import SWEEPS, find
    from vqlab.recipes import ALL, recipe_tree, recipe_trees
    from vqlab.run import resolve
    from vqlab.sweep import Spaces, read_space

    if recipe == ALL:
        path = space or find(ALL, SWEEPS)
        found = read_space(path)
        if not isinstance(found, Spaces):
            raise UserError(
                f"space {path} must name several `recipes` for a sweep of all; it is of one."
            )
        return found, recipe_trees(found.recipes, overrides, category, data, preset)
    tree = recipe_tree(recipe, overrides, category, data, preset)
    path = space or find(resolve(tree).detector["name"], SWEEPS)
    found = read_space(path)
    if isinstance(found, Spaces):
        raise UserError(
            f"space {path} must be of one recipe for a sweep of {recipe}; it is of several; write "
            f"`vqlab sweep all --space {path}`."
        )
    return found, {"": tree}


def say_result(result: SweepResult) -> None:
    """What a study came to: trials, the best one's figures, and where to look."""
    from vqlab.cli.tables import (
        figures_table,
        recipes_table,
        say_notes,
        tested_table,
        trials_table,
    )
    from vqlab.cli.terminal import marked, out

    out.print(trials_table(result))
    best = result.best
    if best.recipe:
        out.print(recipes_table(result))
    of = f" ({best.recipe})" if best.recipe else ""
    out.print(
        marked(
            "best run",
            "bold",
            f": trial {best.number}{of}, {result.objective} {best.value:.4f}, run {best.run_id}",
        )
    )
    out.print(result.reason)
    figures = {
        "validation": (result.validation, "validation"),
        "test": (result.test, "test"),
        "test, mean_image": (result.baseline, "test_mean_image"),
    }
    out.print(
        figures_table(
            "the best trial" + ", beside the no-learning baseline" * bool(result.baseline),
            {name: pair for name, pair in figures.items() if pair[0]},
            warned=bool(result.warned),
            thresholds=result.thresholds,
        )
    )
    say_notes(result.notes)
    if len(result.tested) > 1:
        out.print(tested_table(result))
        for trial in result.tested:
            say_notes([note for note in trial.notes if note not in result.notes])
    taken_over = sum(row.taken_over for row in result.trials)
    others = sum(bool(row.reused) for row in result.trials) - taken_over
    counts = {"training": taken_over, "features": others}
    reused = [f"the {what} of {count} trials" for what, count in counts.items() if count]
    if reused:
        out.print(f"reused: {' and '.join(reused)}; {result.saved:.0f} s saved")
    if result.test:
        out.print(f"pictures: {result.pictures or 'in the artifacts of the best run'}")
    out.print(f"best settings: vqlab train {shlex.quote(str(result.recipe))}")
    out.print(f"study report: {result.page}")
    out.print("in MLflow (start its UI with: vqlab ui, or make ui in a checkout):")
    out.print(f"  all trials: {result.link}")
    out.print(f"  charts and test pictures: {result.charts_link}")
    out.print(f"  best run: {result.best_link}")


def _launcher(
    kind: str,
    workers: int,
    tracker: Tracker,
    shares: tuple[float, float],
    address: str | None,
    data: Path | None,
) -> Launcher | Literal["elsewhere"] | None:
    """What starts workers; none where the sweep's own way is meant."""
    if kind == "ray":
        from vqlab.sweep import RayWorkers

        return RayWorkers(
            workers, tracker.root, address=address, cpus=shares[0], gpus=shares[1],
            data=data.absolute() if data else None,
        )  # fmt: skip
    return "elsewhere" if kind == "none" else None
