"""Detectors, one per file. To add a detector, write a file `name.py` with `@register("name")` in
this folder; it is imported when the detector is first used."""

from __future__ import annotations

from vqlab.detectors.base import Detector, detector_class, names, register
from vqlab.detectors.capabilities import (
    Extracted,
    HasAlternatives,
    HasCodeMaps,
    HasNormalization,
    HasPanels,
    HasPrototypes,
    ImagePrototypes,
    LimitedByImages,
    Rescorable,
    Scorer,
    can_rescore,
    extract,
    scores,
)

__all__ = [
    "Detector",
    "Extracted",
    "HasAlternatives",
    "HasCodeMaps",
    "HasNormalization",
    "HasPanels",
    "LimitedByImages",
    "HasPrototypes",
    "ImagePrototypes",
    "Rescorable",
    "Scorer",
    "can_rescore",
    "detector_class",
    "extract",
    "names",
    "register",
    "scores",
]
