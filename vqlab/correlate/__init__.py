"""Check whether validation and test rankings agree (`vqlab correlate`).

Measures all combinations of settings on validation and on test, and computes rank correlations
(Spearman). It selects nothing: its runs have no `test/…` metric, no checkpoint and the tag
`vqlab.kind=correlate`, so they are neither promoted nor listed.
"""

from vqlab.correlate.experiment import correlate
from vqlab.correlate.grid import read_grid
from vqlab.correlate.rank_correlation import METRICS, OBJECTIVE, Correlation, mean
from vqlab.correlate.reliability import corrected

__all__ = ["METRICS", "OBJECTIVE", "Correlation", "correlate", "corrected", "mean", "read_grid"]
