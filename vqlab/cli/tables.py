"""Tables of metrics, trials, predictions and dataset checks, and notes."""

from __future__ import annotations

from collections.abc import Sequence

from vqlab.cli.data_tables import audit_table as audit_table
from vqlab.cli.data_tables import check_summary as check_summary
from vqlab.cli.data_tables import check_table as check_table
from vqlab.cli.metric_tables import AUDIT_NOTE as AUDIT_NOTE
from vqlab.cli.metric_tables import comparison_tables as comparison_tables
from vqlab.cli.metric_tables import figures_table as figures_table
from vqlab.cli.metric_tables import report_table as report_table
from vqlab.cli.metric_tables import thresholds_text as thresholds_text
from vqlab.cli.predictions import prediction_table as prediction_table
from vqlab.cli.progress import out
from vqlab.cli.trial_tables import recipes_table as recipes_table
from vqlab.cli.trial_tables import tested_table as tested_table
from vqlab.cli.trial_tables import trials_table as trials_table


def print_notes(notes: Sequence[str]) -> None:
    """Print notes on the table above, such as undefined metrics."""
    for note in notes:
        out.print(f"note: {note}", soft_wrap=not out.is_terminal)
