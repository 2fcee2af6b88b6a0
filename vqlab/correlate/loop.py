"""A correlation study from its file to its tracked runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vqlab.config import digest
from vqlab.correlate.measure import OnProgress, measure_all
from vqlab.correlate.ranks import Correlation, correlated
from vqlab.correlate.rows import Kept, Row, table_text
from vqlab.correlate.study import plan, read_study
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
    on_progress: OnProgress = lambda what, done, total: None,
) -> list[Correlation]:
    """Measure every setting of a study on every category, and correlate their ranks.

    roots: data folders; a category is taken from the first that has it. What is measured is kept
    in `results/correlate/<study>/<category>.csv` and not measured again, as long as settings, data
    and drawn defects are the same. Raises UserError for what can be known before work starts.
    """
    name, study = read_study(reference)
    places = _places(roots, categories)
    plans = {
        category: [
            training
            for detector, part in study.detectors.items()
            for training in plan(detector, part, category, root, preset)
        ]
        for category, root in places.items()
    }
    found = []
    for category, trainings in plans.items():
        kept = Kept(results / "correlate" / name / f"{folder_name(category)}.csv")
        rows, splits = measure_all(category, trainings, kept, on_progress)
        for detector, part in study.detectors.items():
            own = [row for row in rows if row["detector"] == detector]
            correlation = correlated(category, detector, own, part.hold)
            link = _track(tracker, name, preset, splits, own, correlation)
            found.append(replace(correlation, link=link))
    return found


def _places(roots: Sequence[Path], categories: Sequence[str]) -> dict[str, Path | None]:
    """The folder that each category is taken from; none is the default data."""
    if not categories:
        raise UserError("correlate needs at least one category, e.g. --category cable.")
    if not roots:
        return dict.fromkeys(categories)
    for root in roots:
        if not root.is_dir():
            raise UserError(f"data folder {root} does not exist.")
    there = {root: categories_in(root) for root in roots}
    places: dict[str, Path | None] = {}
    for category in categories:
        found = [root for root, names in there.items() if category in names]
        if not found:
            known = ", ".join(sorted(name for names in there.values() for name in names))
            raise UserError(f"there is no category {category!r} in these data; known: {known}.")
        places[category] = found[0]
    return places


def _track(
    tracker: Tracker,
    study: str,
    preset: str,
    splits: Splits,
    rows: Sequence[Row],
    found: Correlation,
) -> str:
    """One run per category and detector, made once for the same rows; returns its link."""
    tags = {
        "vqlab.kind": "correlate",
        "vqlab.correlate": study,
        "vqlab.detector": found.detector,
        **category_tags([found.category]),
        "vqlab.rows": digest([dict(row) for row in rows])[:16],
    }
    known = [r for r in tracker.runs(tags=tags) if r.status == "FINISHED"]
    if known:
        return tracker.link(known[0].run_id)
    more = {
        "vqlab.data": splits.source,
        "vqlab.data_fingerprint": splits.fingerprint,
        "vqlab.preset": preset,
    }
    name = f"correlate-{study}-{found.detector}-{found.category}"
    with tracker.start(experiment=experiment_of(splits), name=name, tags=tags | more) as run:
        metrics = {"study/settings": float(found.settings)}
        for group, pairs in (("correlation", found.free), ("correlation_held", found.held)):
            metrics |= {f"{group}/{one}/{other}": rho for (one, other), rho in pairs.items()}
        metrics |= {f"correlation_kind/{kind}": rho for kind, rho in found.kinds.items()}
        run.log_metrics(metrics)
        run.log_text(table_text(rows), "settings.csv")
    return tracker.link(run.id)
