"""Conditional normalising flows: invertible maps of features with known log-determinants.

`LevelFlow` transforms one level of a pyramid, `FusionFlow` couples the latents of all levels. With
a density p(z) of the latents (`vqlab.nn.base_density`), log p(x) = log p(z) + log_det. The only
package that imports FrEIA.
"""

from vqlab.nn.flow.blocks import (
    ActNorm,
    Coupling,
    CouplingName,
    CouplingOptions,
    Mixing,
    MixingName,
)
from vqlab.nn.flow.fusion import FusionFlow
from vqlab.nn.flow.level import LevelFlow

__all__ = [
    "ActNorm",
    "Coupling",
    "CouplingName",
    "CouplingOptions",
    "FusionFlow",
    "LevelFlow",
    "Mixing",
    "MixingName",
]
