"""Drift tests of several properties of the same parts, which share one level."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from vqlab.watch.drift_test import DriftStep, DriftTest, tie_breaker
from vqlab.watch.martingale import ChangeMartingale

SCORE = "score"
CONCEPT = "concept"
STREAMS = (SCORE, "brightness", "sharpness", "noise", CONCEPT)
"""Properties that can be tested; `concept` is categorical."""
DEFAULT = (SCORE, "noise")
"""Properties that are tested unless others are chosen."""


def weights_of(streams: Sequence[str]) -> dict[str, float]:
    """Return the share of each stream in the level; the sum is 1. The score has one half, the
    others have equal shares of the rest."""
    others = sum(name != SCORE for name in streams)
    half = 0.5 if others and SCORE in streams else 1.0
    return {name: half if name == SCORE else half / others for name in streams}


class DriftStreams:
    """A `DriftTest` of each property, at its share of the level.

    Stream k has the weight w_k, Σ w_k = 1, and is tested at the level w_k α: it raises an alarm if
    w_k times its wealth reaches 1 / α. Each stream is a martingale by itself if calibration images
    and parts are exchangeable, so that any of them ever does so with probability at most
    Σ w_k α = α (Ville's inequality and the union bound). This holds however the properties of an
    image depend on each other, and although all streams share the calibration images.

    The mean Σ w_k M_k of the martingales would reach 1 / α earlier, but need not be a martingale:
    e-values of one filtration may be averaged (Vovk, Wang 2021, "E-values: calibration,
    combination and applications"), but the p-values of a stream are independent only of its own
    past, not of the past of the other streams (Choe, Ramdas 2024, "Combining evidence across
    filtrations", arXiv:2402.09698).
    """

    def __init__(self, calibration: Mapping[str, Sequence[float]], level: float) -> None:
        """calibration: values of the held-out normal images by stream. level: α, in (0, 1)."""
        self.level = level
        self.weights = weights_of(list(calibration))
        self.tests = {
            name: DriftTest(values, level * self.weights[name], categorical=name == CONCEPT)
            for name, values in calibration.items()
        }

    def restore(
        self,
        parts: Iterable[Mapping[str, float]],
        martingales: Mapping[str, ChangeMartingale],
    ) -> None:
        """Continue tests in which parts had these values and led to these martingales."""
        parts = list(parts)
        for name, test in self.tests.items():
            test.restore([part[name] for part in parts], martingales[name])

    @property
    def count(self) -> int:
        """Number of tested parts."""
        return next(iter(self.tests.values())).martingale.count

    @property
    def martingales(self) -> dict[str, ChangeMartingale]:
        """The martingale of each stream."""
        return {name: test.martingale for name, test in self.tests.items()}

    def update(self, values: Mapping[str, float], test: int) -> dict[str, DriftStep]:
        """Test the next part. values: of each stream, finite. test: number from which ties are
        broken, see `tie_breaker`."""
        number = self.count + 1
        return {
            name: each.update(
                values[name], tie_breaker(test, number, "" if name == SCORE else name)
            )
            for name, each in self.tests.items()
        }


def shares_of(log_wealth: Mapping[str, float]) -> dict[str, float]:
    """Return the logarithm of w_k M_k of each stream, given that of M_k: an alarm at 1 / level."""
    if not log_wealth:
        return {}
    weights = weights_of(list(log_wealth))
    return {name: value + math.log(weights[name]) for name, value in log_wealth.items()}
