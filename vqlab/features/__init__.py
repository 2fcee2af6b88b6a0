"""Features: a frozen backbone turns images into pyramids. `pixels` is the image itself."""

from vqlab.features.auto import choose_backbone
from vqlab.features.backbone import Backbone, unavailable_reason
from vqlab.features.cache import cached_features
from vqlab.features.engine import InferenceSettings
from vqlab.features.feature_set import FeatureSet
from vqlab.features.settings import AUTO, FeatureSettings
from vqlab.features.store import CachedRecords, CacheFile, cache_files, cache_folder, clear_cache

__all__ = [
    "AUTO",
    "Backbone",
    "InferenceSettings",
    "CacheFile",
    "CachedRecords",
    "FeatureSet",
    "FeatureSettings",
    "cache_files",
    "cache_folder",
    "cached_features",
    "choose_backbone",
    "clear_cache",
    "unavailable_reason",
]
