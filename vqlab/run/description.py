"""The description of a run in the MLflow UI, in Markdown: data, metrics and use of the model."""

from __future__ import annotations

from collections.abc import Mapping

from vqlab.data import Splits
from vqlab.evaluation import Report, Thresholds
from vqlab.metrics import headlines, metric_title, rate_counts
from vqlab.run.settings import RunConfig
from vqlab.text import category_text, markdown
from vqlab.tracking import CHECKPOINT, picture_address

_TITLES = {"mean_image": "no-learning baseline"}
_LEGEND = (
    "Image AUROC: probability that an anomalous image scores above a normal one. Pixel AUROC and "
    "AUPRO: the same for pixels, and for defect regions. False rejects: share of normal images "
    "that are rejected. Escapes: share of anomalous images that pass. a–b: 95 % interval."
)


def describe_run(
    config: RunConfig,
    splits: Splits,
    thresholds: Thresholds,
    reports: Mapping[str, Report],
    run_id: str,
    picture: str = "",
) -> str:
    """Return the description of a run.

    reports: by title, the first one of the model itself; with their notes. picture: artifact with
    a test image in panels.
    """
    first = next(iter(reports.values()))
    parts = [
        _summary(config, splits, thresholds),
        _table(reports),
        _LEGEND,
        *(f"![a test image in panels]({picture_address(run_id, picture)})" for _ in picture[:1]),
        "\n".join(f"- {markdown(note)}" for note in first.notes),
        f'Checkpoint: artifact `{CHECKPOINT}`; in Python `vqlab.load("{run_id[:12]}")`. Settings: '
        "`config.yaml`; split of each image: `data/splits.csv`; scores and pictures of the test "
        f"images: `results/`. Promote: `vqlab promote --run {run_id[:12]} --category …`; compare "
        f"with another run: `vqlab compare {run_id[:12]} RUN`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(config: RunConfig, splits: Splits, thresholds: Thresholds) -> str:
    detector = str(config.detector["name"])
    promised = thresholds.promised
    target = "" if promised is None else f", for a false-reject rate of at most {promised:.3g}"
    return (
        f"Detector of visual defects in **{markdown(category_text(splits.categories))}**: "
        f"`{detector}` on `{config.features.backbone}`, {config.data.image_size} px, seed "
        f"{config.training.seed}, trained on {len(set(splits.train.records))} normal images of the "
        f"dataset {markdown(splits.source)} (fingerprint `{splits.fingerprint[:12]}`). An image is "
        f"rejected if its score exceeds {thresholds.image:.4g}; this threshold was chosen on "
        f"{len(splits.held_out)} held-out normal images{target}."
    )


def _table(reports: Mapping[str, Report]) -> str:
    names = [n for n in headlines(2) if any(n in report.mean for report in reports.values())]
    titles = " | ".join(markdown(_TITLES.get(title, title)) for title in reports)
    rows = [f"| | {titles} |", "|---|" + "---|" * len(reports)]
    for name in names:
        cells = " | ".join(_cell(report, name) for report in reports.values())
        rows.append(f"| {metric_title(name)} | {cells} |")
    return "\n".join(rows)


def _cell(report: Report, name: str) -> str:
    if name not in report.mean:
        return "–"
    text = f"{report.mean[name]:.3f}"
    if len(report.per_category) == 1:
        images = next(iter(report.images.values()), {})
        count = rate_counts({**report.mean, **images}).get(name)
        text += f" ({count})" if count else ""
    interval = report.intervals.get("mean", {}).get(name)
    return f"{text}, {interval.text()}" if interval else text
