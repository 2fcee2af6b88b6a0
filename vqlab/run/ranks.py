"""Training by several processes: rank 0 logs the run, the others only train."""

from __future__ import annotations

from vqlab.data import load_dataset
from vqlab.run.calibration import make_trainer
from vqlab.run.limits import limit_settings
from vqlab.run.settings import RunConfig
from vqlab.training import SharedTrainer, choose_device


def train_on_rank(config: RunConfig) -> None:
    """Train as a rank other than 0: compute its shard of every batch."""
    config, splits = limit_settings(config, load_dataset(config.data))
    device = choose_device(config.training)
    trainer = make_trainer(config, splits, device, SharedTrainer)
    trainer.features.cached()
    trainer.fit(lambda epoch, metrics: None)
