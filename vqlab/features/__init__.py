"""Features: a frozen backbone turns images into pyramids. `pixels` is the image itself."""

from vqlab.features.auto import choose_backbone
from vqlab.features.backbone import Backbone, missing
from vqlab.features.cache import kept_features
from vqlab.features.feature_set import FeatureSet
from vqlab.features.settings import AUTO, FeatureSettings
from vqlab.features.store import Kept, KeptFile, cache_folder, clear_files, kept_files

__all__ = [
    "AUTO",
    "Backbone",
    "FeatureSet",
    "FeatureSettings",
    "Kept",
    "KeptFile",
    "cache_folder",
    "choose_backbone",
    "clear_files",
    "kept_features",
    "kept_files",
    "missing",
]
