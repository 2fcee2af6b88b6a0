"""Detectors: one file is one detector. Every module of this folder is imported here, so writing
a file with `@register("name")` is all it takes to add one."""

from __future__ import annotations

import importlib
import pkgutil

from vqlab.detectors.base import (
    Detector,
    ImagePrototypes,
    Reading,
    detector_class,
    names,
    register,
)

__all__ = ["Detector", "ImagePrototypes", "Reading", "detector_class", "names", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
