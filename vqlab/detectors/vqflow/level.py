"""One level of VQ-Flow: its condition from codes, its flow, the density of its latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.detectors.vqflow.settings import VQFlowSettings
from vqlab.nn.base_density import base_density
from vqlab.nn.flow import FusionFlow, LevelFlow
from vqlab.nn.hierarchy import ConceptCodes, PatternCodebook
from vqlab.nn.mlp import MLP
from vqlab.nn.patches import to_rows
from vqlab.nn.positions import sine_positions
from vqlab.nn.whitening import Whitening


class ConditionOutput(NamedTuple):
    """The condition of a flow at P positions of one level."""

    vectors: Tensor | None
    """(B, P, D); None if there is nothing to condition on."""
    constant: Tensor | None
    """(B, D'): further dimensions, equal at all positions, that a 3 × 3 flow takes separately."""
    pattern: Tensor | None
    """Indices of pattern codes, int64 (B, P)."""
    loss: Tensor
    """Commitment loss of the patterns, ()."""


class Condition(nn.Module):
    """Condition [position; pattern; prototype] of one level, optionally projected."""

    def __init__(
        self,
        config: VQFlowSettings,
        spec: tuple[int, tuple[int, int]],
        top: int,
        prototype_dim: int,
    ) -> None:
        """spec: channels and size of the level; top: channels of the deepest level, 0 if it is this
        one; prototype_dim: 0 without concepts."""
        super().__init__()
        channels, size = spec
        pattern, width = config.pattern, config.positions
        self.encoding = PositionEncoding(width, size)
        self.patterns: PatternCodebook | None = None
        context = width + prototype_dim
        self.adds_position = pattern.kind in ("none", "naive")
        if pattern.kind != "none":
            dim = context if pattern.kind != "naive" and context else pattern.dim
            self.patterns = PatternCodebook(
                pattern.kind, pattern.codebook_size, dim, config.concept.codebook_size,
                config.codebook_options(pattern), quantise=config.quantise,
            )  # fmt: skip
            mlp = pattern.encoder == "mlp"
            self.encoder = Encoder(channels, dim, top if mlp else 0, mlp)
            context = dim + prototype_dim + (width if self.adds_position else 0)
        projected = config.flow.condition if context else 0
        self.project = (
            nn.Sequential(nn.Linear(context, projected), nn.ReLU()) if projected else None
        )
        self.width = projected or context
        self.separate = config.flow.kernel == 3 and self.patterns is not None and not projected
        """Whether the prototype is returned as `constant`."""

    def forward(
        self,
        rows: Tensor,
        positions: Tensor,
        concept: ConceptCodes | None,
        top: Tensor,
        size: tuple[int, int],
    ) -> ConditionOutput:
        """Return the condition of rows (B, P, C) at these positions (B, P).

        concept: of the images (B,); top: the deepest level (B, C', h', w'); size: (h, w) of the
        level.
        """
        position = self.encoding(size)[positions]
        prototype = position[..., :0]
        if concept is not None:
            prototype = concept.vectors[:, None].expand(-1, rows.shape[1], -1)
        parts, indices, loss = [prototype], None, rows.new_zeros(())
        if self.patterns is not None:
            encoded = self.encoder(rows, positions, top, size)
            context = torch.cat([position, prototype], 2)
            context = context if context.shape[2] else torch.zeros_like(encoded)
            group = positions.new_zeros(len(positions)) if concept is None else concept.indices
            codes, indices, loss = self.patterns(encoded, context, group)
            parts.insert(0, codes)
        if self.adds_position:
            parts.insert(0, position)
        constant = None
        if self.separate and concept is not None:
            parts.pop()
            constant = concept.vectors
        vectors = torch.cat(parts, 2)
        if self.project is not None:
            vectors = self.project(vectors)
        return ConditionOutput(vectors if self.width else None, constant, indices, loss)


class PositionEncoding(nn.Module):
    """Sinusoidal encoding of the positions of maps of any size."""

    table: Tensor

    def __init__(self, width: int, size: tuple[int, int]) -> None:
        """width: of the encoding, 0 for none; size: (h, w) of most maps."""
        super().__init__()
        self.width, self.size = width, size
        self.register_buffer("table", self._encode(size), persistent=False)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Return the encoding (h · w, width) of the positions of maps of this size (h, w)."""
        return self.table if size == self.size else self._encode(size).to(self.table)

    def _encode(self, size: tuple[int, int]) -> Tensor:
        return (
            sine_positions(*size, self.width) if self.width else torch.zeros(size[0] * size[1], 0)
        )


class Encoder(nn.Module):
    """Encode whitened features (B, P, C) for the pattern codebook, (B, P, D)."""

    def __init__(self, channels: int, dim: int, top: int, mlp: bool) -> None:
        super().__init__()
        self.own = MLP(channels, dim, dim) if mlp else nn.Linear(channels, dim)
        self.top = MLP(top, dim) if top else None
        self.onto = nn.Linear(dim, dim) if top else None

    def forward(
        self, rows: Tensor, positions: Tensor, top: Tensor, size: tuple[int, int]
    ) -> Tensor:
        encoded: Tensor = self.own(rows.flatten(0, 1)).view(*rows.shape[:2], -1)
        if self.top is None or self.onto is None:
            return encoded
        above: Tensor = self.top(to_rows(top.float()))
        above = above.view(len(top), *top.shape[-2:], -1).movedim(-1, 1)
        above = resize(above.float(), size)
        projected: Tensor = self.onto(rows_at(above, positions))
        return encoded + projected


class Level(nn.Module):
    """One level: whitening, condition, conditional flow, and density of the latents."""

    def __init__(
        self,
        config: VQFlowSettings,
        spec: tuple[int, tuple[int, int]],
        top: int,
        prototype_dim: int,
        number: int,
    ) -> None:
        """Parameters as of `Condition`; number: of the level, from 0 (finest)."""
        super().__init__()
        channels, self.size = spec
        flow = config.flow
        self.kernel = flow.kernel
        self.whitening = Whitening(channels, config.whitening, config.floor, config.dims)
        self.channels = self.whitening.dim
        self.condition = Condition(config, (self.channels, self.size), top, prototype_dim)
        self.flow = LevelFlow(
            self.channels,
            self.condition.width,
            flow.coupling_options(flow.hidden or self.channels // 2 + self.condition.width),
            blocks=flow.blocks[min(number, len(flow.blocks) - 1)],
            mixing=flow.mixing,
            seed=number,
        )
        self.base = base_density(
            config.base, self.channels, prototype_dim=max(prototype_dim, 1),
            codebook_size=config.concept.codebook_size, components=config.components,
        )  # fmt: skip


class Latents(NamedTuple):
    """Latents of one level."""

    z: Tensor
    """(B, P, C)."""
    log_det: Tensor
    """(B, P), or (B,) summed over positions that are not independent."""
    pattern: Tensor | None
    """As `ConditionOutput.pattern`."""
    codebook_loss: Tensor
    """As `ConditionOutput.loss`."""
    size: tuple[int, int]
    """(h, w) of the level."""


def apply_flow(
    level: Level,
    rows: Tensor,
    condition: ConditionOutput,
    size: tuple[int, int],
    with_log_det: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return latents (B, P, C) and log_det, (B, P) or (B,), of rows (B, P, C) of a level of `size`
    (h, w); with_log_det=False, for scoring: zeros (B, P) where that is faster."""
    vectors = condition.vectors
    if level.kernel == 1:
        flat = None if vectors is None else vectors.flatten(0, 1)
        if not with_log_det:
            z = level.flow.latents(rows.flatten(0, 1), flat)
            return z.view_as(rows), rows.new_zeros(rows.shape[:2])
        z, log_det = level.flow(rows.flatten(0, 1), flat)
        return z.view_as(rows), log_det.view(rows.shape[:2])
    maps = None if vectors is None else as_maps(vectors, size)
    z, log_det = level.flow(as_maps(rows, size), maps, condition.constant)
    return z.flatten(2).mT, log_det


def apply_fusion(
    flow: FusionFlow,
    condition: Condition,
    latents: list[Latents],
    top: Tensor,
    concept: ConceptCodes | None,
) -> list[Latents]:
    """Return the latents of all levels after the fusion flow.

    It is conditioned on the deepest level `top` (B, C, h, w) and the concepts. Its log_det and
    codebook loss are added to those of the finest level.
    """
    top = top.float()
    positions = torch.arange(top.shape[-2] * top.shape[-1], device=top.device).expand(len(top), -1)
    size = (top.shape[2], top.shape[3])
    above = condition(rows_at(top, positions), positions, concept, top, size)
    conditions: tuple[Tensor, ...] = ()
    if above.vectors is not None:
        vectors = above.vectors
        if above.constant is not None:
            expanded = above.constant[:, None].expand(-1, vectors.shape[1], -1)
            vectors = torch.cat([vectors, expanded], 2)
        conditions = (resize(as_maps(vectors, size), latents[-1].size),)
    maps = [as_maps(level.z, level.size) for level in latents]
    fused, log_det = flow(maps, conditions)
    results = []
    for level, z in zip(latents, fused, strict=True):
        total = level.log_det.sum(1) if level.log_det.ndim == 2 else level.log_det
        results.append(level._replace(z=z.flatten(2).mT, log_det=total))
    results[0] = results[0]._replace(
        log_det=results[0].log_det + log_det, codebook_loss=results[0].codebook_loss + above.loss
    )
    return results


def rows_at(maps: Tensor, positions: Tensor) -> Tensor:
    """Return rows (B, P, C) of maps (B, C, h, w) at positions (B, P)."""
    first = torch.arange(len(maps), device=maps.device) * (maps.shape[2] * maps.shape[3])
    rows = to_rows(maps).index_select(0, (positions + first[:, None]).flatten())
    return rows.view(*positions.shape, -1)


def as_maps(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Reshape rows (B, h·w, C) to maps (B, C, h, w), channels last in memory."""
    return rows.reshape(len(rows), *size, -1).movedim(-1, 1)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (N, M, h, w) bilinearly."""
    return F.interpolate(maps, size, mode="bilinear")
