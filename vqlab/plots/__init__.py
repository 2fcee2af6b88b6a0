"""Figures: panels per image, score histograms, curves, concepts. No pyplot, no global state."""

from vqlab.plots.attempt import PictureWarning, attempt
from vqlab.plots.concepts import likelihood_figure, map_figure, usage_figure
from vqlab.plots.critical_difference import critical_difference_figure
from vqlab.plots.curves import loss_curves, save_figure
from vqlab.plots.operating_curve import operating_curve
from vqlab.plots.prediction import panel_row
from vqlab.plots.results import ResultsWriter, results_folder
from vqlab.plots.row import in_two_rows
from vqlab.plots.shift_chart import shift_chart

__all__ = [
    "PictureWarning",
    "ResultsWriter",
    "attempt",
    "critical_difference_figure",
    "in_two_rows",
    "likelihood_figure",
    "loss_curves",
    "map_figure",
    "operating_curve",
    "panel_row",
    "results_folder",
    "save_figure",
    "shift_chart",
    "usage_figure",
]
