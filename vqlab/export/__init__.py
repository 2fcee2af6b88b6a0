"""Export a model to ONNX, TorchScript or OpenVINO, checked against the original.

A file holds backbone, detector, normalization and image score as one graph, and a description:
thresholds, preprocessing, provenance. `vqlab.runtime` scores images with it, without torch.
"""

from vqlab.export.bundle import write_bundle
from vqlab.export.description import describe
from vqlab.export.export import Exported, export_model
from vqlab.export.formats import FORMATS
from vqlab.export.parity import TOLERANCE, Parity, measure_parity

__all__ = [
    "FORMATS",
    "TOLERANCE",
    "Exported",
    "Parity",
    "describe",
    "export_model",
    "measure_parity",
    "write_bundle",
]
