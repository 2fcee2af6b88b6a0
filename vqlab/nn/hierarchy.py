"""The hierarchy of codebooks: concepts, one code per image; patterns, one code per place.

VQ-Flow's conceptual prototype codebook (CPC) and concept-specific pattern codebook (CSPC)
(arXiv 2409.00942), on the quantiser of `vqlab.nn.quantizer`; the coverage codebook is ours.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn import distributed
from vqlab.nn.coreset import k_centre
from vqlab.nn.mlp import Dense
from vqlab.nn.quantizer import (
    Codebook,
    Usage,
    VectorQuantizer,
    drawn_places,
    kmeans,
    nearest,
)
from vqlab.nn.whitening import Whitening

SAME = 2e-3
"""A patch lies on a covering code, which keeps 11 bits of each number, where it is nearer than this
share of the code's length."""
PatternKind = Literal["residual", "naive", "per_concept", "none"]


class Concept(NamedTuple):
    """What an image is of, as far as the codebook can tell."""

    vectors: Tensor
    """Prototypes (B, D): codes forward, the gradient estimator backward."""
    indices: Tensor
    """Int64 (B,)."""
    loss: Tensor
    """What to add to the loss, ()."""


class Concepts(nn.Module):
    """Image-level prototypes of the deepest level's mean over all places (CPC).

    encoder `pca`: the standardised mean on its first `dim` principal axes (fewer where the level
    has fewer channels), fixed, so that nothing can shrink it; `mlp`: the paper's two layers with
    batch norm and ReLU, learned. quantise=False: the vectors as they are (an ablation), indices
    still those of the nearest code.
    """

    axes: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: int,
        codebook_size: int,
        dim: int,
        *,
        encoder: Literal["pca", "mlp"] = "pca",
        quantise: bool = True,
        commitment: float = 1.0,
        decay: float = 0.99,
        restart: float = 0.02,
        init: Literal["kmeans", "random"] = "kmeans",
    ) -> None:
        super().__init__()
        self.encoder, self.quantise = encoder, quantise
        self.dim = min(dim, channels) if encoder == "pca" else dim
        self.standardise = Whitening(channels, "standardise", floor=1e-3)
        self.register_buffer("axes", torch.eye(channels)[:, : self.dim].contiguous())
        self.register_buffer("scale", torch.ones(()))
        self.mlp = Dense(channels, dim, dim) if encoder == "mlp" else None
        self.quantizer = VectorQuantizer(
            codebook_size, self.dim, commitment=commitment, learning="ema", init=init,
            restart=restart, decay=decay,
        )  # fmt: skip

    def forward(self, deepest: Tensor) -> Concept:
        """The concepts of images by their deepest level (B, C, h, w)."""
        described = self.describe(deepest)
        quantized = self.quantizer(described)
        vectors = quantized.codes if self.quantise else described
        return Concept(vectors, quantized.indices, quantized.loss)

    def describe(self, deepest: Tensor) -> Tensor:
        """Vectors (B, dim) before quantisation."""
        mean = self.standardise(self.means(deepest))
        vectors: Tensor = mean @ self.axes * self.scale if self.mlp is None else self.mlp(mean)
        return vectors.float()

    @staticmethod
    def means(deepest: Tensor) -> Tensor:
        """Mean over all places of a level (B, C, h, w): (B, C)."""
        return deepest.float().mean((2, 3))

    @torch.no_grad()
    def fit(self, means: Tensor) -> None:
        """Fit to the mean features (N, C) of all training images: axes, and k-means prototypes."""
        self.standardise.fit(means)
        if self.mlp is not None:
            return  # its prototypes are placed at the first batch
        rows = self.standardise(means)
        axes = torch.linalg.svd(rows.double(), full_matrices=False).Vh[: self.dim].T
        self.axes.zero_()
        self.axes[:, : axes.shape[1]] = axes.float()
        self.scale.copy_(1 / (rows @ self.axes).std().clamp_min(1e-6))
        if not self.quantizer.initialised:
            self.quantizer.initialise(rows @ self.axes * self.scale)


class Pattern(NamedTuple):
    """What lies at each of B · P places."""

    codes: Tensor
    """The condition's pattern part (B, P, D)."""
    indices: Tensor
    """Int64 (B, P)."""
    loss: Tensor
    """What to add to the loss, ()."""


class Patterns(nn.Module):
    """Pattern codes of one level's places (CSPC), learned by moving averages.

    `naive` quantises what it is given; `residual` what is left of it beyond [position; prototype],
    which is added again (the paper's form); `per_concept` does so with a codebook of its own for
    each of `concepts` prototypes, as the paper's name promises.
    """

    def __init__(
        self,
        kind: Literal["residual", "naive", "per_concept"],
        codebook_size: int,
        dim: int,
        concepts: int,
        *,
        quantise: bool = True,
        commitment: float = 1.0,
        decay: float = 0.97,
        restart: float = 0.05,
        init: Literal["kmeans", "random"] = "kmeans",
    ) -> None:
        super().__init__()
        self.kind, self.quantise = kind, quantise
        self.quantizer: VectorQuantizer | GroupedQuantizer
        if kind == "per_concept":
            self.quantizer = GroupedQuantizer(
                concepts, codebook_size, dim, commitment=commitment, restart=restart, decay=decay
            )
        else:
            self.quantizer = VectorQuantizer(
                codebook_size, dim, commitment=commitment, learning="ema", init=init,
                restart=restart, decay=decay,
            )  # fmt: skip

    def forward(self, encoded: Tensor, known: Tensor, concept: Tensor) -> Pattern:
        """Of encoded features (B, P, D), what is known beforehand (B, P, D) and concepts (B,)."""
        known = torch.zeros_like(encoded) if self.kind == "naive" else known
        rest = (encoded - known).float()
        if isinstance(self.quantizer, GroupedQuantizer):
            codes, indices, loss = self.quantizer(rest, concept)
        else:
            quantized = self.quantizer(rest.flatten(0, 1))
            codes, loss = quantized.codes.view_as(rest), quantized.loss
            indices = quantized.indices.view(rest.shape[:2])
        return Pattern(known + (codes if self.quantise else rest), indices, loss)

    def read_usage(self) -> Usage | None:
        """Usage in training since the last reading."""
        return self.quantizer.read_usage()


class GroupedQuantizer(nn.Module):
    """G codebooks of K vectors, one per group of images; each image looks in its group's alone.

    Indices run over all: group · K + place. The look-ups of a batch are one batched product.
    """

    initialised: Tensor

    def __init__(
        self,
        groups: int,
        codebook_size: int,
        dim: int,
        *,
        commitment: float = 1.0,
        restart: float = 0.0,
        decay: float = 0.97,
    ) -> None:
        super().__init__()
        self.groups, self.size, self.commitment = groups, codebook_size, commitment
        self.restart = restart
        self.book = Codebook(groups * codebook_size, dim, "ema", "l2", 0.0, decay)
        self.register_buffer("initialised", torch.zeros(groups, dtype=torch.bool))

    def forward(self, z: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (B, P, D), indices (B, P) and commitment loss () of z (B, P, D), groups (B,)."""
        with torch.autocast(z.device.type, enabled=False):
            held = z.detach()
            if self.training:
                self._place(held, group)
            index = self._nearest(held, group)
            codes = F.embedding(index, self.book.vectors)
            if self.training:
                self.book._observe(held.flatten(0, 1), index.flatten())
            loss = self.commitment * F.mse_loss(z, codes)
            return z + (codes - z).detach(), index, loss

    def read_usage(self) -> Usage | None:
        """Usage in training since the last reading, one row per group that was seen (G', K)."""
        histogram = self.book.usage.view(self.groups, self.size).clone()
        self.book.usage.zero_()
        seen = histogram[histogram.sum(1) > 0]
        return Usage(seen) if len(seen) else None

    @torch.no_grad()
    def _nearest(self, z: Tensor, group: Tensor) -> Tensor:
        table = self.book.vectors.view(self.groups, self.size, -1)[group]
        distance = torch.baddbmm(table.square().sum(2)[:, None], z, table.mT, alpha=-2)
        return distance.argmin(2) + group[:, None] * self.size

    @torch.no_grad()
    def _place(self, z: Tensor, group: Tensor) -> None:
        """k-means for a group seen for the first time, a new place for codes that died."""
        everyone, each = distributed.gather_rows(group), z.shape[1]
        distributed.as_first(self.book.counts)
        for number in torch.unique(everyone).tolist():
            own = torch.arange(self.size, device=z.device) + number * self.size
            counts = self.book.counts[own]
            if not self.initialised[number]:
                rows = distributed.gather_rows(z)[everyone == number].flatten(0, 1)
                table = kmeans(rows, self.size)
                members = torch.bincount(nearest(rows, table), minlength=self.size)
                self.book._place(own, table, members.clamp_min(1).to(rows))
                self.initialised[number] = True
            elif self.restart:
                dead = own[counts < self.restart * counts.mean()]
                if len(dead):
                    images = (everyone == number).nonzero()[:, 0]
                    drawn = drawn_places(len(images) * each, len(dead), z.device)
                    places = images[drawn // each] * each + drawn % each
                    at = distributed.rows_at(z.flatten(0, 1), places)
                    self.book._place(dead, at, counts.mean().expand(len(dead)))


class Coverage(nn.Module):
    """A fixed codebook that covers what was seen: every code is the patch farthest from the others.

    Moving averages stand where patches are many and average the rare ones away; k centres
    (Gonzalez 1985; PatchCore's coreset, Roth et al. 2022) keep one of each, so that the distance
    to the nearest code says how far a patch is from anything seen.
    """

    vectors: Tensor

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(codebook_size, dim))

    @torch.no_grad()
    def fit(self, patches: Tensor) -> None:
        """Choose the codes among patches (N, D)."""
        self.vectors.copy_(patches[k_centre(patches, len(self.vectors))])

    @torch.no_grad()
    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Index (N,) of the nearest code of rows (N, D), and the L2 distance to it (N,)."""
        index = nearest(rows, self.vectors)
        return index, _distances(rows, self.vectors, index)

    @torch.no_grad()
    def beyond_own(self, rows: Tensor) -> Tensor:
        """L2 distance (N,) of an image's rows (N, D) to the nearest code that is none of them.

        An image that codes were chosen from lies on its own; this is what it would show as a new
        one. Equal to `forward`'s where no code lies on a row.
        """
        index, distance = self.forward(rows)
        own = torch.unique(index[distance < SAME * self.vectors.norm(dim=1)[index]])
        others = torch.ones(len(self.vectors), dtype=torch.bool, device=rows.device)
        others[own] = False
        moved = ~others[index]
        if bool(moved.any()) and bool(others.any()):
            vectors, rows = self.vectors[others], rows[moved]
            distance[moved] = _distances(rows, vectors, nearest(rows, vectors))
        return distance


def _distances(rows: Tensor, vectors: Tensor, index: Tensor) -> Tensor:
    """Of rows (N, D) to the vectors at `index` (N,), from the difference: exact where close."""
    parts = zip(torch.split(rows, 4096), torch.split(index, 4096), strict=True)
    return torch.cat([(part - vectors[at]).norm(dim=1) for part, at in parts])
