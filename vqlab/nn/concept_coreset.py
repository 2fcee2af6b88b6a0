"""A coreset of patches for each concept, so that the search does not grow with the categories."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqlab.nn.coreset import k_centre
from vqlab.nn.hierarchy import Coreset

LEAST_IMAGES = 48
"""Minimum number of images that a coreset is selected from: those nearest to the concept."""
MARGIN = 1.1
"""The runner-up is searched too if it is at most this factor farther than the nearest concept."""


class ConceptCoreset(nn.Module):
    """`Coreset` of each of K concepts; an image is compared with that of its nearest concept.

    If the runner-up is nearly as near, codes of both are searched. The image vectors at fitting
    define the concepts: prototypes may move in training, coresets do not. Codes have the indices
    concept · codebook_size + code.
    """

    centres: Tensor
    """(K, V)."""

    def __init__(self, concepts: int, codebook_size: int, dim: int, vector_dim: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.register_buffer("centres", torch.zeros(concepts, vector_dim))
        self.coresets = nn.ModuleList(Coreset(codebook_size, dim) for _ in range(concepts))

    @torch.no_grad()
    def fit(self, patches: Tensor, images: Tensor, vectors: Tensor, centres: Tensor) -> None:
        """Select the codes of each concept from the patches of its images.

        patches (N, D) of the images (N,), indices into the image vectors (I, V); centres (K, V).
        A concept of few images takes the patches of the `LEAST_IMAGES` nearest ones.
        """
        self.centres.copy_(centres)
        distance = torch.cdist(vectors, centres)
        nearest = distance.argmin(1)
        for concept, coreset in enumerate(self._coresets()):
            chosen = nearest == concept
            chosen[distance[:, concept].argsort(stable=True)[:LEAST_IMAGES]] = True
            rows = patches[chosen[images]]
            coreset.vectors.copy_(rows[k_centre(rows, self.codebook_size)])
            coreset.search.reset()

    @torch.no_grad()
    def forward(self, rows: Tensor, vectors: Tensor, width: int = 0) -> tuple[Tensor, Tensor]:
        """Return the nearest code (B·P,) of the rows (B·P, D) of images (B, V), and the L2 distance
        to it (B·P,). width: as of `NearestSearch`."""
        parts = [
            self._nearest(part, self._searched(vector), width)
            for part, vector in zip(rows.chunk(len(vectors)), vectors, strict=True)
        ]
        return torch.cat([index for index, _ in parts]), torch.cat([far for _, far in parts])

    @torch.no_grad()
    def distance_to_others(
        self, rows: Tensor, image: Tensor, vector: Tensor, width: int = 0
    ) -> Tensor:
        """Return `Coreset.distance_to_others` of rows (N, D) of one image (P, D), vector (V,)."""
        searched = [self._coresets()[concept] for concept in self._searched(vector)]
        distances = [coreset.distance_to_others(rows, image, width=width) for coreset in searched]
        return torch.stack(distances).amin(0)

    def _coresets(self) -> list[Coreset]:
        return [each for each in self.coresets if isinstance(each, Coreset)]

    def _searched(self, vector: Tensor) -> list[int]:
        """Return the nearest concept of an image (V,), and the runner-up if nearly as near."""
        distance = torch.cdist(vector[None], self.centres)[0]
        nearest = distance.topk(min(2, len(distance)), largest=False)
        near = nearest.values <= MARGIN * nearest.values[0]
        concepts: list[int] = nearest.indices[near].tolist()
        return concepts

    def _nearest(self, rows: Tensor, concepts: list[int], width: int) -> tuple[Tensor, Tensor]:
        index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        distance = torch.full((len(rows),), torch.inf, device=rows.device)
        for concept in concepts:
            code, far = self._coresets()[concept](rows, width=width)
            closer = far < distance
            index = torch.where(closer, code + concept * self.codebook_size, index)
            distance = torch.where(closer, far, distance)
        return index, distance
