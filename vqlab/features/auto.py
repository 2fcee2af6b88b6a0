"""The backbone `auto`: resnet18 if its weights are available, else the built-in filters."""

from __future__ import annotations

import os
from functools import lru_cache

from huggingface_hub import constants as hub

from vqlab.features.backbone import unavailable_reason
from vqlab.features.settings import AUTO, FILTERS, FeatureSettings
from vqlab.features.state_dict import WEIGHTS_FOLDER

PREFERRED = "resnet18"


def choose_backbone(settings: FeatureSettings, image_size: int) -> FeatureSettings:
    """Return the settings with the backbone `auto` replaced by an available one.

    Raises UserError for unsuitable levels or an unsuitable image size.
    """
    if settings.backbone != AUTO:
        return settings
    preferred = settings.model_copy(update={"backbone": PREFERRED})
    sources = (os.environ.get(WEIGHTS_FOLDER), hub.HF_HUB_CACHE, hub.HF_HUB_OFFLINE)
    unavailable = _unavailable_reason(preferred, image_size, sources)
    return settings.model_copy(update={"backbone": FILTERS}) if unavailable else preferred


@lru_cache
def _unavailable_reason(
    settings: FeatureSettings, image_size: int, sources: tuple[object, ...]
) -> str:
    """Cache `unavailable_reason` per `sources`: the hub may take seconds to answer."""
    return unavailable_reason(settings, image_size)
