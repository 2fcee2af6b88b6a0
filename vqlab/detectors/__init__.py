"""Detectors: one file is one detector. Every module of this folder is imported here, so writing
a file with `@register("name")` is all it takes to add one."""

from __future__ import annotations

import importlib
import pkgutil

from vqlab.detectors.base import Detector, detector_class, names, register
from vqlab.detectors.capabilities import (
    Extracted,
    HasAlternatives,
    HasCodeMaps,
    HasNormalization,
    HasPanels,
    HasPrototypes,
    ImagePrototypes,
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

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
