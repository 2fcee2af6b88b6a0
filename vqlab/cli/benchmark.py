"""Commands `benchmark` and `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from vqlab.cli.options import Data, Overrides, Preset, Results, Tracking
from vqlab.cli.processes import require_single_process

if TYPE_CHECKING:
    from vqlab.benchmark import BenchmarkFile

_Categories = Annotated[
    str | None,
    typer.Option(
        "--category", "-c", help="Comma-separated categories; default: those of the benchmark."
    ),
]
_Seeds = Annotated[
    str | None, typer.Option(help="Comma-separated seeds (training.seed), e.g. 0,1,2.")
]


@app.command(short_help="Compare recipes on categories over seeds, with statistics.")
def benchmark(
    benchmark: Annotated[
        str,
        typer.Argument(
            help="YAML file, or a name in experiments/benchmarks (`detectors`, `ablations`).",
            metavar="[BENCHMARK]",
        ),
    ] = "detectors",
    overrides: Overrides = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            "--recipes", "-r", help="Comma-separated recipes; default: those of the benchmark."
        ),
    ] = None,
    category: _Categories = None,
    models: Annotated[
        str | None,
        typer.Option(help="`each`: one model per category; `joint`: one for all; or `each,joint`."),
    ] = None,
    seeds: _Seeds = None,
    data: Data = None,
    preset: Preset = "full",
    workers: Workers = 1,
    launcher: LauncherKind = "local",
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0,
    cpus_per_worker: CpusPerWorker = 1,
    results: Results = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Train and test every recipe on every category (alone and jointly) with every seed, and write
    a report.

    A first try on the synthetic set, which takes a minute or two:

        vqlab benchmark --preset tiny -r mean_image,padim -c cable,gear --seeds 0,1

    The report, results/benchmark/KEY/report.html, has one table per metric (mean and standard
    deviation over seeds, 95 % intervals by the paired bootstrap over test images), ranks with
    Friedman test and critical difference, pairwise tests with Holm's correction, costs, published
    figures, and the same test images side by side. results.json has all figures.

    Run the same command again to resume after Ctrl-C, a crash or a power cut. Nothing is trained
    twice: further recipes, categories or seeds train only what is missing, and runs of
    `vqlab train` with the same settings and images count. Each model is an ordinary run
    (`vqlab runs list`, `vqlab leaderboard`).

    Workers on this or other machines can join with `vqlab worker KEY` (docs/detector_benchmark.md).
    """
    from vqlab.benchmark import read_benchmark

    name, file = read_benchmark(
        benchmark, recipes=_words(recipes), categories=_words(category), models=_words(models),
        seeds=_numbers(seeds),
    )  # fmt: skip
    launching = Launching(workers, launcher, ray_address, cpus_per_worker, gpus_per_worker)
    _run(name, file, overrides or [], data, preset, results, mlruns, launching)


@app.command(short_help="Train the recipes of the paper on MVTec AD or VisA.")
def reproduce(
    dataset: Annotated[Literal["mvtec", "visa"], typer.Argument(help="Dataset of the paper.")],
    overrides: Overrides = None,
    category: _Categories = None,
    seeds: _Seeds = None,
    data: Data = None,
    preset: Preset = "full",
    workers: Workers = 1,
    results: Results = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Train VQ-Flow as published, one model for all categories, and compare with published figures.

    Categories that the dataset folder lacks are listed and excluded from the comparison. Needs a
    GPU with 24 GiB at full size; `--preset tiny` checks that everything works.

    This runs the benchmark `mvtec` or `visa` (see `vqlab benchmark --help`), so it can be resumed
    and writes the same report.
    """
    from vqlab.benchmark import read_benchmark

    name, file = read_benchmark(dataset, categories=_words(category), seeds=_numbers(seeds))
    _run(name, file, overrides or [], data, preset, results, mlruns, Launching(workers))


def _run(
    name: str,
    file: BenchmarkFile,
    overrides: list[str],
    data: Path | None,
    preset: str,
    results: Path,
    mlruns: Path,
    launching: Launching,
) -> None:
    require_single_process("benchmark", "use --workers instead")
    from vqlab.benchmark import join, make_plan, run_benchmark
    from vqlab.cli.benchmark_tables import benchmarking, print_result
    from vqlab.cli.progress import counting, interruptible, out

    with counting() as on_progress:
        plan = make_plan(
            name, file, data=data, preset=preset, overrides=overrides,
            on_progress=lambda done, total: on_progress("generating the synthetic dataset", done,
                                                        total),
        )  # fmt: skip
    out.print(plan.source)
    if plan.missing:
        out.print(f"note: not in the dataset, skipped: {', '.join(plan.missing)}")
    from vqlab.tracking import Tracker

    tracker = Tracker.open(mlruns)
    launcher = launching.launcher(tracker, data, join)
    with interruptible(), benchmarking() as on_event:
        result = run_benchmark(
            plan, tracker, workers=launching.workers, launcher=launcher, results=results,
            on_event=on_event,
        )  # fmt: skip
    print_result(result)


def _words(text: str | None) -> list[str] | str | None:
    """Return the comma-separated words of an option; `all` is itself."""
    if text is None or text == "all":
        return text
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str | None) -> list[int] | None:
    """Return comma-separated whole numbers. Raises UserError."""
    from vqlab.errors import UserError

    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds must be whole numbers such as 0,1,2; got {text!r}.") from None
