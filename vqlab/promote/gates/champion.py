"""Gates that compare a model with the champion on the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vqlab.evaluation import MEAN, CategoryEvidence, Paired, paired_differences
from vqlab.metrics import Difference, Interval, lower_is_better, metric_title
from vqlab.promote.comparison import MetricComparison
from vqlab.promote.gates.gate import Gate, LimitKind, Status
from vqlab.promote.gates.settings import GateSettings

_FORM = "+.4f"
ESCAPES = "escape_rate"


@dataclass(frozen=True)
class Contender:
    """The model or the champion, measured on the same test images."""

    evidence: Mapping[str, CategoryEvidence]
    promised: float | None
    """Promised false-reject rate of its threshold; None if it promises none or the rate is
    unknown."""


def value_gate(
    comparison: MetricComparison, version: int | None, difference: Difference | None
) -> Gate:
    """Return the gate of a comparison by one metric's value; without a champion: not applicable.

    difference: the paired difference of the metric, if both models have evidence.
    """
    name = comparison.metric
    if version is None:
        text = f"There is no champion to compare with; {name} is {comparison.value:.4f}."
        return Gate(name, "not applicable", text, comparison=True)
    gain, text = comparison.gain, f"its {name} {comparison.describe(version)}"
    status: Status = "passed" if comparison.sufficient else "failed"
    text += "." * (status == "passed")
    interval = difference.interval if difference else None
    assert gain is not None and comparison.champion_value is not None
    lower = lower_is_better(name)
    return Gate(
        name, status, text, comparison.value - comparison.champion_value, interval,
        0.0 - comparison.min_delta if lower else comparison.min_delta,
        "below" if lower else "above", _FORM, comparison=True,
    )  # fmt: skip


def paired_gates(
    contender: Contender, champion: Contender, version: int, settings: GateSettings
) -> list[Gate]:
    """Return one gate per metric, and one on the improvement; empty if no metric is comparable.

    Differences have paired bootstrap intervals, those of rates exact ones (`paired_differences`).
    """
    paired = paired_differences(
        champion.evidence, contender.evidence, settings.resamples, settings.seed
    )
    group = MEAN if len(paired.values) > 1 else next(iter(paired.values))
    values, differences = paired.values[group], paired.differences[group]
    same_promise = champion.promised is not None and champion.promised == contender.promised
    gates, compared = [], []
    for metric in settings.metrics:
        if metric not in differences:
            gates.append(_missing(metric, "it is undefined on the test images"))
        elif metric == ESCAPES and not same_promise:
            promises = " and ".join(map(_promise, (contender.promised, champion.promised)))
            gates.append(_missing(metric, f"the thresholds promise {promises} false rejects"))
        else:
            pair = _Pair(metric, *values[metric], differences[metric])
            compared.append(pair)
            gates.append(_margin_gate(pair, version, settings, _worst_category(paired, metric)))
    return [*gates, _improvement(compared, settings)] if compared else []


@dataclass(frozen=True)
class _Pair:
    """One metric of both models."""

    metric: str
    champion: float
    value: float
    difference: Difference

    @property
    def sign(self) -> int:
        return -1 if lower_is_better(self.metric) else 1

    @property
    def gain(self) -> float:
        return self.sign * self.difference.value

    @property
    def gain_interval(self) -> Interval | None:
        interval = self.difference.interval
        if interval is None or self.sign > 0:
            return interval
        return Interval(-interval.high, -interval.low)

    @property
    def lowest(self) -> float | None:
        """Lower end of the interval of the gain; None if the images do not determine one."""
        if self.gain_interval is not None:
            return self.gain_interval.low
        return 0.0 if self.difference.p == 1 else None

    def significantly_above(self, least: float) -> bool:
        """Return whether the whole interval of the gain is above `least`."""
        return self.lowest is not None and self.lowest > least

    def gate(
        self, name: str, status: Status, sentence: str, limit: float, *, exclusive: bool = False
    ) -> Gate:
        """Return the gate of the difference. exclusive: the limit itself fails."""
        least: LimitKind = "above" if exclusive else "minimum"
        most: LimitKind = "below" if exclusive else "maximum"
        bound = least if self.sign > 0 else most
        value, interval = self.difference.value, self.difference.interval
        limit = self.sign * limit + 0.0  # not -0
        return Gate(name, status, sentence, value, interval, limit, bound, _FORM, comparison=True)


def _worst_category(paired: Paired, metric: str) -> tuple[str, float]:
    """Return the category with the least gain, and the gain; empty for a single category."""
    sign = -1 if lower_is_better(metric) else 1
    gains = {
        category: sign * differences[metric].value
        for category, differences in paired.differences.items()
        if category != MEAN and metric in differences
    }
    return min(gains.items(), key=lambda item: item[1]) if len(gains) > 1 else ("", 0.0)


def _margin_gate(
    pair: _Pair, version: int, settings: GateSettings, worst: tuple[str, float]
) -> Gate:
    """Check that a metric is not worse than the champion's by more than the margin.

    worst: see `_worst_category`; a category that is worse by more is a warning.
    """
    title = metric_title(pair.metric)
    relation = "equal to" if pair.gain == 0 else "better than" if pair.gain > 0 else "worse than"
    text = f"{title}: {pair.value:.4f}, {relation} the champion's {pair.champion:.4f}"
    text += f" (version {version})"
    status: Status = "passed"
    if pair.gain < -settings.margin:
        status = "failed"
        text += f", by more than gates.margin={settings.margin:g}"
    elif pair.lowest is None or pair.lowest < -settings.margin:
        status = "warning" if settings.rule == "not_worse" else "failed"
        reason = pair.difference.reason or "too few test images"
        text += f"; a loss above {settings.margin:g} is not excluded: {reason}"
    category, gain = worst
    if category and gain < -settings.margin:
        status = "warning" if status == "passed" else status
        text += f"; category {category} is worse by {-gain:.4f}"
    return pair.gate(pair.metric, status, f"{text}.", -settings.margin)


def _improvement(pairs: Sequence[_Pair], settings: GateSettings) -> Gate:
    """Check that at least one metric is better than the champion's."""
    least, strict = settings.min_delta, settings.rule == "superior"
    best = max(pairs, key=lambda pair: (pair.significantly_above(least), pair.gain))
    significant = best.significantly_above(least)
    by = f" by more than gates.min_delta={least:g}" if least else ""
    if significant or (best.gain > least and not strict):
        text = f"Better{by}: {metric_title(best.metric)}"
        text += "." if significant else " (not significantly)."
        return best.gate("improvement", "passed", text, least, exclusive=True)
    names = ", ".join(metric_title(pair.metric) for pair in pairs)
    how = "significantly better" if strict else "better"
    text = f"Of {names}, none is {how} than the champion's{by}."
    return best.gate("improvement", "failed", text, least, exclusive=True)


def _missing(metric: str, reason: str) -> Gate:
    text = f"{metric_title(metric)} cannot be compared: {reason}."
    return Gate(metric, "not applicable", text, comparison=True)


def _promise(rate: float | None) -> str:
    return "an unknown rate of" if rate is None else f"at most {rate:.3g}"
