"""Score image files with a model: one row and picture per file, in bounded memory."""

from vqlab.predict.files import find_images
from vqlab.predict.load import load_model
from vqlab.predict.rows import (
    COLUMNS,
    UNREADABLE,
    PredictedFile,
    Predictions,
    file_path,
    file_text,
    read_rows,
)
from vqlab.predict.scoring import predict_files

__all__ = [
    "COLUMNS",
    "UNREADABLE",
    "PredictedFile",
    "Predictions",
    "file_path",
    "file_text",
    "find_images",
    "load_model",
    "predict_files",
    "read_rows",
]
