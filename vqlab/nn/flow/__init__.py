"""Conditional normalising flows: invertible maps of features whose log-determinant is known.

`LevelFlow` takes one level of a pyramid, row by row or as maps; `FusionFlow` lets the latents of
all levels see each other. Both start training as a rotation at most, and log_det of `inverse` is
minus that of `forward` there. With a density of `vqlab.nn.base_density` on the latents,
log p(x) = log p(z) + log_det. Built of FrEIA's invertible modules; the only room that imports it.
"""

from vqlab.nn.flow.blocks import ActNorm, Coupling, Mixing, MixingName
from vqlab.nn.flow.fusion import FusionFlow
from vqlab.nn.flow.level import LevelFlow

__all__ = ["ActNorm", "Coupling", "FusionFlow", "LevelFlow", "Mixing", "MixingName"]
