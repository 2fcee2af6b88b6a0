"""The `features` section of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from vqlab.config import Settings

PIXELS = "pixels"
FILTERS = "filters"
AUTO = "auto"
HUB = "hub"
RANDOM = "random"
BUILT_IN = (PIXELS, FILTERS)
"""Backbones without weights: `features.weights` says nothing of them."""


def _numbers(value: Any) -> Any:
    """`2,3` of a command line is the same as `[2, 3]`, and `2` as `[2]`."""
    if isinstance(value, str):
        return tuple(value.split(","))
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


def _home(value: Any) -> Any:
    """`~` is the home folder; a path may be given as such."""
    text = str(value) if isinstance(value, Path) else value
    return str(Path(text).expanduser()) if isinstance(text, str) and text[:1] == "~" else text


class FeatureSettings(Settings):
    """Section `features`: which frozen network looks at the images before the detector."""

    backbone: Annotated[str, Field(min_length=1)] = PIXELS
    """`pixels`: the image itself, a pyramid of one level. Otherwise a timm network that offers
    `features_only`, e.g. `resnet18`; `filters` is a built-in filter bank; `auto` is resnet18 if its
    weights are at hand, else `filters`."""
    levels: Annotated[tuple[int, ...] | None, BeforeValidator(_numbers)] = None
    """Which of the network's levels, by timm's number (`out_indices`), finest first; none: those
    of stride 8 and 16."""
    pool: Literal["none", "avg", "max"] = "none"
    """3x3 pooling of stride 2 on every level but the last, as VQ-Flow's authors do."""
    weights: Annotated[str, Field(min_length=1), BeforeValidator(_home)] = HUB
    """`hub`: timm's own, from the folder that the variable VQLAB_WEIGHTS names if a state dict of
    the backbone lies there, else from the hub's cache or the hub; `random`: untrained, from `seed`;
    else the path of a state dict (.pth, .safetensors), or of a folder of them, in which the
    backbone's name says which: `resnet18.pth`, or the only `resnet18_….pth`. What is built in has
    none."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Of random weights."""
    cache: bool = True
    """Keep features on disk (in half precision; folder: the variable VQLAB_CACHE, else
    ~/.cache/vqlab/features) so that each image is looked at once."""

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if levels is None:
            return None
        if not levels or min(levels) < 0 or list(levels) != sorted(set(levels)):
            raise ValueError("must be numbers from 0 up, each once, rising, e.g. [2, 3]")
        return levels

    @property
    def tags(self) -> dict[str, str]:
        """What a run says of its features: the backbone, and loudly where it is untrained."""
        tags = {"vqlab.backbone": self.backbone}
        if self.weights == RANDOM and self.backbone not in BUILT_IN:
            tags["vqlab.features"] = RANDOM
        return tags
