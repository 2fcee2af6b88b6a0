"""Data-parallel training of one detector by several processes.

torch's DistributedDataParallel wraps `forward`, not a detector's `loss`, and its plain mean over
ranks is wrong for shards of unequal size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from vqlab.detectors import Detector
from vqlab.features import FeatureSet
from vqlab.nn import distributed
from vqlab.training.loop import OnEpoch, Trainer
from vqlab.training.settings import TrainingSettings
from vqlab.types import Sample, UserError


class SharedTrainer(Trainer):
    """Trainer of one rank: it computes its shard of every batch, and all ranks take the step that a
    single process would take."""

    def __init__(
        self,
        detector: Detector,
        features: FeatureSet,
        settings: TrainingSettings,
    ) -> None:
        if settings.batch_size < distributed.ranks():
            raise UserError(
                f"setting training.batch_size must be at least the number of processes, "
                f"{distributed.ranks()}; got {settings.batch_size}; increase it or start fewer."
            )
        shapes = {features.images.input_shape(index) for index in range(len(features))}
        if len(shapes) > 1:
            raise UserError(
                "training by several processes needs images of one shape; with data.resize=aspect "
                f"they have {len(shapes)}; set data.resize=stretch or train with one process."
            )
        super().__init__(detector, features, settings)

    def fit(self, on_epoch: OnEpoch) -> None:
        """As `Trainer.fit`; `on_epoch` is called on rank 0 while the others wait."""

        def on_rank_zero(epoch: int, metrics: dict[str, float]) -> None:
            with distributed.error_barrier():
                if distributed.rank() == 0:
                    on_epoch(epoch, metrics)

        super().fit(on_rank_zero)

    def _begin(self) -> None:
        """Prepare or resume on rank 0 and copy its state to the other ranks."""

        def begin() -> dict[str, Any]:
            super(SharedTrainer, self)._begin()
            return {"images": self.images.fingerprint, "state": self.state()}

        first = distributed.from_rank_zero(begin)
        with distributed.error_barrier():
            if first["images"] != self.images.fingerprint:
                raise UserError(
                    "all processes must train on the same images; those of this process differ; "
                    "use the same dataset and library versions on all machines."
                )
            if distributed.rank():
                self.load(first["state"])

    def _batches(self, order: Sequence[int]) -> Iterator[list[Sample]]:
        """Yield this rank's shards of the batches of an epoch.

        A last batch with fewer images than ranks is not sharded.
        """
        size = self.settings.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        last = batches.pop() if len(batches[-1]) < distributed.ranks() else []
        shards = [index for batch in batches for index in distributed.shard(batch)]
        samples = chain(
            self._samples(shards, len(distributed.shard(batches[0])) if batches else 0),
            self._samples(last, len(last)),
        )
        while True:
            with distributed.error_barrier():  # an image may be unreadable on one machine
                parts = next(samples, None)
            if parts is None:
                return
            yield parts

    def _samples(self, order: Sequence[int], size: int) -> Iterator[list[Sample]]:
        if order:
            yield from self.features.grouped(order, size)

    def _step(self, parts: Sequence[Sample], images: int) -> tuple[dict[str, float], float]:
        with distributed.sharded_batch(images):
            return super()._step(parts, images)

    def _backward(self, losses: dict[str, Tensor], share: float) -> dict[str, float]:
        """Compute gradients and losses of the whole batch: means weighted by the shard sizes."""
        weight = distributed.batch_weight()
        (losses["loss"] * weight).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.detector.parameters() if p.grad is not None]
        values = torch.stack([value.detach().float() for value in losses.values()]) * weight
        flat = torch.cat([values, *(gradient.flatten() for gradient in gradients)])
        sizes = [len(values), *(gradient.numel() for gradient in gradients)]
        parts = torch.split(distributed.sum_over_ranks(flat), sizes)
        for gradient, part in zip(gradients, parts[1:], strict=True):
            gradient.copy_(part.view(gradient.shape))
        return dict(zip(losses, parts[0].tolist(), strict=True))
