"""The contract of detectors: `check_detector("my_detector")`.

Each check is a function of a `DetectorCase` that raises AssertionError if the detector violates the
contract; `CHECKS` lists them, for parametrised tests. They use images of 32 px and pyramids of two
levels, without a backbone, and take a few seconds.
"""

from vqlab.testing.case import (
    PYRAMID,
    SIDE,
    SPEC,
    DetectorCase,
    as_sample,
    batches,
    products,
    train,
    with_anomaly,
)
from vqlab.testing.checks import CHECKS, Check, assert_equal, check_detector, run_check

__all__ = [
    "CHECKS",
    "PYRAMID",
    "SIDE",
    "SPEC",
    "Check",
    "DetectorCase",
    "as_sample",
    "assert_equal",
    "batches",
    "check_detector",
    "products",
    "run_check",
    "train",
    "with_anomaly",
]
