"""The frozen network in front of the detector: images → pyramid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqlab.config import digest
from vqlab.errors import UserError
from vqlab.features.engine import Engine, build_engine
from vqlab.features.filters import FilterBank
from vqlab.features.joined import JoinedNetwork, check_weights, choose_parts, strides_of_parts
from vqlab.features.recording import Record, RecordedNetwork, fuse, record_network
from vqlab.features.settings import BUILT_IN, FILTERS, PIXELS, FeatureSettings
from vqlab.types import InputSpec, Pyramid

HALF = torch.finfo(torch.float16).max


def build_network(settings: FeatureSettings, image_size: int, bare: bool) -> nn.Module | None:
    """Return the network of the settings; None for `pixels`.

    It maps images (B, 3, S, S) in [0, 1] to the list of its chosen levels (B, C_l, h_l, w_l),
    finest first, and its whole state is its state dict. bare: without weights, for
    `load_state_dict`. Raises UserError for an invalid combination of backbone, levels, weights and
    image size.
    """
    if settings.backbone == PIXELS:
        return None
    if settings.joined:
        return _build_joined(settings, image_size, bare)
    if settings.backbone == FILTERS:
        return FilterBank(settings, image_size)
    from vqlab.features.timm_network import TimmNetwork  # timm takes seconds to import

    return TimmNetwork(settings, image_size, bare)


def _build_joined(settings: FeatureSettings, image_size: int, bare: bool) -> JoinedNetwork:
    parts = choose_parts(settings, image_size)
    if not bare:
        check_weights(settings)
    networks = [build_network(part.settings, image_size // part.shrink, bare) for part in parts]
    joined = JoinedNetwork([n for n in networks if n is not None], parts).eval()
    if not bare:
        joined.fit_scales(image_size)
    return joined


def unavailable_reason(settings: FeatureSettings, image_size: int) -> str:
    """Say why the backbone is not available on this machine; empty if it is.

    Weights that must be downloaded count as available if the hub answers; nothing is downloaded.
    Raises UserError for an unknown backbone.
    """
    if settings.joined:
        return _joined_unavailable_reason(settings, image_size)
    if settings.backbone in BUILT_IN:
        try:
            build_network(settings, image_size, bare=True)
        except UserError as error:
            return str(error)
        return ""
    from vqlab.features.timm_network import timm_unavailable_reason  # timm takes seconds to import

    return timm_unavailable_reason(settings, image_size)


def _joined_unavailable_reason(settings: FeatureSettings, image_size: int) -> str:
    strides_of_parts(settings)  # raises UserError for an unknown network
    try:
        parts = choose_parts(settings, image_size)
        check_weights(settings)
    except UserError as error:
        return str(error)
    reasons = (unavailable_reason(part.settings, image_size // part.shrink) for part in parts)
    return next((reason for reason in reasons if reason), "")


def _recorded(record: Mapping[str, Any], state: Mapping[str, Tensor]) -> RecordedNetwork | None:
    """Return the recorded network of a backbone; None if this version cannot run it."""
    prefix = "network."
    try:
        tensors = {key.removeprefix(prefix): value for key, value in state.items()}
        return RecordedNetwork(Record.model_validate(record), tensors)
    except (RecursionError, TypeError, ValueError):  # written by another version
        return None


class Backbone(nn.Module):
    """Images (B, 3, S, S) in [0, 1] → pyramid, float32; frozen.

    Values are rounded to half precision, so that cached and freshly extracted features are equal.
    On a CPU images are processed one at a time, so that features do not depend on batch mates, and
    chains of operations of a recordable network are fused (`vqlab.features.fused`), except in
    checkpoints of versions that did not.
    """

    def __init__(
        self,
        settings: FeatureSettings,
        image_size: int,
        state: Mapping[str, Tensor] | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """state: state dict to load instead of the weights that the settings name. record: with it,
        the result of `record` of the same network; timm is needed only if this version cannot run
        it.

        Raises UserError as `build_network`, and RuntimeError if the state dict does not fit.
        """
        super().__init__()
        self.settings, self.image_size = settings, image_size
        self.network: nn.Module | None = _recorded(record, state) if record and state else None
        if self.network is None:
            with torch.random.fork_rng(devices=[]):  # leave other random draws unchanged
                torch.manual_seed(settings.seed)
                self.network = build_network(settings, image_size, bare=state is not None)
        if state is not None:
            self.load_state_dict(dict(state))
        if state is None or (isinstance(record, Mapping) and record.get("fused")):
            self._fuse()
        self.requires_grad_(False).eval()
        self._engine: Engine | None = None
        self._specs: dict[tuple[int, int], InputSpec] = {}
        self.spec = self.spec_at((image_size, image_size))
        self.key = self._key()

    @property
    def cacheable(self) -> bool:
        """Whether its features are cached on disk, see `vqlab.features.cache`."""
        return self.network is not None and self.settings.cache

    @property
    def engine(self) -> str:
        """Name of the engine that runs the network."""
        return "torch" if self._engine is None else self._engine.name

    def record(self) -> dict[str, Any] | None:
        """Return the operations of the network as JSON values; None if it is built without timm, or
        cannot be recorded."""
        record = self._record()
        return None if record is None else record.model_dump(mode="json")

    def _record(self) -> Record | None:
        if isinstance(self.network, RecordedNetwork):
            return self.network.record
        if self.network is None or self.settings.joined or self.settings.backbone in BUILT_IN:
            return None
        return record_network(self.network.eval())

    def _fuse(self) -> None:
        """Replace a network by its fused record, if it can be recorded."""
        record = self._record()
        if self.network is not None and record is not None and not record.fused:
            state = self.network.state_dict()
            self.network = RecordedNetwork(fuse(record, state, self.image_size), state)

    def use_engine(self, name: str) -> None:
        """Run the network on the CPU with another engine; copies of the backbone use torch.

        Raises UserError as `build_engine`. Without effect on other devices and for `pixels`.
        """
        if self.network is not None and all(value.is_cpu for value in self.network.buffers()):
            self._engine = build_engine(name, self.network, self.image_size)

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: a frozen network has frozen batch norms."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Pyramid:
        if self.network is None:
            return (images,)
        with torch.autocast(images.device.type, enabled=False):
            if images.device.type != "cpu":
                return self._levels(images)
            each = [self._levels(image) for image in torch.split(images, 1)]
        return tuple(torch.cat(level) for level in zip(*each, strict=True))

    def _levels(self, images: Tensor) -> Pyramid:
        assert self.network is not None
        engine = self._engine if images.is_cpu else None
        network = self.network if engine is None else engine
        levels = [level.float() for level in network(images)]
        pool = self.settings.pool
        if pool != "none":
            pooled = functional.avg_pool2d if pool == "avg" else functional.max_pool2d
            levels = [*(pooled(level, 3, 2, 1) for level in levels[:-1]), levels[-1]]
        # Contiguous, as cached levels are: later sums may depend on the strides.
        return tuple(level.clamp(-HALF, HALF).half().contiguous().float() for level in levels)

    def spec_at(self, shape: tuple[int, int]) -> InputSpec:
        """Return the spec of images of this shape (H, W); `spec` is that of the square.

        Raises UserError if the network cannot take them.
        """
        if shape not in self._specs:
            self._specs[shape] = self._measure(shape)
        return self._specs[shape]

    def _measure(self, shape: tuple[int, int]) -> InputSpec:
        device = next((value.device for value in self.state_dict().values()), None)
        try:
            levels = self(torch.zeros(1, 3, *shape, device=device))
            sizes = tuple((level.shape[2], level.shape[3]) for level in levels)
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            square, reason = shape[0] == shape[1], " ".join(str(error).split())[:160]
            remedy = "choose another size or backbone" if square else "set data.resize=stretch"
            raise UserError(
                f"setting data.{'image_size' if square else 'resize'}: {self.settings.backbone} "
                f"cannot take images of {shape[0]} x {shape[1]} px ({reason}); {remedy}."
            ) from None
        return InputSpec(tuple(level.shape[1] for level in levels), sizes, shape)

    def _key(self) -> str:
        """Return the SHA-256 (hex) of weights, levels, pool, image size, and whether chains of
        operations are fused."""
        sha = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            sha.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            sha.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        levels = getattr(self.network, "levels", None)
        named: list[Any] = [self.settings.backbone, levels, self.settings.pool, self.image_size]
        if isinstance(self.network, RecordedNetwork) and self.network.record.fused:
            named.append("fused")
        return digest([*named, sha.hexdigest()])
