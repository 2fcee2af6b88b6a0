"""Figures: panels per image, score histograms, curves, concepts. No pyplot, no global state."""

from vqlab.plots.attempt import PictureWarning, attempt
from vqlab.plots.concepts import likelihood_figure, map_figure, usage_figure
from vqlab.plots.curves import (
    codebook_usage,
    loss_curves,
    pro_figure,
    roc_figure,
    save_figure,
    score_by_defect,
    score_histogram,
)
from vqlab.plots.results import panel_row, results_folder, write_results
from vqlab.plots.row import Row, Scale, draw_row, in_two_rows

__all__ = [
    "PictureWarning",
    "Row",
    "Scale",
    "attempt",
    "codebook_usage",
    "draw_row",
    "in_two_rows",
    "likelihood_figure",
    "loss_curves",
    "map_figure",
    "panel_row",
    "pro_figure",
    "results_folder",
    "roc_figure",
    "save_figure",
    "score_by_defect",
    "score_histogram",
    "usage_figure",
    "write_results",
]
