"""The backbone `auto`: the first choice if its weights are at hand, else the built-in filters."""

from __future__ import annotations

import os
from functools import lru_cache

from huggingface_hub import constants as hub

from vqlab.features.backbone import missing
from vqlab.features.settings import AUTO, FILTERS, FeatureSettings
from vqlab.features.state_dict import WEIGHTS_FOLDER

PREFERRED = "resnet18"
"""What `auto` stands for if its weights are at hand."""


def choose_backbone(settings: FeatureSettings, image_size: int) -> FeatureSettings:
    """Return the settings with the backbone `auto` replaced by the name of one that is at hand.

    Raises UserError for levels or an image size that do not fit.
    """
    if settings.backbone != AUTO:
        return settings
    preferred = settings.model_copy(update={"backbone": PREFERRED})
    places = (os.environ.get(WEIGHTS_FOLDER), hub.HF_HUB_CACHE, hub.HF_HUB_OFFLINE)
    unavailable = _missing(preferred, image_size, places)
    return settings.model_copy(update={"backbone": FILTERS}) if unavailable else preferred


@lru_cache
def _missing(settings: FeatureSettings, image_size: int, places: tuple[object, ...]) -> str:
    """As `missing`, asked once per process and `places`: the hub may take seconds to answer."""
    return missing(settings, image_size)
