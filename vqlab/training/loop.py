"""The training loop: a detector, its features and one callback."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vqlab.detectors import Detector
from vqlab.features import Backbone, FeatureSet
from vqlab.malloc import keep_freed_memory
from vqlab.nn import distributed
from vqlab.nn.convolution import in_layout_of
from vqlab.training.calibration_images import stepped_indices
from vqlab.training.settings import TrainingSettings, learning_rate, seed_everything
from vqlab.types import Sample, UserError, indices_by_category

OnEpoch = Callable[[int, dict[str, float]], None]
T = TypeVar("T")


class Diverged(UserError):
    """The loss or its gradient is not finite. The weights are those before that step."""


class Trainer:
    """Fits a detector on normal images; may be resumed after any epoch from `state()`.

    The random numbers of an epoch depend on (seed, epoch) only, so that a resumed training equals
    an uninterrupted one, bit for bit on a CPU with the same number of threads.
    """

    def __init__(
        self,
        detector: Detector,
        features: FeatureSet,
        settings: TrainingSettings,
    ) -> None:
        self.detector, self.features, self.settings = detector, features, settings
        self.images, self.device = features.images, features.device
        self.indices = stepped_indices(features.images.records, settings.unseen_below)
        """Indices of the images of training steps; `Detector.prepare` is given all images."""
        self.history: list[dict[str, float]] = []
        self.selected: dict[str, Tensor] | None = None
        """Weights and buffers of the epoch selected by `select_epoch`."""
        weights = {name: p for name, p in detector.named_parameters() if p.requires_grad}
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = (
            kind(
                weights.values(),
                settings.learning_rate,
                weight_decay=settings.weight_decay,
                fused=True,
            )  # fmt: skip
            if weights
            else None
        )
        averaged = weights if settings.ema is not None else {}
        self._average = {name: p.detach().clone() for name, p in averaged.items()}
        if weights and settings.epochs:
            self._length()  # raises if there are no batches

    @property
    def untrained(self) -> bool:
        """Whether the detector has trainable weights, which keep their initial values."""
        return self.optimizer is not None and not self.settings.epochs

    @property
    def backbone(self) -> Backbone:
        """The frozen network in front of the detector."""
        assert isinstance(self.features.backbone, Backbone)
        return self.features.backbone

    def fit(self, on_epoch: OnEpoch) -> None:
        """Train to the last epoch; call `on_epoch(epoch, metrics)` after each, from 1.

        A detector without trainable weights is only prepared. Afterwards the detector has the
        selected weights, else the averaged ones, else the last. Raises Diverged.
        """
        keep_freed_memory()
        self._begin()
        epochs = self.settings.epochs if self.optimizer else 0
        for epoch in range(len(self.history) + 1, epochs + 1):
            metrics = self._epoch(epoch)
            self.history.append(metrics)
            on_epoch(epoch, metrics)
        if self.selected is not None:
            self.detector.load_state_dict(self.selected)
        elif self.history:
            self._put_average(self.detector)
        seed_everything(self.settings.seed, epochs + 1)  # independent of resuming

    def averaged_copy(self) -> Detector:
        """Return a copy of the detector, with averaged weights if there are any."""
        copied = deepcopy(self.detector)
        self._put_average(copied)
        return copied

    def select_epoch(self) -> None:
        """Select the current weights for the end of training, unless a later call replaces them."""
        self.selected = {name: t.clone() for name, t in self.averaged_copy().state_dict().items()}

    def _begin(self) -> None:
        """Prepare the detector if training is not resumed."""
        if not self.history:
            seed_everything(self.settings.seed, 0)
            self.detector.prepare(FeatureSet(self.images, self.backbone, self.device, 32))

    def _batches(self, order: Sequence[int]) -> Iterator[list[Sample]]:
        """Yield the batches of an epoch, each in parts of equal image shape."""
        return self.features.grouped(order, self.settings.batch_size)

    def _epoch(self, epoch: int) -> dict[str, float]:
        seed_everything(self.settings.seed, epoch)
        self.detector.train()
        order = self._order()
        totals: dict[str, float] = {}
        clip = self.settings.clip
        gradient = {"gradient_norm": 0.0} | ({} if clip is None else {"clipped": 0.0})
        size = self.settings.batch_size
        steps = math.ceil(len(order) / size)
        for step, parts in enumerate(self._batches(order)):
            images = min(size, len(order) - step * size)
            total_step = (epoch - 1) * steps + step
            self._set_rate(total_step, self.settings.epochs * steps)
            values, norm = self._step(parts, images)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value * images / len(order)
            gradient["gradient_norm"] += norm / steps
            if clip is not None:
                gradient["clipped"] += (norm > clip) / steps
            for name, value in (("loss", values["loss"]), ("gradient's norm", norm)):
                if not math.isfinite(value):
                    raise self._diverged(f"the {name} is {value} at epoch {epoch}, step {step + 1}")
            self._update_average(total_step)
        self.detector.eval()
        totals |= gradient | distributed.from_rank_zero(self._unseen_losses)
        metrics = {f"train/{name}": value for name, value in totals.items()}
        return metrics | self.detector.health()

    @torch.no_grad()
    def _unseen_losses(self) -> dict[str, float]:
        """Return the loss (of a flow its `nll`) of the images that the steps exclude, `unseen_…`,
        and of as many others, `seen_…`; empty if the steps use all images.

        Both are computed in evaluation mode, without noise, to be comparable. A copy of the
        detector, with averaged weights if there are any, leaves buffers as they are.
        """
        stepped = set(self.indices)
        unseen = [index for index in range(len(self.images)) if index not in stepped]
        if not unseen:
            return {}
        copied = self.averaged_copy()
        seen = self.indices[:: max(1, len(self.indices) // len(unseen))][: len(unseen)]
        losses: dict[str, float] = {}
        for kind, indices in (("unseen", unseen), ("seen", seen)):
            for sample in self.features.in_order(indices, self.settings.batch_size):
                values = copied.loss(sample)
                name = "nll" if "nll" in values else "loss"
                share = len(sample) / len(indices)
                key = f"{kind}_{name}"
                losses[key] = losses.get(key, 0.0) + share * float(values[name])
        return losses

    def _diverged(self, reason: str) -> Diverged:
        clip = self.settings.clip
        remedy = "set training.clip" if clip is None else f"training.clip (now {clip:g})"
        return Diverged(
            f"training diverged: {reason}; lower training.learning_rate (now "
            f"{self.settings.learning_rate:g}) or {remedy}."
        )

    def _length(self) -> int:
        """Return the number of images of an epoch, counting repetitions."""
        batch, steps = self.settings.batch_size, self.settings.steps_per_epoch
        length = len(self.indices) if steps is None else steps * batch
        if self.settings.drop_last:
            length -= length % batch
        if not length:
            raise UserError(
                f"setting training.drop_last leaves no batch of {len(self.indices)} images in "
                f"batches of {batch}; set training.batch_size={len(self.indices)} or less, or "
                "training.drop_last=false."
            )
        return length

    def _order(self) -> list[int]:
        """Return the image indices of an epoch: shuffled passes, balanced by category if set."""
        length = self._length()
        if self.settings.sampling == "natural":
            return _shuffled(self.indices, length)
        records = self.images.records
        groups = indices_by_category([records[index] for index in self.indices])
        each, more = divmod(length, len(groups))
        order: list[int] = []
        for number, name in enumerate(_shuffled(sorted(groups), len(groups))):
            places = _shuffled(groups[name], each + (number < more))
            order += [self.indices[place] for place in places]
        return _shuffled(order, length)

    def _step(self, parts: Sequence[Sample], images: int) -> tuple[dict[str, float], float]:
        """Return the losses of a batch and the norm of the gradient before clipping.

        The weights are not updated if either is not finite.
        """
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        values: dict[str, float] = {}
        total = sum(map(len, parts))
        for part in parts:  # one after the other: a loss may update codebooks in place
            share = len(part) / total
            losses = self._losses(part, images if len(parts) == 1 else len(part))
            for name, value in self._backward(losses, share).items():
                values[name] = values.get(name, 0.0) + share * value
        weights = [p for p in self.detector.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
        if self.settings.clip is not None:
            nn.utils.clip_grads_with_norm_(weights, self.settings.clip, norm)
        if math.isfinite(values["loss"]) and math.isfinite(norm):
            self.optimizer.step()
        return values, float(norm)

    def _backward(self, losses: dict[str, Tensor], share: float) -> dict[str, float]:
        """Add the gradients of `share` times the loss; return the values of the losses."""
        (share * losses["loss"]).backward()  # type: ignore[no-untyped-call]
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, sample: Sample, images: int) -> dict[str, Tensor]:
        cast = self.settings.precision == "bfloat16"
        try:
            with torch.autocast(self.device.type, torch.bfloat16) if cast else nullcontext():
                return self.detector.loss(sample)
        except ValueError:
            normed = any(isinstance(m, _BatchNorm) for m in self.detector.modules())
            if images > 1 or not normed:
                raise
            raise UserError(
                "a batch must have at least two images of a shape since the detector uses batch "
                f"norm; got one ({len(self.indices)} images in batches of "
                f"{self.settings.batch_size}); set training.drop_last=true or another "
                "training.batch_size."
            ) from None

    def _set_rate(self, step: int, steps: int) -> None:
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step, steps)

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        if self._average:
            decay = min(self.settings.ema or 0.0, step / (step + 10))
            weights = dict(self.detector.named_parameters())
            for name, average in self._average.items():
                average.lerp_(weights[name], 1 - decay)

    @torch.no_grad()
    def _put_average(self, detector: Detector) -> None:
        weights = dict(detector.named_parameters())
        for name, average in self._average.items():
            weights[name].copy_(average)

    def state(self) -> dict[str, Any]:
        """Return the state to resume from: detector, optimizer, weights, history, backbone key."""
        return {
            "detector": self.detector.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "average": self._average,
            "kept": self.selected,
            "history": self.history,
            "backbone": self.backbone.key if self.backbone.network is not None else None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned. Raises UserError if the backbone differs."""
        if state.get("backbone") != self.state()["backbone"]:
            raise UserError(
                "training must be resumed with the same backbone; its weights differ; restore "
                "features.weights."
            )
        self.detector.load_state_dict(state["detector"])
        if self.optimizer:
            self._load_moments(state["optimizer"])
        for name, average in self._average.items():
            average.copy_(in_layout_of(average, state["average"][name]))
        self.selected = state.get("kept")
        self.history = list(state["history"])

    def _load_moments(self, state: dict[str, Any]) -> None:
        """Restore the state of the optimizer, which earlier versions wrote in other layouts.

        Moments get the strides of their weight, which files do not store: the fused optimizer reads
        both in the order of memory.
        """
        assert self.optimizer is not None
        groups = [group | {"fused": True} for group in state["param_groups"]]
        self.optimizer.load_state_dict(state | {"param_groups": groups})
        for weight, moments in self.optimizer.state.items():
            for name, moment in moments.items():
                if moment.ndim:
                    same_strides = torch.empty_like(weight)
                    moments[name] = same_strides.copy_(in_layout_of(weight, moment))


def _shuffled(items: Sequence[T], count: int) -> list[T]:
    """Return `count` items from shuffled passes over all, by torch's seed."""
    order: list[int] = []
    while len(order) < count:
        order += torch.randperm(len(items)).tolist()
    return [items[index] for index in order[:count]]
