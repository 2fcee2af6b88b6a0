"""Move the image threshold of a trained model: choose an operating point without training."""

from vqlab.threshold.move import ThresholdMove, plan_move, save_move
from vqlab.threshold.targets import make_target

__all__ = ["ThresholdMove", "make_target", "plan_move", "save_move"]
