"""Train a detector, in one process or in several."""

from vqlab.training.calibration_images import calibration_indices
from vqlab.training.distributed import SharedTrainer
from vqlab.training.loop import Diverged, Trainer
from vqlab.training.settings import (
    TrainingSettings,
    choose_device,
    deterministic,
    learning_rate,
    seed_everything,
)

__all__ = [
    "Diverged",
    "SharedTrainer",
    "Trainer",
    "TrainingSettings",
    "calibration_indices",
    "choose_device",
    "deterministic",
    "learning_rate",
    "seed_everything",
]
