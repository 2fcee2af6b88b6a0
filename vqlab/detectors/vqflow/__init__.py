"""VQ-Flow: a flow of features conditioned on codes of the image and of each place."""

from vqlab.detectors.vqflow.detector import VQFlow
from vqlab.detectors.vqflow.settings import VQFlowSettings

__all__ = ["VQFlow", "VQFlowSettings"]
