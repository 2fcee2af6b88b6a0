"""Training: the loop over epochs. It knows a detector, its images and one callback, no more."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.data import ImageSet
from vqlab.detectors import Detector
from vqlab.features import Backbone
from vqlab.types import Pyramid, UserError

OnEpoch = Callable[[int, dict[str, float]], None]


class TrainingSettings(Settings):
    """Section `training`: how long, how fast, on what."""

    epochs: int = Field(30, ge=0, le=100_000)
    steps_per_epoch: int | None = Field(None, ge=1)
    """Steps of an epoch, however many images there are; none: every image once."""
    batch_size: int = Field(8, ge=1, le=4096)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine` falls to 2 % of the learning rate at the last step."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient; none: not clipped."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: convolutions and matrix products by autocast; losses stay float32."""
    validate_every: int = Field(0, ge=0)
    """Epochs between validations while training; 0: once, after the last epoch."""
    select: Literal["last", "best_on_test"] = "last"
    """Which epoch's weights count. `best_on_test` is the papers' habit, only for reproducing their
    tables: its numbers are filed apart and the run cannot be promoted."""
    seed: int = Field(0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)
    """CPU threads; none: torch's own choice (all cores)."""


def choose_device(settings: TrainingSettings) -> torch.device:
    """The device asked for; `auto` takes CUDA where there is one. Sets the CPU threads."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise UserError(
            "setting training.device: cuda is not available here; set training.device=cpu or auto."
        )
    return torch.device("cuda" if there and settings.device != "cpu" else "cpu")


def seed_everything(*numbers: int) -> None:
    """Seed Python, numpy and torch from a tuple such as (seed, epoch)."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


class Pyramids:
    """The pyramids of a set of images, batch by batch; may be iterated any number of times."""

    def __init__(
        self, images: ImageSet, backbone: Backbone, device: torch.device, batch_size: int
    ) -> None:
        self.images, self.backbone, self.device = images, backbone, device
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Pyramid]:
        for batch in self.images.batches(self.batch_size):
            pyramid: Pyramid = self.backbone(batch.images.to(self.device))
            yield pyramid


class Trainer:
    """Fits a detector on normal images; may stop after any epoch and go on from `state()`.

    Every epoch draws its order and noise from (seed, epoch) alone, so a training resumed at an
    epoch's end takes the same steps as one never stopped: bit for bit on a CPU with the same
    number of threads.
    """

    def __init__(
        self,
        detector: Detector,
        backbone: Backbone,
        images: ImageSet,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.detector, self.backbone, self.images = detector, backbone, images
        self.settings, self.device = settings, device
        self.history: list[dict[str, float]] = []
        weights = [p for p in detector.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(weights, settings.learning_rate) if weights else None

    def fit(self, on_epoch: OnEpoch) -> None:
        """Train to the last epoch; `on_epoch(epoch, metrics)` after each, counted from 1.

        A detector without weights to learn is only prepared. Raises UserError where the loss is no
        longer a finite number.
        """
        if not self.history:
            seed_everything(self.settings.seed, 0)
            self.detector.prepare(Pyramids(self.images, self.backbone, self.device, 32))
        epochs = self.settings.epochs if self.optimizer else 0
        for epoch in range(len(self.history) + 1, epochs + 1):
            metrics = self._epoch(epoch)
            self.history.append(metrics)
            on_epoch(epoch, metrics)

    def _epoch(self, epoch: int) -> dict[str, float]:
        seed_everything(self.settings.seed, epoch)
        self.detector.train()
        order = self._order()
        totals: dict[str, float] = {}
        steps = math.ceil(len(order) / self.settings.batch_size)
        for step, batch in enumerate(self.images.batches(self.settings.batch_size, order)):
            rate = self._set_rate((epoch - 1) * steps + step, self.settings.epochs * steps)
            for name, value in self._step(self.backbone(batch.images.to(self.device))).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(batch) / len(order)
            if not math.isfinite(totals["loss"]):
                raise UserError(
                    f"training diverged: the loss is {totals['loss']} at epoch {epoch}, step "
                    f"{step + 1}; lower training.learning_rate (now {rate:g}) or set training.clip."
                )
        self.detector.eval()
        metrics = {f"train/{name}": value for name, value in totals.items()}
        return metrics | self.detector.health()

    def _order(self) -> list[int]:
        """The images of an epoch: a shuffled pass, or as many and as much as its steps take."""
        batch, steps = self.settings.batch_size, self.settings.steps_per_epoch
        wanted = len(self.images) if steps is None else steps * batch
        order: list[int] = []
        while len(order) < wanted:
            order += torch.randperm(len(self.images)).tolist()
        return order[:wanted]

    def _step(self, pyramid: Pyramid) -> dict[str, Tensor]:
        cast = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if cast else nullcontext():
            losses = self.detector.loss(pyramid)
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.detector.parameters(), self.settings.clip)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _set_rate(self, step: int, steps: int) -> float:
        rate = self.settings.learning_rate
        if self.settings.schedule == "cosine":
            rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / max(steps - 1, 1)))
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def state(self) -> dict[str, Any]:
        """All that going on needs: the detector's and the optimizer's state, the history."""
        return {
            "detector": self.detector.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "history": self.history,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.detector.load_state_dict(state["detector"])
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        self.history = list(state["history"])


def deterministic() -> None:
    """Ask torch for algorithms that give the same bits each time (cuBLAS needs the variable)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, but quick
