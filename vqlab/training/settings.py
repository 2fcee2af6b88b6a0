"""The settings of training, and what follows from them alone: device, seeds, learning rate."""

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
    """Section `training`: how long, how fast, on what."""

    epochs: int = Field(30, ge=0, le=100_000)
    steps_per_epoch: int | None = Field(None, ge=1)
    """Steps of an epoch, however many images there are; none: every image once."""
    batch_size: int = Field(8, ge=1, le=4096)
    drop_last: bool = False
    """Leave out an epoch's last batch where it is not full."""
    sampling: Literal["natural", "balanced"] = "natural"
    """`balanced`: an epoch, as long as it was, has as many images of each category."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(0.0, ge=0, le=1)
    """`adam` adds it, times the weights, to their gradient; `adamw` shrinks the weights by it."""
    warmup_steps: int = Field(0, ge=0)
    """First steps, at most half of all, in which the rate rises linearly to the schedule's."""
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    """`cosine` falls to 2 % of the learning rate at the last step; `steps` multiplies it by
    `gamma` after each epoch of `milestones`."""
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    gamma: float = Field(0.1, gt=0, lt=1)
    clip: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient; none: not clipped."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of a moving average of the weights, which is then what is validated and kept;
    early steps decay faster (t / (t + 10) at step t). None: the weights themselves."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: convolutions and matrix products by autocast; losses stay float32."""
    validate_every: int = Field(0, ge=0)
    """Epochs between validations while training; 0: once, after the last epoch."""
    select: Literal["last", "best_on_validation", "best_on_test"] = "last"
    """Which epoch's weights count. `best_on_validation`: of the epochs validated and the last, the
    one with the highest validation pixel AUROC. `best_on_test` is the papers' habit, only for
    reproducing their tables: its numbers are filed apart and the run cannot be promoted."""
    seed: int = Field(0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)
    """CPU threads; none: torch's own choice (all cores)."""

    @field_validator("milestones")
    @classmethod
    def _milestones_rise(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if list(milestones) != sorted(set(milestones)):
            raise ValueError("epochs must rise, each once")
        return milestones

    @model_validator(mode="after")
    def _fit_together(self) -> TrainingSettings:
        if self.schedule == "steps" and not self.milestones:
            raise ValueError(
                "schedule steps needs the epochs after which the rate falls; set "
                "training.milestones, e.g. [70, 90], or another training.schedule"
            )
        if self.milestones and self.schedule != "steps":
            raise ValueError(
                f"milestones are for schedule steps; got schedule {self.schedule}; set "
                "training.schedule=steps or training.milestones=[]"
            )
        if self.select == "best_on_validation" and not self.validate_every:
            raise ValueError(
                "select best_on_validation must validate while training; got validate_every 0; "
                "set training.validate_every=1 (epochs between validations) or more"
            )
        return self


def choose_device(settings: TrainingSettings) -> torch.device:
    """The device asked for; `auto` takes CUDA where there is one. Sets the CPU threads.

    Each of several processes on a machine has a CUDA device of its own.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise UserError(
            "setting training.device: cuda is not available here; set training.device=cpu or auto."
        )
    if not there or settings.device == "cpu":
        return torch.device("cpu")
    if distributed.ranks() == 1:
        return torch.device("cuda")
    own, count = distributed.local_rank(), torch.cuda.device_count()
    if own >= count:
        raise UserError(
            f"each process of a machine must have a CUDA device; this machine has {count} for "
            f"process {own + 1}; give torchrun --nproc-per-node={count}, or set "
            "training.device=cpu."
        )
    torch.cuda.set_device(own)
    return torch.device("cuda", own)


def learning_rate(settings: TrainingSettings, step: int, steps: int) -> float:
    """The rate of a step, counted from 0, of `steps` in the whole training."""
    rate = settings.learning_rate
    warmup = min(settings.warmup_steps, steps // 2)
    if settings.schedule == "cosine":
        done = max(step - warmup, 0) / max(steps - 1 - warmup, 1)
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
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
    """Ask torch for algorithms that give the same bits each time (cuBLAS needs the variable)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, but quick
