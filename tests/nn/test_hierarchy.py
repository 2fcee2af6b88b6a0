"""Properties of the components of the codebook hierarchy."""

from __future__ import annotations

import pytest
import torch

from vqlab.nn.codebook import CodebookOptions
from vqlab.nn.concept_normalization import ConceptNormalization
from vqlab.nn.hierarchy import ConceptCodebook, Coreset, GroupedQuantizer
from vqlab.nn.positions import sine_positions
from vqlab.nn.whitening import Whitening


def correlated(rows: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(5, 5, generator=draw) + 2 * torch.eye(5)
    return torch.randn(rows, 5, generator=draw) @ mix + 3


def test_whitened_rows_have_unit_covariance_and_the_stated_log_det() -> None:
    rows, layer = correlated(4000), Whitening(5, floor=1e-6)
    layer.fit(rows)
    torch.testing.assert_close(torch.cov(layer(rows).T), torch.eye(5), atol=1e-3, rtol=0)
    assert float(torch.linalg.slogdet(layer.matrix)[1]) == pytest.approx(float(layer.log_det), 1e-4)


def test_whitening_keeps_the_axes_with_the_largest_variance() -> None:
    rows, layer = correlated(4000), Whitening(5, floor=1e-6, dims=2)
    layer.fit(rows)
    strongest = torch.linalg.eigh(torch.cov(rows.T)).eigenvectors[:, -2:]
    inside = strongest.T @ torch.nn.functional.normalize(layer.matrix, dim=0)
    torch.testing.assert_close(inside.square().sum(0), torch.ones(2), atol=1e-3, rtol=0)


def test_standardised_rows_have_unit_variance() -> None:
    rows, layer = correlated(4000), Whitening(5, "standardise", floor=1e-6)
    layer.fit(rows)
    torch.testing.assert_close(layer(rows).std(0), torch.ones(5), atol=1e-3, rtol=0)


def test_axis_with_tiny_variance_is_not_amplified() -> None:
    rows, layer = correlated(4000), Whitening(5, floor=0.01)
    rows[:, 0] = 1e-9 * rows[:, 0]
    layer.fit(rows)
    assert float(layer(rows).var(0).min()) < 1e-3


def test_positions_are_distinct_and_rows_and_columns_use_separate_halves() -> None:
    code = sine_positions(4, 6, 16).view(4, 6, 16)
    assert len({tuple(row) for row in code.view(-1, 16).tolist()}) == 24
    assert torch.equal(code[0, :, :8], code[3, :, :8])
    assert torch.equal(code[:, 0, 8:], code[:, 5, 8:])


def test_each_image_uses_the_codebook_of_its_group() -> None:
    torch.manual_seed(0)
    quantizer = GroupedQuantizer(3, 4, 2, CodebookOptions()).eval()
    quantizer.book.vectors.normal_()
    z, group = torch.randn(5, 7, 2), torch.tensor([2, 0, 1, 1, 2])
    codes, indices, _ = quantizer(z, group)
    for image in range(5):
        codebook = quantizer.book.vectors[4 * group[image] : 4 * group[image] + 4]
        expected = torch.cdist(z[image], codebook).argmin(1) + 4 * group[image]
        assert torch.equal(indices[image], expected)
        torch.testing.assert_close(codes[image], quantizer.book.vectors[expected])


def test_codes_of_a_group_are_updated_by_its_images_only() -> None:
    torch.manual_seed(0)
    quantizer = GroupedQuantizer(2, 4, 2, CodebookOptions(decay=0.97, restart=0.05)).train()
    for _ in range(10):
        quantizer(torch.randn(3, 20, 2) + 5, torch.zeros(3, dtype=torch.int64))
    untouched = quantizer.book.vectors[4:].clone()
    quantizer(torch.randn(3, 20, 2) - 5, torch.ones(3, dtype=torch.int64))
    assert float(quantizer.book.vectors[:4].mean()) > 3
    assert float(quantizer.book.vectors[4:].mean()) < -3
    assert not torch.equal(untouched, quantizer.book.vectors[4:])


def test_coverage_gives_the_distance_to_the_nearest_code() -> None:
    torch.manual_seed(0)
    patches, coverage = torch.randn(300, 6), Coreset(40, 6)
    coverage.fit(patches)
    rows = torch.randn(50, 6)
    index, distance = coverage(rows)
    expected = torch.cdist(rows, coverage.vectors).min(1)
    torch.testing.assert_close(distance, expected.values)
    assert torch.equal(index, expected.indices)
    assert float(coverage(patches)[1].max()) < float(coverage(patches + 5)[1].min())


def test_fixed_axes_separate_kinds_of_images() -> None:
    torch.manual_seed(0)
    kinds = torch.randn(4, 10, 1, 1)
    images = kinds[torch.arange(40) % 4] + 0.05 * torch.randn(40, 10, 3, 3)
    concepts = ConceptCodebook(10, 8, 3, CodebookOptions(restart=0.02, init="kmeans"))
    concepts.fit(concepts.pool(images))
    indices = concepts.eval()(images).indices
    codes = [set(indices[kind::4].tolist()) for kind in range(4)]
    assert sum(map(len, codes)) == len(set().union(*codes))  # no code is shared between kinds


def test_normalization_removes_the_mean_of_each_position() -> None:
    torch.manual_seed(0)
    concept = torch.arange(60) % 2
    usual = torch.stack([torch.arange(16.0).view(4, 4), torch.zeros(4, 4)])
    terms = (usual[concept] + 0.1 * torch.randn(60, 4, 4))[None]
    expectation = ConceptNormalization(1, (4, 4), 2, shrink=0)
    expectation.fit([(terms, concept)], [(terms, concept)])
    place = expectation.normalize(terms, concept, "place")
    assert float(place.mean()) == pytest.approx(0, abs=0.01)
    assert float(place.std()) == pytest.approx(1, abs=0.05)
    assert float(place.mean(1).abs().max()) < 0.3
    by_concept = expectation.normalize(terms, concept, "concept")
    for kind in (0, 1):
        assert float(by_concept[:, concept == kind].mean()) == pytest.approx(0, abs=1e-4)
    assert torch.equal(expectation.normalize(terms, concept, "none"), terms)


def test_shrinkage_reduces_the_weight_of_few_images() -> None:
    terms = torch.arange(16.0).view(1, 1, 4, 4)
    concept = torch.zeros(1, dtype=torch.int64)
    expectation = ConceptNormalization(1, (4, 4), 1, shrink=20.0)
    expectation.fit([(terms, concept)], [(terms, concept)])
    expected = (terms[0, 0] - terms.mean()) / 21
    torch.testing.assert_close(expectation.places[0, 0], expected)


def test_distance_to_others_excludes_codes_of_the_image() -> None:
    """With codes from two images in half precision, each image is measured by the codes of the
    other; an image that contributed no code is measured by all codes."""
    first, second, third = (10 * correlated(30, seed) for seed in (1, 2, 3))
    coreset = Coreset(40, first.shape[1])
    coreset.vectors.copy_(torch.cat([first[:20], second[:20]]).half().float())
    assert 0 < float(coreset(first[:20])[1].max()) < 0.2
    others = coreset.distance_to_others(first, first)
    expected = torch.cdist(first, coreset.vectors[20:]).amin(1)
    assert torch.allclose(others, expected, atol=0.1)
    assert float(expected.min()) > 1
    some = coreset.distance_to_others(first[::3], first)
    assert torch.equal(some, others[::3])  # codes at other positions are excluded, too
    assert torch.equal(coreset.distance_to_others(third, third), coreset(third)[1])
    single = Coreset(20, first.shape[1])
    single.vectors.copy_(first[:20])
    assert torch.equal(single.distance_to_others(first, first), single(first)[1])  # no other codes
