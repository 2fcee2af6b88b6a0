"""Measure the settings of a grid, correlate their ranks and track the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vqlab.config import digest
from vqlab.correlate.grid import plan, read_grid
from vqlab.correlate.measure import OnProgress, measure_all
from vqlab.correlate.rank_correlation import OBJECTIVE, Correlation, correlate_rows, correlations
from vqlab.correlate.reliability import reliability, spread
from vqlab.correlate.table import Row, Table, to_csv
from vqlab.data import Splits, categories_in
from vqlab.run import experiment_of
from vqlab.text import folder_name
from vqlab.tracking import Tracker, category_tags
from vqlab.types import UserError


def correlate(
    reference: str,
    roots: Sequence[Path],
    categories: Sequence[str],
    tracker: Tracker,
    *,
    preset: str = "full",
    results: Path = Path("results"),
    on_progress: OnProgress = lambda task, done, total: None,
) -> list[Correlation]:
    """Measure every setting of a grid on every category, and correlate the ranks.

    reference: see `read_grid`. roots: dataset folders; a category is read from the first that has
    it. Measurements are saved in `results/correlate/<grid>/<category>.csv` and reused as long as
    settings, data and synthetic anomalies are the same. Raises UserError for invalid arguments and
    settings before the first training.
    """
    name, grid = read_grid(reference)
    plans = {
        category: [
            training
            for detector, part in grid.detectors.items()
            for training in plan(detector, part, category, root, preset)
        ]
        for category, root in _find_roots(roots, categories).items()
    }
    measured = []
    for category, trainings in plans.items():
        table = Table(results / "correlate" / name / f"{folder_name(category)}.csv")
        rows, splits = measure_all(category, trainings, table, on_progress)
        across = correlations(rows).get((OBJECTIVE, OBJECTIVE))
        for detector, part in grid.detectors.items():
            detector_rows = [row for row in rows if row["detector"] == detector]
            correlation = replace(
                correlate_rows(category, detector, detector_rows, part.hold),
                reliability=reliability(detector_rows),
                spread=spread(detector_rows),
                across=across,
                across_reliability=reliability(rows),
            )
            link = _track(tracker, name, preset, splits, detector_rows, correlation)
            measured.append(replace(correlation, link=link))
    return measured


def _find_roots(roots: Sequence[Path], categories: Sequence[str]) -> dict[str, Path | None]:
    """Return the dataset folder of each category; None is the default data."""
    if not categories:
        raise UserError("correlate requires at least one category; got none; add --category cable.")
    if not roots:
        return dict.fromkeys(categories)
    for root in roots:
        if not root.is_dir():
            raise UserError(f"--data must be a dataset folder; {root} does not exist.")
    available = {root: categories_in(root) for root in roots}
    result: dict[str, Path | None] = {}
    for category in categories:
        matches = [root for root, names in available.items() if category in names]
        if not matches:
            names = ", ".join(sorted(name for names in available.values() for name in names))
            raise UserError(f"there is no category {category!r} in the data; it has {names}.")
        result[category] = matches[0]
    return result


def _track(
    tracker: Tracker,
    grid: str,
    preset: str,
    splits: Splits,
    rows: Sequence[Row],
    correlation: Correlation,
) -> str:
    """Record one run per category and detector, once for the same rows; return its link."""
    tags = {
        "vqlab.kind": "correlate",
        "vqlab.correlate": grid,
        "vqlab.detector": correlation.detector,
        **category_tags([correlation.category]),
        "vqlab.rows": digest([dict(row) for row in rows])[:16],
    }
    finished = [run for run in tracker.runs(tags=tags) if run.status == "FINISHED"]
    if finished:
        return tracker.link(finished[0].run_id)
    tags |= {
        "vqlab.data": splits.source,
        "vqlab.data_fingerprint": splits.fingerprint,
        "vqlab.preset": preset,
    }
    name = f"correlate-{grid}-{correlation.detector}-{correlation.category}"
    with tracker.start(experiment=experiment_of(splits), name=name, tags=tags) as run:
        metrics = {"study/settings": float(correlation.settings)}
        for group, pairs in (
            ("correlation", correlation.overall),
            ("correlation_held", correlation.fixed),
        ):
            metrics |= {f"{group}/{first}/{second}": rho for (first, second), rho in pairs.items()}
        metrics |= {f"correlation_kind/{kind}": rho for kind, rho in correlation.kinds.items()}
        metrics["study/spread"] = correlation.spread
        if correlation.reliability is not None:
            metrics["study/reliability"] = correlation.reliability
        run.log_metrics(metrics)
        run.log_text(to_csv(rows), "settings.csv")
    return tracker.link(run.id)
