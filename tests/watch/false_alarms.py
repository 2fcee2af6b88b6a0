"""Count false alarms of the drift test on exchangeable scores.

`python tests/watch/false_alarms.py STREAMS PARTS` prints them by the number of held-out images.
"""

from __future__ import annotations

import sys

import numpy as np

from vqlab.watch.drift_test import DriftTest


def false_alarms(
    streams: int, parts: int, calibration: int, level: float, growing: bool = True
) -> int:
    """Return the number of streams with an alarm. Scores are sampled from few values, so that ties
    are frequent.

    growing: use the p-values of `DriftTest`; else p-values from the calibration scores only, which
    are not valid.
    """
    alarms = 0
    for seed in range(streams):
        rng = np.random.default_rng(seed)
        values = np.round(rng.gamma(3, size=calibration + parts), 1).tolist()
        normal, theta = values[:calibration], rng.random(parts).tolist()
        test = DriftTest(normal, level)
        for score, t in zip(values[calibration:], theta, strict=True):
            if growing:
                step = test.update(score, t).log_wealth
            else:
                step = test.martingale.update(DriftTest(normal, level).update(score, t).p_value)
            if step >= test.alarm_at:
                alarms += 1
                break
    return alarms


if __name__ == "__main__":
    streams, parts = map(int, sys.argv[1:])
    for calibration in (20, 40, 200):
        alarms = false_alarms(streams, parts, calibration, level=0.01)
        print(f"{calibration} calibration images: {alarms} of {streams} streams", flush=True)
