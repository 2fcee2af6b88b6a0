"""The drift test of a watched folder, with its state and its alarm."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from vqlab.data.appearance import NORMAL_IMAGES
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.watch.changes import Properties, significant_changes
from vqlab.watch.drift_test import DriftStep, DriftTest, tie_breaker
from vqlab.watch.martingale import ChangeMartingale
from vqlab.watch.store import Part, Store, TestState

_LARGEST = 690.0
"""Larger logarithms of the wealth are written as this one: e^690 is about 1e300."""


class Drift:
    """Tests the parts of one model; continues after a restart."""

    def __init__(self, model: Model, store: Store, level: float, new: bool) -> None:
        """new: start a new test. Raises UserError if the stored test has another level."""
        self._model, self._store = model, store
        self.notes: list[str] = []
        """Sentences on the test."""
        calibration = model.thresholds.calibration
        # under data.shifts, calibration scores are higher than those of images as captured
        exact = calibration is not None and calibration.exact and not model.data.shifts
        scores = (calibration.scores or calibration.quantiles) if calibration and exact else ()
        if not exact:
            self.notes.append(
                "the model does not store all scores of its held-out normal images as they were "
                "captured (it was trained with data.shifts, or by an older vqlab), so drift is "
                "detected only if the parts change while the folder is watched."
            )
        self._normal = Properties(list(scores), **model.meta.get(NORMAL_IMAGES, {}))
        with store.transaction():
            self.state = self._open(level, new)
        self._test = DriftTest(scores, level)
        earlier = (part.score for part in store.parts(self.state.id) if part.score is not None)
        self._test.restore(earlier, ChangeMartingale(self.state.count, self.state.accounts))
        self.alarm = self.state.alarm

    def _open(self, level: float, new: bool) -> TestState:
        """Return the stored test of this model, or a new one."""
        model, state = self._model.digest, self._store.test()
        if state is not None and state.model != model:
            self.notes.append("the model has changed, so a new drift test starts.")
            state = None
        if state is None or new:
            return self._store.start_test(model, level)
        if state.level != level:
            raise UserError(
                f"--level must be {state.level:g}, that of the drift test in {self._store.path}; "
                f"got {level:g}; add --new-test to start another test."
            )
        return state

    @property
    def count(self) -> int:
        """Number of tested parts."""
        return self._test.martingale.count

    @property
    def wealth(self) -> float:
        """The martingale: 1 at the start of the test; an alarm at 1 / level."""
        return wealth_of(self._test.martingale.log_wealth)

    def update(self, score: float) -> DriftStep:
        """Test a part and store the martingale; called in the transaction of the part."""
        theta = tie_breaker(self.state.id, self.count + 1)
        step = self._test.update(score, theta)
        self._store.update_test(self.state.id, self._test.martingale)
        return step

    def check(self, part: Part) -> dict[str, Any] | None:
        """Return the alarm if this part, which is stored, raises the first one of the test."""
        if self.alarm or part.log_wealth is None or part.log_wealth < self._test.alarm_at:
            return None
        since = changed_after(self._store.parts(self.state.id, until=part.id))
        before = Properties.of(self._store.parts(self.state.id, until=since))
        for name, values in asdict(self._normal).items():
            if values:
                setattr(before, name, values)
        after = Properties.of(self._store.parts(self.state.id, since, part.id))
        changes = significant_changes(before, after, self._model.thresholds)
        self.alarm = {
            "test": self.state.id,
            "part": part.id,
            "file": part.file,
            "level": self.state.level,
            "wealth": wealth_of(part.log_wealth),
            "tested": self.count,
            "since_part": since + 1,
            "moved": [{**asdict(each), "text": each.text} for each in changes],
            "text": alarm_text(part.id, since + 1, [each.text for each in changes]),
        }
        self._store.add_alarm(self.state.id, self.alarm)
        return self.alarm


def wealth_of(log_wealth: float) -> float:
    """Return the wealth of its natural logarithm, at most about 1e300."""
    return math.exp(min(log_wealth, _LARGEST))


def changed_after(parts: Iterable[Part]) -> int:
    """Return the part after which the parts changed, by the lowest wealth; 0: from the start."""
    lowest, number = 0.0, 0
    for part in parts:
        if part.log_wealth is not None and part.log_wealth <= lowest:
            lowest, number = part.log_wealth, part.id
    return number


def alarm_text(part: int, since: int, changes: list[str]) -> str:
    """Return an alarm as a sentence."""
    text = "; ".join(changes) or "no single property has changed significantly yet"
    return f"parts have differed since about part {since} (alarm at part {part}): {text}."
