"""A run by several processes: the first tells its story, the others train along."""

from __future__ import annotations

from vqlab.data import load_dataset
from vqlab.run.calibration import make_trainer
from vqlab.run.settings import RunConfig
from vqlab.training import SharedTrainer, choose_device


def train_along(config: RunConfig) -> None:
    """What every process but the first does in a run: its share of every batch, nothing else."""
    splits = load_dataset(config.data)
    device = choose_device(config.training)
    trainer = make_trainer(config, splits, device, SharedTrainer)
    trainer.features.cached()
    trainer.fit(lambda epoch, metrics: None)
