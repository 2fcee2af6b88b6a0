"""Gates on the model itself: selection, codebooks, guarantee of the threshold, code."""

from __future__ import annotations

from collections.abc import Mapping

from vqlab.evaluation import (
    MEAN,
    CategoryEvidence,
    ShiftTable,
    Thresholds,
    guarantee_limit,
    paired_differences,
)
from vqlab.metrics import Count, of_split, rate_counts, rate_interval
from vqlab.nn.codebook_health import codebooks
from vqlab.promote.gates.gate import Gate, Status
from vqlab.promote.gates.settings import GateSettings, OnFailure
from vqlab.run.evaluators import BASELINE
from vqlab.text import category_text, join_names
from vqlab.tracking import RunRecord


def failure(consequence: OnFailure) -> Status:
    """Return the status of a gate that did not pass."""
    return "failed" if consequence == "refuse" else "warning"


def selection_gate(record: RunRecord) -> Gate:
    """Record that nothing was selected on the test set (see `candidate.require_candidate`)."""
    objective = record.tags.get("vqlab.objective") or record.tags.get("vqlab.chosen_by")
    how = f"settings selected by {objective}" if objective else "settings given by the user"
    return Gate("selection", "passed", f"Not selected on the test set: {how}.")


def codebook_gate(record: RunRecord, settings: GateSettings) -> Gate:
    """Check that no codebook is dead, by the metrics of the last epoch."""
    books = list(codebooks(record.metrics))
    if not books:
        return Gate("codebook", "not applicable", "The detector logs no usage of a codebook.")
    count = len(record.categories)
    book = min(books, key=lambda book: (not book.fault(count), book.perplexity))
    name = f"codebook {book.name}" if book.name else "codebook"
    fault = book.fault(count)
    if fault and settings.codebook != "ignore":
        text = f"Dead {name}: {fault}; train again."
        return Gate("codebook", failure(settings.codebook), text, book.perplexity)
    text = f"Perplexity of the {name} in the last epoch; {book.usage:.0%} of its codes are used."
    return Gate("codebook", "passed", text, book.perplexity)


def promise_gate(
    record: RunRecord,
    evidence: Mapping[str, CategoryEvidence],
    thresholds: Thresholds,
    settings: GateSettings,
) -> Gate:
    """Check that the normal test images do not contradict the promised false-reject rate."""
    name, promised = "promise", thresholds.promised
    if promised is None:
        text = f"The threshold ({thresholds.method or 'unknown method'}) promises no rate."
        return Gate(name, "not applicable", text)
    count = false_rejects(record, evidence)
    most = guarantee_limit(thresholds, count.total) if count else None
    if count is None or most is None:
        return Gate(name, "not applicable", "There are no normal test images to check it on.")
    text = (
        f"{count} normal test images were rejected; promised: a rate of at most {promised:.3g}, "
        f"with which up to {most} of {count.total} are compatible (95 %)"
    )
    status: Status = "passed"
    if count.hits > most and settings.promise != "ignore":
        status = failure(settings.promise)
        text += (
            ": normal test images differ from those that set the threshold; add such images to "
            f"the training data, or set it on new good images (vqlab threshold "
            f"{category_text(record.categories)} --good FOLDER)"
        )
    value, limit = count.hits / count.total, most / count.total
    return Gate(name, status, f"{text}.", value, rate_interval([count]), limit, form=".3f")


def shift_gate(table: ShiftTable | None, thresholds: Thresholds, settings: GateSettings) -> Gate:
    """Check that capture shifts do not make the model reject more than promised."""
    name = "shifts"
    if table is None or not table.normals:
        return Gate(name, "not applicable", "No normal test images were scored under shifts.")
    most = guarantee_limit(thresholds, table.normals)
    if most is None:
        return Gate(name, "not applicable", "The threshold promises no rate.")
    failed = table.above_promise(thresholds)
    trained = [row for row in failed if row.shift in table.trained]
    worst = max(trained or table.rows, key=lambda row: row.false_rejects)
    status: Status = "passed"
    if failed and settings.shifts != "ignore":
        status = failure(settings.shifts) if trained else "warning"
    kind = "shift of data.shifts" if trained else "capture shift"
    text = (
        f"{worst.false_rejects} of {table.normals} normal test images are rejected under the worst "
        f"{kind}, {worst.title}; up to {most} are compatible with the promise (95 %)"
    )
    others = [row for row in trained or failed if row is not worst]
    if others:
        names = join_names([f"{row.title}: {row.false_rejects}" for row in others])
        text += f"; more are also rejected under {names}"
    if failed and not trained:
        text += "; list the expected shifts in data.shifts and train again"
    value = worst.false_rejects / table.normals
    count = Count(worst.false_rejects, table.normals)
    limit = most / table.normals
    return Gate(name, status, f"{text}.", value, rate_interval([count]), limit, form=".3f")


def false_rejects(record: RunRecord, evidence: Mapping[str, CategoryEvidence]) -> Count | None:
    """Return the number of rejected normal test images, from the evidence or else the metrics."""
    counts = [
        Count(int((each.flagged & (each.labels == 0)).sum()), int((each.labels == 0).sum()))
        for each in (measured.evidence for measured in evidence.values())
    ]
    if not counts:
        metrics = [of_split(record.metrics, split) for split in ("test", "test/pooled")]
        counts = [c for c in (rate_counts(m).get("false_reject_rate") for m in metrics) if c]
    total = sum(count.total for count in counts)
    return Count(sum(count.hits for count in counts), total) if total else None


def baseline_gate(
    record: RunRecord,
    evidence: Mapping[str, CategoryEvidence],
    baseline: Mapping[str, CategoryEvidence],
    settings: GateSettings,
) -> Gate:
    """Check that the image AUROC is better than that of the no-learning baseline, by the paired
    bootstrap. baseline: its evidence on the same test images."""
    name, metric = "baseline", "image_auroc"
    if record.tags.get("vqlab.detector") == BASELINE["name"]:
        return Gate(name, "not applicable", "The detector is the no-learning baseline itself.")
    if not evidence or not baseline:
        text = f"The run has no evidence of the baseline {BASELINE['name']} on its test images."
        return Gate(name, "not applicable", text)
    paired = paired_differences(baseline, evidence, settings.resamples, settings.seed, (metric,))
    group = MEAN if len(paired.values) > 1 else next(iter(paired.values))
    if metric not in paired.differences[group]:
        text = "Image AUROC is undefined on the test images."
        return Gate(name, "not applicable", text)
    difference, (before, after) = paired.differences[group][metric], paired.values[group][metric]
    better = difference.interval is not None and difference.interval.low > 0
    status: Status = "passed"
    if not better and settings.baseline != "ignore":
        status = failure(settings.baseline)
    text = f"Image AUROC {after:.4f}, that of the no-learning baseline {before:.4f}"
    text += "." if better else ": not significantly better; a simpler detector may suffice."
    return Gate(
        name, status, text, difference.value, difference.interval, 0.0, "above", form="+.4f"
    )  # fmt: skip


def code_gate(record: RunRecord, settings: GateSettings) -> Gate:
    """Check that the code used in training was committed."""
    commit = record.tags.get("mlflow.source.git.commit")
    if not commit:
        version = record.tags.get("vqlab.version", "unknown")
        text = f"Trained by the installed package, version {version}, not from a git checkout."
        return Gate("code", "not applicable", text)
    if record.tags.get("vqlab.git_dirty") == "true" and settings.code != "ignore":
        text = (
            f"The code used in training differs from its commit {commit[:12]}; commit it and train "
            "again to make the training reproducible."
        )
        return Gate("code", failure(settings.code), text)
    return Gate("code", "passed", f"Trained at commit {commit[:12]}.")
