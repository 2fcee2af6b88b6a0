"""May settings be chosen by drawn defects? How alike validation and test rank them.

A study crosses settings, measures every one on validation and on test, and correlates the ranks
(Spearman). Nothing is chosen here: its runs carry no `test/…` metric, no checkpoint and the tag
`vqlab.kind=correlate`, so they are neither promoted nor listed. `correlate` is the door.
"""

from vqlab.correlate.loop import correlate
from vqlab.correlate.ranks import METRICS, OBJECTIVE, Correlation, mean
from vqlab.correlate.study import read_study

__all__ = ["METRICS", "OBJECTIVE", "Correlation", "correlate", "mean", "read_study"]
