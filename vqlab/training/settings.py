"""Settings of training; device, seeds and learning rate."""

from __future__ import annotations

import math
import os
import random
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from vqlab.config import Settings
from vqlab.nn import distributed
from vqlab.types import UserError


class TrainingSettings(Settings):
    """Section `training`."""

    epochs: int = Field(30, ge=0, le=100_000)
    steps_per_epoch: int | None = Field(None, ge=1)
    """Steps per epoch; null: every image once."""
    batch_size: int = Field(8, ge=1, le=4096)
    drop_last: bool = False
    """Drop the last batch of an epoch if it is incomplete."""
    sampling: Literal["natural", "balanced"] = "natural"
    """`balanced`: the same number of images of each category; epochs keep their length."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(0.0, ge=0, le=1)
    """L2 penalty (`adam`) or decoupled weight decay (`adamw`)."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warmup, at most half of all steps."""
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    """`cosine` falls to 2 % of the learning rate at the last step; `steps` multiplies it by
    `gamma` after each epoch of `milestones`."""
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    gamma: float = Field(0.1, gt=0, lt=1)
    clip: float | None = Field(None, gt=0)
    """Maximum norm of the gradient; null: no clipping."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of a moving average of the weights, which is used for validation and the final
    model; t / (t + 10) if that is smaller at step t. Null: no average."""
    unseen_below: int = Field(0, ge=0)
    """With fewer training images than this, every 24th (at least three images, at most a sixth) is
    excluded from the training steps, and the terms of a score are standardised on these. A detector
    that overfits gives the images it has learned far lower scores than new ones. 0: train on all
    images."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast of convolutions and matrix products; losses are float32."""
    validate_every: int = Field(0, ge=0)
    """Epochs between validations during training; 0: validate after the last epoch only."""
    select: Literal["last", "best_on_validation", "best_on_test"] = "last"
    """Epoch whose weights are used. `best_on_validation`: the one with the highest validation pixel
    AUROC among the validated epochs and the last. `best_on_test`: only to reproduce published
    tables; its metrics have their own prefix and the run cannot be promoted."""
    seed: int = Field(0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)
    """CPU threads; null: torch's default (all cores)."""

    @field_validator("milestones")
    @classmethod
    def _check_milestones(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if list(milestones) != sorted(set(milestones)):
            raise ValueError("epochs must be distinct and in rising order")
        return milestones

    @model_validator(mode="after")
    def _check_combinations(self) -> TrainingSettings:
        if self.schedule == "steps" and not self.milestones:
            raise ValueError(
                "schedule steps needs the epochs after which the rate is reduced; set "
                "training.milestones, e.g. [70, 90], or another training.schedule"
            )
        if self.milestones and self.schedule != "steps":
            raise ValueError(
                f"milestones need schedule steps; got schedule {self.schedule}; set "
                "training.schedule=steps or training.milestones=[]"
            )
        if self.select == "best_on_validation" and not self.validate_every:
            raise ValueError(
                "select best_on_validation needs validation during training; got validate_every 0; "
                "set training.validate_every=1 (epochs between validations) or more"
            )
        return self


def choose_device(settings: TrainingSettings) -> torch.device:
    """Return the device of the settings (`auto`: CUDA if available); set the CPU threads.

    Each process on a machine has its own CUDA device.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise UserError(
            "setting training.device: CUDA is not available; set training.device=cpu or auto."
        )
    if not available or settings.device == "cpu":
        return torch.device("cpu")
    if distributed.ranks() == 1:
        return torch.device("cuda")
    index, count = distributed.local_rank(), torch.cuda.device_count()
    if index >= count:
        raise UserError(
            f"each process of a machine must have a CUDA device; this machine has {count} for "
            f"process {index + 1}; use torchrun --nproc-per-node={count}, or set "
            "training.device=cpu."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def learning_rate(settings: TrainingSettings, step: int, steps: int) -> float:
    """Return the learning rate at a step, from 0, of `steps` in the whole training."""
    rate = settings.learning_rate
    warmup = min(settings.warmup_steps, steps // 2)
    if settings.schedule == "cosine":
        progress = max(step - warmup, 0) / max(steps - 1 - warmup, 1)
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
    elif settings.schedule == "steps":
        epochs = step * settings.epochs // steps
        rate *= settings.gamma ** sum(milestone <= epochs for milestone in settings.milestones)
    return rate * min(1.0, (step + 1) / warmup) if warmup else rate


def seed_everything(*numbers: int) -> None:
    """Seed Python, numpy and torch from a tuple such as (seed, epoch)."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def deterministic() -> None:
    """Make torch use deterministic algorithms (cuBLAS needs the variable)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")  # faster than use_deterministic_algorithms
