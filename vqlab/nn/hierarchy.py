"""Hierarchical codebooks: concepts (one code per image) and patterns (one code per position).

VQ-Flow's conceptual prototype codebook (CPC) and concept-specific pattern codebook (CSPC)
(arXiv 2409.00942), built on `vqlab.nn.quantizer`. The coreset codebook is an addition.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn import distributed
from vqlab.nn.codebook import Codebook, CodebookOptions, kmeans, nearest, random_indices
from vqlab.nn.coreset import k_centre
from vqlab.nn.mlp import MLP
from vqlab.nn.nearest import NearestSearch
from vqlab.nn.precision import without_autocast
from vqlab.nn.quantizer import Usage, VectorQuantizer
from vqlab.nn.whitening import Whitening

SAME = 2e-3
"""Distance, relative to the code's norm, below which a patch counts as the code itself: codes are
stored with 11 significant bits."""
PatternKind = Literal["residual", "naive", "per_concept", "none"]


class ConceptCodes(NamedTuple):
    """Concept codes of a batch of images."""

    vectors: Tensor
    """Prototypes (B, D): codes forward, the gradient estimator backward."""
    indices: Tensor
    """Int64 (B,)."""
    loss: Tensor
    """Term to add to the loss, ()."""


class ConceptCodebook(nn.Module):
    """Image-level prototypes of the spatial mean of the deepest level (CPC).

    encoder: `pca` projects the standardised mean onto its first `dim` principal axes (at most the
    number of channels) and is fixed; `mlp` is the learned encoder of the paper. quantise=False
    returns the unquantised vectors (an ablation); indices are those of the nearest code.
    """

    axes: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: int,
        codebook_size: int,
        dim: int,
        options: CodebookOptions,
        *,
        encoder: Literal["pca", "mlp"] = "pca",
        quantise: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.quantise = encoder, quantise
        self.dim = min(dim, channels) if encoder == "pca" else dim
        self.standardise = Whitening(channels, "standardise", floor=1e-3)
        self.register_buffer("axes", torch.eye(channels)[:, : self.dim].contiguous())
        self.register_buffer("scale", torch.ones(()))
        self.mlp = MLP(channels, dim, dim) if encoder == "mlp" else None
        self.quantizer = VectorQuantizer(codebook_size, self.dim, options, learning="ema")

    def forward(self, deepest: Tensor) -> ConceptCodes:
        """Return the concept codes of images from their deepest level (B, C, h, w)."""
        encoded_image = self.encode(deepest)
        quantized = self.quantizer(encoded_image)
        vectors = quantized.codes if self.quantise else encoded_image
        return ConceptCodes(vectors, quantized.indices, quantized.loss)

    def encode(self, deepest: Tensor) -> Tensor:
        """Return vectors (B, dim) before quantisation."""
        mean = self.standardise(self.pool(deepest))
        vectors: Tensor = mean @ self.axes * self.scale if self.mlp is None else self.mlp(mean)
        return vectors.float()

    @staticmethod
    def pool(deepest: Tensor) -> Tensor:
        """Return the spatial mean (B, C) of a level (B, C, h, w)."""
        return deepest.float().mean((2, 3))

    @torch.no_grad()
    def fit(self, means: Tensor) -> None:
        """Fit principal axes and k-means prototypes to `pool` of all training images, (N, C)."""
        self.standardise.fit(means)
        if self.mlp is not None:
            return  # prototypes are initialised from the first batch
        rows = self.standardise(means)
        axes = torch.linalg.svd(rows.double(), full_matrices=False).Vh[: self.dim].T
        self.axes.zero_()
        self.axes[:, : axes.shape[1]] = axes.float()
        self.scale.copy_(1 / (rows @ self.axes).std().clamp_min(1e-6))
        if not self.quantizer.is_initialised:
            self.quantizer.initialise(rows @ self.axes * self.scale)


class PatternCodes(NamedTuple):
    """Pattern codes of B images with P positions."""

    codes: Tensor
    """Quantised vectors (B, P, D)."""
    indices: Tensor
    """Int64 (B, P)."""
    loss: Tensor
    """Term to add to the loss, ()."""


class PatternCodebook(nn.Module):
    """Pattern codebook of one level (CSPC), learned by moving averages.

    kind: `naive` quantises the encoded features; `residual` quantises their difference to the
    context [position; prototype] and adds the context again (as in the paper); `per_concept` is
    `residual` with a separate codebook for each of `concepts` prototypes.
    """

    def __init__(
        self,
        kind: Literal["residual", "naive", "per_concept"],
        codebook_size: int,
        dim: int,
        concepts: int,
        options: CodebookOptions,
        *,
        quantise: bool = True,
    ) -> None:
        super().__init__()
        self.kind, self.quantise = kind, quantise
        self.quantizer: VectorQuantizer | GroupedQuantizer
        if kind == "per_concept":
            self.quantizer = GroupedQuantizer(concepts, codebook_size, dim, options)
        else:
            self.quantizer = VectorQuantizer(codebook_size, dim, options, learning="ema")

    def forward(self, encoded: Tensor, context: Tensor, concept: Tensor) -> PatternCodes:
        """Quantise encoded features (B, P, D), given context (B, P, D) and concepts (B,)."""
        context = torch.zeros_like(encoded) if self.kind == "naive" else context
        residual = (encoded - context).float()
        if isinstance(self.quantizer, GroupedQuantizer):
            codes, indices, loss = self.quantizer(residual, concept)
        else:
            quantized = self.quantizer(residual.flatten(0, 1))
            codes, loss = quantized.codes.view_as(residual), quantized.loss
            indices = quantized.indices.view(residual.shape[:2])
        return PatternCodes(context + (codes if self.quantise else residual), indices, loss)

    def pop_usage(self) -> Usage | None:
        """Return and reset the usage counted in training; None if nothing was quantised."""
        return self.quantizer.pop_usage()


class GroupedQuantizer(nn.Module):
    """G codebooks of K vectors; each image is quantised with the codebook of its group.

    Indices are group · K + code. A batch is looked up in one batched matrix product. The codebook
    of a group is initialised by k-means at its first images, whatever `options.init` is.
    """

    initialised: Tensor

    def __init__(
        self,
        groups: int,
        codebook_size: int,
        dim: int,
        options: CodebookOptions,
    ) -> None:
        super().__init__()
        self.groups, self.size = groups, codebook_size
        self.commitment, self.restart = options.commitment, options.restart
        self.book = Codebook(groups * codebook_size, dim, "ema", "l2", 0.0, options.decay)
        self.register_buffer("initialised", torch.zeros(groups, dtype=torch.bool))

    def forward(self, z: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes (B, P, D), indices (B, P), commitment loss () of z (B, P, D), group (B,)."""
        with without_autocast(z.device):
            detached = z.detach()
            if self.training:
                self._update_codes(detached, group)
            index = self._nearest(detached, group)
            codes = F.embedding(index, self.book.vectors)
            if self.training:
                self.book._observe(detached.flatten(0, 1), index.flatten())
            loss = self.commitment * F.mse_loss(z, codes)
            return z + (codes - z).detach(), index, loss

    def pop_usage(self) -> Usage | None:
        """Return and reset the usage counted in training, a row per group that occurred (G', K)."""
        histogram = self.book.usage.view(self.groups, self.size).clone()
        self.book.usage.zero_()
        used = histogram[histogram.sum(1) > 0]
        return Usage(used) if len(used) else None

    @torch.no_grad()
    def _nearest(self, z: Tensor, group: Tensor) -> Tensor:
        table = self.book.vectors.view(self.groups, self.size, -1)[group]
        distance = torch.baddbmm(table.square().sum(2)[:, None], z, table.mT, alpha=-2)
        return distance.argmin(2) + group[:, None] * self.size

    @torch.no_grad()
    def _update_codes(self, z: Tensor, group: Tensor) -> None:
        """Initialise the codebook of a new group by k-means; restart dead codes."""
        groups, positions = distributed.gather_rows(group), z.shape[1]
        distributed.broadcast(self.book.counts)
        for number in torch.unique(groups).tolist():
            codes = torch.arange(self.size, device=z.device) + number * self.size
            counts = self.book.counts[codes]
            if not self.initialised[number]:
                rows = distributed.gather_rows(z)[groups == number].flatten(0, 1)
                table = kmeans(rows, self.size)
                members = torch.bincount(nearest(rows, table), minlength=self.size)
                self.book._place(codes, table, members.clamp_min(1).to(rows))
                self.initialised[number] = True
            elif self.restart:
                dead = codes[counts < self.restart * counts.mean()]
                if len(dead):
                    images = (groups == number).nonzero()[:, 0]
                    sample = random_indices(len(images) * positions, len(dead), z.device)
                    rows_at = images[sample // positions] * positions + sample % positions
                    vectors = distributed.gather_rows_at(z.flatten(0, 1), rows_at)
                    self.book._place(dead, vectors, counts.mean().expand(len(dead)))


class Coreset(nn.Module):
    """Fixed codebook of a greedy k-centre coreset of patches (PatchCore, Roth et al. 2022).

    Unlike moving averages, a coreset keeps rare patches, so that the distance to the nearest code
    bounds the distance to the training patches.
    """

    vectors: Tensor

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(codebook_size, dim))
        self.search = NearestSearch()

    @torch.no_grad()
    def fit(self, patches: Tensor) -> None:
        """Select the codes from patches (N, D)."""
        self.vectors.copy_(patches[k_centre(patches, len(self.vectors))])
        self.search.reset()

    @torch.no_grad()
    def forward(
        self, rows: Tensor, vectors: Tensor | None = None, width: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the nearest code (N,) of rows (N, D) and the L2 distance to it (N,).

        vectors: image vectors, which only a `ConceptCoreset` uses. width: as of `NearestSearch`.
        """
        index, distance = self.search(rows, self.vectors, width=width)
        return index, distance

    @torch.no_grad()
    def distance_to_others(
        self, rows: Tensor, image: Tensor, vector: Tensor | None = None, width: int = 0
    ) -> Tensor:
        """Return the L2 distances (N,) of rows (N, D) of a training image to the nearest code that
        is not a patch of the image; to the nearest code if the image contains every code.

        image: all rows of the image (P, D). vector: image vector, which only a `ConceptCoreset`
        uses. width: as of `NearestSearch`.
        """
        patches = self.search.within(image, self.vectors, SAME)
        excluded = patches if 0 < len(patches) < len(self.vectors) else None
        distance: Tensor = self.search(rows, self.vectors, excluded, width)[1]
        return distance
