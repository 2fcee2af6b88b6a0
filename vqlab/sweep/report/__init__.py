"""The report of a study: one HTML page and a table of its trials."""

from vqlab.sweep.report.live import annotate
from vqlab.sweep.report.page import PAGE, ReportContext, write_report

__all__ = ["PAGE", "ReportContext", "annotate", "write_report"]
