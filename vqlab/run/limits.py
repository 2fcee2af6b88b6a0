"""Settings that must suit the number of training images."""

from __future__ import annotations

from dataclasses import replace

from vqlab.config import dump, flatten, validate
from vqlab.data import Splits
from vqlab.detectors import LimitedByImages, detector_class
from vqlab.run.settings import RunConfig


def limit_settings(config: RunConfig, splits: Splits) -> tuple[RunConfig, Splits]:
    """Return the settings that suit the number of training images, and the splits with a note on
    each changed setting."""
    name, images = config.detector["name"], len(splits.train.tiled())
    kind = detector_class(name)
    if not issubclass(kind, LimitedByImages):
        return config, splits
    tree = {key: value for key, value in config.detector.items() if key != "name"}
    settings = validate(kind.Config, tree, "detector.")
    limited = kind.limit(settings, images)
    if limited == settings:
        return config, splits
    before, after = flatten(dump(settings)), flatten(dump(limited))
    notes = [
        f"detector.{key} is {after[key]} instead of {before[key]}: there are only {images} "
        "training images."
        for key in before
        if before[key] != after[key]
    ]
    changed = config.model_copy(update={"detector": {"name": name, **dump(limited)}})
    return changed, replace(splits, notes=(*splits.notes, *notes))
