"""A model: detector, backbone, preprocessing and thresholds. A checkpoint contains one model."""

from vqlab.model.model import Model, build_detector
from vqlab.model.prediction import Prediction

__all__ = ["Model", "Prediction", "build_detector"]
