"""The drift test of a watched folder, with its state and its alarm."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from typing import Any

from vqlab.data.appearance import NORMAL_IMAGES
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.text import join_names
from vqlab.watch.changes import Properties, significant_changes
from vqlab.watch.drift_test import DriftStep
from vqlab.watch.martingale import ChangeMartingale
from vqlab.watch.store import Part, Store, TestState
from vqlab.watch.streams import DEFAULT, SCORE, STREAMS, DriftStreams, shares_of

_LARGEST = 690.0
"""Larger logarithms of the wealth are written as this one: e^690 is about 1e300."""


class Drift:
    """Tests the parts of one model; continues after a restart."""

    def __init__(
        self,
        model: Model,
        store: Store,
        level: float,
        new: bool,
        streams: Sequence[str] | None = None,
    ) -> None:
        """new: start a new test. streams: those to test, of `STREAMS`; None: those of the stored
        test, or `DEFAULT`. Raises UserError if the stored test has another level or
        other streams, and for streams that the model does not store."""
        self._model, self._store = model, store
        self.notes: list[str] = []
        """Sentences on the test."""
        normal = normal_values(model)
        if not normal[SCORE]:
            self.notes.append(
                "the model does not store all scores of its held-out normal images as they were "
                "captured (it was trained with data.shifts, or by an older vqlab), so a drift of "
                "scores is detected only if the parts change while the folder is watched."
            )
        self._normal = Properties(**normal)
        with store.transaction():
            self.state = self._open(level, new, normal, streams)
        calibration = {name: normal.get(name, []) for name in self.state.accounts}
        self._test = DriftStreams(calibration, level)
        earlier = (_values(part) for part in store.parts(self.state.id) if part.score is not None)
        self._test.restore(earlier, self.state.martingales)
        self.alarm = self.state.alarm

    def _open(
        self,
        level: float,
        new: bool,
        normal: Mapping[str, Sequence[float]],
        streams: Sequence[str] | None,
    ) -> TestState:
        """Return the stored test of this model, or a new one."""
        model, state = self._model.digest, self._store.test()
        if state is not None and state.model != model:
            self.notes.append("the model has changed, so a new drift test starts.")
            state = None
        if state is None or new:
            return self._store.start_test(model, level, self._chosen(normal, streams))
        tested = list(state.accounts)
        for option, expected, value in (
            ("level", f"{state.level:g}", f"{level:g}"),
            ("streams", ",".join(tested), ",".join(streams or tested)),
        ):
            if value != expected:
                raise UserError(
                    f"--{option} must be {expected}, as in the drift test in {self._store.path}; "
                    f"got {value}; add --new-test to start another test."
                )
        if streams is None and (missing := _testable(normal, tested)):
            self.notes.append(
                f"the drift test uses {join_names(tested)} only, as when it was started; "
                f"--new-test starts one that also uses {join_names(missing)}."
            )
        return state

    def _chosen(
        self, normal: Mapping[str, Sequence[float]], streams: Sequence[str] | None
    ) -> list[str]:
        """Return the streams of a new test. Raises UserError for those that are not normal."""
        if streams is None:
            if missing := [name for name in DEFAULT if name not in normal]:
                self.notes.append(
                    f"the model does not store {join_names(missing)} of held-out normal images of "
                    "this category, so the drift test uses scores only; train again to store it."
                )
            return _testable(normal)
        if missing := [name for name in streams if name not in normal]:
            raise UserError(
                f"--streams must be among {', '.join(normal)}, which the model stores; got "
                f"{', '.join(missing)}; leave it out, or train again."
            )
        return list(streams)

    @property
    def count(self) -> int:
        """Number of tested parts."""
        return self._test.count

    @property
    def wealths(self) -> dict[str, float]:
        """Weighted wealth of each stream, see `DriftStreams`; an alarm at 1 / level."""
        return wealths_of(self._test.martingales)

    def update(self, values: Mapping[str, Any]) -> dict[str, DriftStep]:
        """Test a part and store the martingales; called in the transaction of the part. values: its
        properties by name, at least those of the streams."""
        steps = self._test.update(values, self.state.id)
        self._store.update_test(self.state.id, self.count, self._test.martingales)
        return steps

    def check(self, part: Part) -> dict[str, Any] | None:
        """Return the alarm if this part, which is stored, raises the first one of the test."""
        limit = -math.log(self.state.level)
        shares = shares_of(part.log_wealths) if part.log_wealths else {}
        raised = [name for name, share in shares.items() if share >= limit]
        if self.alarm or not raised or part.log_wealth is None:
            return None
        raised.sort(key=lambda name: -shares[name])
        since = changed_after(self._store.parts(self.state.id, until=part.id), raised[0])
        before = Properties.of(self._store.parts(self.state.id, until=since))
        for name, values in asdict(self._normal).items():
            if values:
                setattr(before, name, values)
        after = Properties.of(self._store.parts(self.state.id, since, part.id))
        changes = significant_changes(before, after, self._model.thresholds, raised)
        self.alarm = {
            "test": self.state.id,
            "part": part.id,
            "file": part.file,
            "level": self.state.level,
            "wealth": wealth_of(part.log_wealth),
            "streams": raised,
            "tested": self.count,
            "since_part": since + 1,
            "moved": [{**asdict(each), "text": each.text} for each in changes],
            "text": alarm_text(part.id, since + 1, raised, [each.text for each in changes]),
        }
        self._store.add_alarm(self.state.id, self.alarm)
        return self.alarm


def normal_values(model: Model) -> dict[str, list[float]]:
    """Return the stored properties of the held-out normal images, by stream of `STREAMS`.

    Only streams that the model stores, and the score; its list is empty if not all scores are
    stored. Of a joint model, properties of the images of `model.image_category`.
    """
    calibration = model.thresholds.calibration
    # under data.shifts, calibration scores are higher than those of images as captured
    exact = calibration is not None and calibration.exact and not model.data.shifts
    scores = (calibration.scores or calibration.quantiles) if calibration and exact else ()
    stored = model.meta.get(NORMAL_IMAGES, {})
    values: dict[str, list[float]] = {name: stored.get(name, []) for name in STREAMS[1:]}
    if len(model.categories) > 1:
        chosen = [each == model.image_category for each in stored.get("category", [])]
        values = {name: list(compress(each, chosen)) for name, each in values.items()}
    return {SCORE: list(scores), **{name: each for name, each in values.items() if each}}


def _testable(normal: Container[str], tested: Container[str] = ()) -> list[str]:
    """Return the default streams that are normal and not tested."""
    return [name for name in DEFAULT if name in normal and name not in tested]


def _values(part: Part) -> dict[str, Any]:
    """Return the properties of a part by stream."""
    return {name: getattr(part, name) for name in STREAMS}


def wealths_of(martingales: Mapping[str, ChangeMartingale]) -> dict[str, float]:
    """Return the weighted wealth of each stream, see `DriftStreams`: an alarm at 1 / level."""
    logs = {name: martingale.log_wealth for name, martingale in martingales.items()}
    return {name: wealth_of(share) for name, share in shares_of(logs).items()}


def wealth_of(log_wealth: float) -> float:
    """Return the wealth of its natural logarithm, at most about 1e300."""
    return math.exp(min(log_wealth, _LARGEST))


def changed_after(parts: Iterable[Part], stream: str) -> int:
    """Return the part after which the parts changed, by the lowest wealth of a stream; 0: from the
    start."""
    lowest, number = 0.0, 0
    for part in parts:
        log_wealth = part.log_wealths.get(stream, part.log_wealth)
        if log_wealth is not None and log_wealth <= lowest:
            lowest, number = log_wealth, part.id
    return number


def alarm_text(part: int, since: int, streams: Sequence[str], changes: Sequence[str]) -> str:
    """Return an alarm as a sentence."""
    text = "; ".join(changes) or "no single property has changed significantly yet"
    return (
        f"parts have differed since about part {since} (alarm at part {part}, by "
        f"{join_names(streams)}): {text}."
    )
