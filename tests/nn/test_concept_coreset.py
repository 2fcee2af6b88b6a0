"""Concept coreset: patches are compared with the codes of their concept, and of the runner-up where
it is almost as near."""

from __future__ import annotations

import torch
from torch import Tensor

from vqlab.nn.concept_coreset import LEAST_IMAGES, ConceptCoreset

IMAGES, PATCHES, DIM = 200, 30, 6


def fitted_coreset() -> tuple[ConceptCoreset, Tensor, Tensor]:
    """Return coresets of two concepts with patches around −5 and 5, the patches and the image
    vectors."""
    torch.manual_seed(0)
    kind = 10.0 * (torch.arange(IMAGES) % 2) - 5
    vectors = kind[:, None] + 0.1 * torch.randn(IMAGES, 3)
    patches = kind[:, None, None] + torch.randn(IMAGES, PATCHES, DIM)
    images = torch.arange(IMAGES).repeat_interleave(PATCHES)
    coreset = ConceptCoreset(2, 50, DIM, 3)
    centres = torch.tensor([-5.0, 5.0])[:, None].expand(2, 3)
    coreset.fit(patches.flatten(0, 1), images, vectors, centres)
    return coreset, patches, vectors


def test_search_is_limited_to_the_codes_of_the_concept() -> None:
    coreset, patches, vectors = fitted_coreset()
    index, distance = coreset(patches[:6].flatten(0, 1), vectors[:6])
    concept = (index // 50).view(6, PATCHES)
    assert torch.equal(concept, (torch.arange(6) % 2)[:, None].expand(6, PATCHES))
    for image in range(6):
        codes = coreset.coresets[image % 2].vectors
        expected = (patches[image][:, None] - codes).norm(dim=2).amin(1)
        torch.testing.assert_close(distance.view(6, PATCHES)[image], expected)
    # patches of the other category are far from the codes of this concept
    assert float(coreset(patches[0], vectors[1:2])[1].min()) > 10


def test_runner_up_is_searched_when_almost_as_near() -> None:
    coreset, patches, vectors = fitted_coreset()
    between = torch.full((1, 3), 0.01)
    index, distance = coreset(torch.cat([patches[0], patches[1]]), between)
    assert set((index // 50).tolist()) == {0, 1}
    each = [coreset(patches[image], vectors[image : image + 1])[1] for image in (0, 1)]
    torch.testing.assert_close(distance, torch.cat(each))


def test_concept_with_few_images_uses_patches_of_the_nearest_images() -> None:
    coreset, patches, vectors = fitted_coreset()
    far = torch.full((1, 3), 50.0)
    images = torch.arange(IMAGES).repeat_interleave(PATCHES)
    wide = ConceptCoreset(3, LEAST_IMAGES * PATCHES, DIM, 3)
    wide.fit(patches.flatten(0, 1), images, vectors, torch.cat([coreset.centres, far]))
    used = wide.coresets[2].vectors
    assert torch.isfinite(used).all() and len(used.unique(dim=0)) == LEAST_IMAGES * PATCHES
    assert float(used.mean()) > 4  # from the nearer of the two categories


def test_distance_to_others_excludes_codes_of_the_image() -> None:
    coreset, patches, vectors = fitted_coreset()
    for image in range(4):
        rows = patches[image]
        others = coreset.distance_to_others(rows, rows, vectors[image])
        assert bool((others >= coreset(rows, vectors[image : image + 1])[1] - 1e-5).all())
    codes = coreset.coresets[0].vectors[:20]
    assert float(coreset(codes, vectors[:1])[1].max()) < 1e-5
    assert float(coreset.distance_to_others(codes, codes, vectors[0]).min()) > 1e-2
