"""Score image files with a model: one row and picture per file, in bounded memory."""

from vqlab.predict.load import load_model
from vqlab.predict.rows import PredictedFile, Predictions, read_rows
from vqlab.predict.scoring import predict_files

__all__ = ["PredictedFile", "Predictions", "load_model", "predict_files", "read_rows"]
