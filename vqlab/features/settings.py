"""The `features` section of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from vqlab.config import Settings
from vqlab.errors import UserError

PIXELS = "pixels"
FILTERS = "filters"
AUTO = "auto"
HUB = "hub"
RANDOM = "random"
BUILT_IN = (PIXELS, FILTERS)
"""Backbones without weights: `features.weights` is ignored."""

SIZES = {"0.5": 2, "0.25": 4}
"""Sizes of a network's input relative to the image, and the factors by which it is smaller."""


def _numbers(value: Any) -> Any:
    """Convert `2,3` and `2` of a command line to (2, 3) and (2,)."""
    if isinstance(value, str):
        return tuple(value.split(","))
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


def _home(value: Any) -> Any:
    """Convert a path to text, with `~` expanded."""
    text = str(value) if isinstance(value, Path) else value
    return str(Path(text).expanduser()) if isinstance(text, str) and text[:1] == "~" else text


class FeatureSettings(Settings):
    """Section `features`: the frozen network in front of the detector."""

    backbone: Annotated[str, Field(min_length=1)] = PIXELS
    """`pixels`: the image itself, a pyramid of one level; `filters`: a built-in filter bank;
    `auto`: resnet18 if its weights are available, else `filters`; otherwise a timm network that
    supports `features_only`, e.g. `resnet18`. Several joined by `+` run on the same image and their
    levels of equal stride are concatenated, e.g. `resnet18+mobilenetv2_100`; `resnet18@0.5` runs on
    the image at half its size (or `@0.25`)."""
    levels: Annotated[tuple[int, ...] | None, BeforeValidator(_numbers)] = None
    """Levels of the network (timm's `out_indices`), finest first; null: those of stride 8 and 16.
    Of several networks: levels of the first one; the others have their last levels of the same
    strides."""
    pool: Literal["none", "avg", "max"] = "none"
    """3x3 pooling of stride 2 on every level but the last, as in VQ-Flow."""
    weights: Annotated[str, Field(min_length=1), BeforeValidator(_home)] = HUB
    """`hub`: timm's weights, from the folder VQLAB_WEIGHTS if it has a state dict of the backbone,
    else from the hub's cache or the hub; `random`: untrained, from `seed`; else the path of a state
    dict (.pth, .safetensors), or of a folder with `<backbone>.pth` or a single `<backbone>_….pth`;
    for several networks a folder."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of random weights."""
    cache: bool = True
    """Cache features on disk in half precision, in the folder VQLAB_CACHE or
    ~/.cache/vqlab/features."""

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if levels is None:
            return None
        if not levels or min(levels) < 0 or list(levels) != sorted(set(levels)):
            raise ValueError("must be distinct numbers from 0, in rising order, e.g. [2, 3]")
        return levels

    @field_validator("backbone")
    @classmethod
    def _joinable(cls, backbone: str) -> str:
        parts = backbone.split("+")
        alone = [name for name in (PIXELS, AUTO) if name in map(_name, parts) and backbone != name]
        if alone:
            raise ValueError(f"{alone[0]} must be the only backbone, at full size")
        if not all(map(_name, parts)) or len(set(parts)) < len(parts):
            raise ValueError(
                "must be one network, or different networks joined by +, e.g. "
                "resnet18+mobilenetv2_100"
            )
        for part in parts:
            split_part(part)
        return backbone

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the networks with their input sizes, e.g. `resnet18`, `resnet18@0.5`."""
        return tuple(self.backbone.split("+"))

    @property
    def joined(self) -> bool:
        """Whether the pyramid is that of `JoinedNetwork`."""
        return len(self.parts) > 1 or "@" in self.backbone

    @property
    def tags(self) -> dict[str, str]:
        """Tags of a run: the backbone, and whether it is untrained."""
        tags = {"vqlab.backbone": self.backbone}
        if self.weights == RANDOM and not set(map(_name, self.parts)) <= set(BUILT_IN):
            tags["vqlab.features"] = RANDOM
        return tags


def split_part(part: str) -> tuple[str, int]:
    """Return the name of a network and the factor by which its input is smaller than the image.

    `resnet18@0.5` → `resnet18`, 2. Raises ValueError for another size than those of `SIZES`.
    """
    name, at, size = part.partition("@")
    if at and size not in SIZES:
        raise ValueError(f"the size after @ must be {' or '.join(SIZES)}")
    return name, SIZES.get(size, 1)


def _name(part: str) -> str:
    return part.partition("@")[0]


def check_stride(backbone: str, level: int, stride: int, image_size: int) -> None:
    """Raise UserError if the image size is not a multiple of the stride of the deepest level."""
    if image_size % stride:
        below = image_size // stride * stride
        raise UserError(
            f"setting data.image_size: must be a multiple of {stride}, the stride of {backbone} at "
            f"level {level}; got {image_size}; the nearest are {below} and {below + stride}."
        )
