"""One of several processes that train one detector.

Not torch's DistributedDataParallel: that wraps `forward`, which a detector's `loss` is not, and its
plain mean over processes is wrong for shares of unequal size.
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
    """The trainer of one of several processes: each has a share of every batch, and all take the
    step that one process would take with the whole of it."""

    def __init__(
        self,
        detector: Detector,
        features: FeatureSet,
        settings: TrainingSettings,
    ) -> None:
        if settings.batch_size < distributed.ranks():
            raise UserError(
                f"setting training.batch_size must be {distributed.ranks()} or more for as many "
                f"processes, which share each batch; got {settings.batch_size}; set it higher or "
                "start fewer."
            )
        super().__init__(detector, features, settings)

    def fit(self, on_epoch: OnEpoch) -> None:
        """As `Trainer.fit`; `on_epoch` is called on the first rank, while the others wait."""

        def on_first(epoch: int, metrics: dict[str, float]) -> None:
            with distributed.error_barrier():
                if distributed.rank() == 0:
                    on_epoch(epoch, metrics)

        super().fit(on_first)

    def _begin(self) -> None:
        """The first rank prepares, or has a state to go on from, and the others take it over."""

        def begun() -> dict[str, Any]:
            super(SharedTrainer, self)._begin()
            return {"images": self.images.fingerprint, "state": self.state()}

        first = distributed.from_rank_zero(begun)
        with distributed.error_barrier():
            if first["images"] != self.images.fingerprint:
                raise UserError(
                    "every process must train on the same images; this one has others; give all "
                    "machines the same data set and the same versions of libraries."
                )
            if distributed.rank():
                self.load(first["state"])

    def _batches(self, order: Sequence[int]) -> Iterator[Sample]:
        """This rank's shares of the batches of an epoch; of a last one too small to share, all."""
        size = self.settings.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        whole = batches.pop() if len(batches[-1]) < distributed.ranks() else []
        own = [index for batch in batches for index in distributed.shard(batch)]
        coming = chain(
            self._samples(own, len(distributed.shard(batches[0])) if batches else 0),
            self._samples(whole, len(whole)),
        )
        while True:
            with distributed.error_barrier():  # an image may be unreadable on one machine only
                sample = next(coming, None)
            if sample is None:
                return
            yield sample

    def _samples(self, order: Sequence[int], size: int) -> Iterator[Sample]:
        if order:
            yield from self.features.in_order(order, size)

    def _step(self, sample: Sample, images: int) -> tuple[dict[str, float], float]:
        with distributed.sharded_batch(images):
            return super()._step(sample, images)

    def _backward(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """The gradients and values of the losses of the whole batch: means, so shares weigh."""
        share = distributed.batch_weight()
        (losses["loss"] * share).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.detector.parameters() if p.grad is not None]
        values = torch.stack([value.detach().float() for value in losses.values()]) * share
        flat = torch.cat([values, *(gradient.flatten() for gradient in gradients)])
        sizes = [len(values), *(gradient.numel() for gradient in gradients)]
        parts = torch.split(distributed.sum_over_ranks(flat), sizes)
        for gradient, part in zip(gradients, parts[1:], strict=True):
            gradient.copy_(part.view(gradient.shape))
        return dict(zip(losses, parts[0].tolist(), strict=True))
