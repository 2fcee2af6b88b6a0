"""One level of a VQ-Flow: its condition from codes, its flow, the density of its latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.detectors.vqflow.settings import VQFlowSettings
from vqlab.nn.base_density import base_density
from vqlab.nn.flow import FusionFlow, LevelFlow
from vqlab.nn.hierarchy import PatternCodebook
from vqlab.nn.mlp import MLP
from vqlab.nn.patches import to_rows
from vqlab.nn.positions import sine_positions
from vqlab.nn.whitening import Whitening


class Described(NamedTuple):
    """What an image's codes say of one level's places."""

    condition: Tensor | None
    """(B, P, D), or none where nothing is to condition on."""
    pattern: Tensor | None
    """Indices of pattern codes, int64 (B, P)."""
    loss: Tensor
    """Commitment of the patterns, ()."""


class Condition(nn.Module):
    """[pattern; prototype] of one level's places, made the condition of a flow."""

    positions: Tensor

    def __init__(
        self, config: VQFlowSettings, spec: tuple[int, tuple[int, int]], top: int, known: int
    ) -> None:
        """spec: channels and size of the level; top: channels of the deepest level, 0 for itself;
        known: width of the prototype, 0 without."""
        super().__init__()
        channels, self.size = spec
        pattern = config.pattern
        encoding = sine_positions(*self.size, config.positions) if config.positions else None
        self.register_buffer(
            "positions",
            torch.zeros(self.size[0] * self.size[1], 0) if encoding is None else encoding,
            persistent=False,
        )
        self.patterns: PatternCodebook | None = None
        width = config.positions + known
        if pattern.kind != "none":
            dim = width if pattern.kind != "naive" and width else pattern.dim
            self.patterns = PatternCodebook(
                pattern.kind, pattern.codebook_size, dim, config.concept.codebook_size,
                quantise=config.quantise, commitment=config.commitment, decay=pattern.decay,
                restart=pattern.restart, init=pattern.init,
            )  # fmt: skip
            wide = pattern.encoder == "mlp"
            self.encoder = Encoder(channels, dim, top if wide else 0, wide)
            width = dim + known + (config.positions if pattern.kind == "naive" else 0)
        self.repeats_position = self.patterns is None or pattern.kind == "naive"
        narrow = config.flow.condition if width else 0
        self.project = nn.Sequential(nn.Linear(width, narrow), nn.ReLU()) if narrow else None
        self.width = narrow or width

    def forward(
        self, rows: Tensor, places: Tensor, concept: tuple[Tensor, Tensor] | None, top: Tensor
    ) -> Described:
        """Of rows (B, P, C) at places (B, P), given prototypes (B, D) with their indices (B,), and
        the deepest level (B, C', h', w')."""
        position = self.positions[places]
        vector = position[..., :0]
        if concept is not None:
            vector = concept[0][:, None].expand(-1, rows.shape[1], -1)
        parts, found, loss = [vector], None, rows.new_zeros(())
        if self.patterns is not None:
            encoded = self.encoder(rows, places, top, self.size)
            known = torch.cat([position, vector], 2)
            known = known if known.shape[2] else torch.zeros_like(encoded)
            group = concept[1] if concept is not None else places.new_zeros(len(places))
            pattern = self.patterns(encoded, known, group)
            found, loss = pattern.indices, pattern.loss
            parts.insert(0, pattern.codes)
        if self.repeats_position:
            parts.insert(0, position)
        condition = torch.cat(parts, 2)
        if self.project is not None:
            condition = self.project(condition)
        return Described(condition if self.width else None, found, loss)


class Encoder(nn.Module):
    """Whitened features of places (B, P, C), encoded for the pattern codebook (B, P, D)."""

    def __init__(self, channels: int, dim: int, top: int, wide: bool) -> None:
        super().__init__()
        self.own = MLP(channels, dim, dim) if wide else nn.Linear(channels, dim)
        self.top = MLP(top, dim) if top else None
        self.onto = nn.Linear(dim, dim) if top else None

    def forward(self, rows: Tensor, places: Tensor, top: Tensor, size: tuple[int, int]) -> Tensor:
        encoded: Tensor = self.own(rows.flatten(0, 1)).view(*rows.shape[:2], -1)
        if self.top is None or self.onto is None:
            return encoded
        above: Tensor = self.top(to_rows(top.float()))
        above = above.view(len(top), *top.shape[-2:], -1).movedim(-1, 1)
        above = F.interpolate(above.float(), size, mode="bilinear")
        from_above: Tensor = self.onto(rows_at(above, places))
        return encoded + from_above


class Level(nn.Module):
    """One level: its features whitened, a flow under a condition, the density of its latents."""

    def __init__(
        self,
        config: VQFlowSettings,
        spec: tuple[int, tuple[int, int]],
        top: int,
        known: int,
        number: int,
    ) -> None:
        super().__init__()
        self.channels, self.size = spec
        flow = config.flow
        self.kernel = flow.kernel
        blocks = flow.blocks[min(number, len(flow.blocks) - 1)]
        self.whitening = Whitening(self.channels, config.whitening, config.floor, config.dims)
        self.channels = self.whitening.dim
        self.condition = Condition(config, (self.channels, self.size), top, known)
        self.flow = LevelFlow(
            self.channels, self.condition.width, blocks=blocks,
            hidden=flow.hidden or self.channels // 2 + self.condition.width, kernel=flow.kernel,
            clamp=flow.clamp, mixing=flow.mixing, norm=flow.norm, seed=number,
        )  # fmt: skip
        self.base = base_density(
            config.base, self.channels, prototype_dim=max(known, 1),
            codebook_size=config.concept.codebook_size,
        )  # fmt: skip

    @property
    def places(self) -> int:
        return self.size[0] * self.size[1]


class Latents(NamedTuple):
    """What a flow makes of one level's places."""

    z: Tensor
    """(B, P, C)."""
    log_det: Tensor
    """(B, P), or (B,) over all places where the places are not independent."""
    described: Described


def flow_of(level: Level, rows: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """Latents (B, P, C) and log_det, (B, P) or (B,)."""
    if level.kernel == 1:
        flat = None if condition is None else condition.flatten(0, 1)
        z, log_det = level.flow(rows.flatten(0, 1), flat)
        return z.view_as(rows), log_det.view(rows.shape[:2])
    maps = None if condition is None else as_maps(condition, level.size)
    z, log_det = level.flow(as_maps(rows, level.size), maps)
    return z.flatten(2).mT, log_det


def fused(
    flow: FusionFlow,
    condition: Condition,
    latents: list[Latents],
    sizes: list[tuple[int, int]],
    top: Tensor,
    given: tuple[Tensor, Tensor] | None,
) -> list[Latents]:
    """The latents of levels of these sizes after the fusion flow, conditioned on the deepest level
    `top` (B, C, h, w) and concepts `given`; its log_det and loss go to the finest level's."""
    top = top.float()
    places = torch.arange(top.shape[-2] * top.shape[-1], device=top.device).expand(len(top), -1)
    above = condition(rows_at(top, places), places, given, top)
    conditions: tuple[Tensor, ...] = ()
    if above.condition is not None:
        conditions = (brought(as_maps(above.condition, condition.size), sizes[-1]),)
    maps = [as_maps(one.z, size) for one, size in zip(latents, sizes, strict=True)]
    after, log_det = flow(maps, conditions)
    found = []
    for number, (one, z) in enumerate(zip(latents, after, strict=True)):
        own = one.log_det.sum(1) if one.log_det.ndim == 2 else one.log_det
        described = one.described
        if number == 0:
            own = own + log_det
            described = described._replace(loss=described.loss + above.loss)
        found.append(Latents(z.flatten(2).mT, own, described))
    return found


def rows_at(maps: Tensor, places: Tensor) -> Tensor:
    """Rows (B, P, C) of maps (B, C, h, w) at places (B, P)."""
    flat = maps.flatten(2)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).mT


def as_maps(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Rows (B, h·w, C) of all places as maps (B, C, h, w)."""
    return rows.mT.reshape(len(rows), -1, *size)


def brought(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, M, h, w) brought to a size bilinearly."""
    return F.interpolate(maps, size, mode="bilinear")
