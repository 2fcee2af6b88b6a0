"""The report of a study: one HTML page and a table of its trials."""

from vqlab.sweep.report.context import ReportContext
from vqlab.sweep.report.live import annotate
from vqlab.sweep.report.page import write_report

__all__ = ["ReportContext", "annotate", "write_report"]
