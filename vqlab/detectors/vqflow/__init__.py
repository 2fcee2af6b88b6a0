"""VQ-Flow: a conditional normalising flow of features with vector-quantised conditions."""

from vqlab.detectors.vqflow.detector import VQFlow
from vqlab.detectors.vqflow.settings import VQFlowSettings

__all__ = ["VQFlow", "VQFlowSettings"]
