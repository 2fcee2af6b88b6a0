"""Command `sweep`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.launchers import (
    CpusPerWorker,
    GpusPerWorker,
    LauncherKind,
    Launching,
    RayAddress,
    Workers,
)
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
from vqlab.cli.processes import require_single_process
from vqlab.cli.train import print_budget, print_data

if TYPE_CHECKING:
    from vqlab.config import Tree
    from vqlab.recipes import Folders
    from vqlab.sweep import Space, Spaces, SweepResult


@app.command(short_help="Search settings on validation; test the best trial.")
def sweep(
    recipe: Recipe = "all",
    overrides: Overrides = None,
    category: Category = None,
    data: Data = None,
    good: Good = None,
    bad: Bad = None,
    preset: Preset = "full",
    space: Annotated[
        Path | None, typer.Option(help="Search space (YAML file); default: that of the detector.")
    ] = None,
    trials: Annotated[
        int, typer.Option("--n-trials", "-n", "--trials", min=1, help="Total number of trials.")
    ] = 12,
    workers: Workers = 1,
    launcher: LauncherKind = "local",
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0,
    cpus_per_worker: CpusPerWorker = 1,
    seed: Annotated[int, typer.Option(help="Random seed of the search.")] = 0,
    test: Annotated[
        list[str] | None,
        typer.Option(
            help="Also evaluate this trial on the test set, for comparison: its number, or "
            "RECIPE:NUMBER where recipes are compared; may be repeated.",
        ),
    ] = None,
    results: Results = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Search settings with Optuna on validation, and evaluate the winner once on the test set.

    Without a recipe (or with `all`), several recipes are compared, each in a separate study. Each
    recipe gets two trials, the first with its own settings; then the better half gets more
    (successive halving). `vqflow.training.epochs=5` overrides a setting of one recipe;
    `vqlab sweep vqvae` searches only one recipe.

    A trial replaces its recipe's own settings only if the 95 % interval of their difference on
    validation (paired bootstrap over the images) excludes 0. Of recipes that validation cannot tell
    apart, the first one wins.

    Run the same command again to resume the study, or with a larger --n-trials to extend it. A
    changed search space or dataset starts a new study. Workers on this or other machines can join
    with `vqlab worker STUDY` (docs/sweeps.md).
    """
    require_single_process("sweep", "use --workers instead")
    from vqlab.cli.progress import interruptible, sweeping
    from vqlab.config import merge, nest
    from vqlab.errors import UserError
    from vqlab.recipes import Folders
    from vqlab.run import model_configs, resolve
    from vqlab.sweep import Execution, Spaces, make_comparison
    from vqlab.sweep import sweep as search
    from vqlab.tracking import Tracker

    folders = Folders(data, good, bad)
    search_space, trees = _searched(recipe, space, overrides or [], category, folders, preset)
    configs = {name: resolve(tree) for name, tree in trees.items()}
    config = next(iter(configs.values()))
    print_budget(preset, configs)
    print_data(config)
    models = model_configs(config)
    if test and len(models) > 1:
        raise UserError(
            f"--test needs a single study; got {len(models)} categories with a study each; choose "
            "one with --category."
        )
    tracker = Tracker.open(mlruns)
    launching = Launching(workers, launcher, ray_address, cpus_per_worker, gpus_per_worker)
    for model in models:
        only = nest("data.categories", list(model.data.categories))
        one_model = {name: merge(tree, only) for name, tree in trees.items()}
        with interruptible(), sweeping() as on_event:
            settings = one_model if isinstance(search_space, Spaces) else one_model[""]
            result = search(
                make_comparison(search_space, settings, "" if preset == "full" else preset),
                tracker,
                trials=trials,
                seed=seed,
                execution=Execution(workers, launching.launcher(tracker, data)),
                test=test or (),
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
    """Return the space, and the settings by recipe (a single recipe has the empty name)."""
    from vqlab.errors import UserError
    from vqlab.experiment_files import SWEEPS, find
    from vqlab.recipes import ALL, recipe_tree, recipe_trees
    from vqlab.run import resolve
    from vqlab.sweep import Spaces, read_space

    if recipe == ALL:
        path = space or find(ALL, SWEEPS)
        comparison = read_space(path)
        if not isinstance(comparison, Spaces):
            raise UserError(
                f"space {path} must list several `recipes` for a sweep of all; it has one."
            )
        return comparison, recipe_trees(comparison.recipes, overrides, category, data, preset)
    tree = recipe_tree(recipe, overrides, category, data, preset)
    path = space or find(resolve(tree).detector["name"], SWEEPS)
    single = read_space(path)
    if isinstance(single, Spaces):
        raise UserError(
            f"space {path} must be for one recipe in a sweep of {recipe}; it is for several; run "
            f"`vqlab sweep all --space {path}`."
        )
    return single, {"": tree}


def say_result(result: SweepResult) -> None:
    """Print the result of a sweep: trials, metrics of the best one, links."""
    from vqlab.cli.metric_tables import figures_table
    from vqlab.cli.terminal import marked, out, print_notes
    from vqlab.cli.trial_tables import recipes_table, tested_table, trials_table

    out.print(trials_table(result))
    best = result.best
    if best.recipe:
        out.print(recipes_table(result))
    out.print(
        marked(
            "best run",
            "bold",
            f": trial {best.key}, {result.objective} {best.value:.4f}, run {best.run_id}",
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
            "best trial" + ", with the no-learning baseline" * bool(result.baseline),
            {name: pair for name, pair in figures.items() if pair[0]},
            warned=bool(result.warned),
            thresholds=result.thresholds,
        )
    )
    print_notes(result.notes)
    if len(result.tested) > 1:
        out.print(tested_table(result))
        for trial in result.tested:
            print_notes([note for note in trial.notes if note not in result.notes])
    trainings = sum(row.training_reused for row in result.trials)
    features = sum(bool(row.reused) for row in result.trials) - trainings
    counts = {"training": trainings, "features": features}
    reused = [
        f"the {part} of {count} trial{'s' * (count > 1)}" for part, count in counts.items() if count
    ]
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
