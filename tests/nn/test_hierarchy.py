"""What the hierarchy of codebooks is made of keeps its laws."""

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


def test_whitening_keeps_the_axes_of_most_variance() -> None:
    rows, layer = correlated(4000), Whitening(5, floor=1e-6, dims=2)
    layer.fit(rows)
    strongest = torch.linalg.eigh(torch.cov(rows.T)).eigenvectors[:, -2:]
    inside = strongest.T @ torch.nn.functional.normalize(layer.matrix, dim=0)
    torch.testing.assert_close(inside.square().sum(0), torch.ones(2), atol=1e-3, rtol=0)


def test_standardised_rows_have_unit_variance() -> None:
    rows, layer = correlated(4000), Whitening(5, "standardise", floor=1e-6)
    layer.fit(rows)
    torch.testing.assert_close(layer(rows).std(0), torch.ones(5), atol=1e-3, rtol=0)


def test_a_faint_axis_is_not_blown_up() -> None:
    rows, layer = correlated(4000), Whitening(5, floor=0.01)
    rows[:, 0] = 1e-9 * rows[:, 0]
    layer.fit(rows)
    assert float(layer(rows).var(0).min()) < 1e-3


def test_positions_differ_and_columns_and_rows_part() -> None:
    code = sine_positions(4, 6, 16).view(4, 6, 16)
    assert len({tuple(row) for row in code.view(-1, 16).tolist()}) == 24
    assert torch.equal(code[0, :, :8], code[3, :, :8])
    assert torch.equal(code[:, 0, 8:], code[:, 5, 8:])


def test_each_image_looks_into_its_groups_codebook_alone() -> None:
    torch.manual_seed(0)
    quantizer = GroupedQuantizer(3, 4, 2, CodebookOptions()).eval()
    quantizer.book.vectors.normal_()
    z, group = torch.randn(5, 7, 2), torch.tensor([2, 0, 1, 1, 2])
    codes, indices, _ = quantizer(z, group)
    for image in range(5):
        codebook = quantizer.book.vectors[4 * group[image] : 4 * group[image] + 4]
        wanted = torch.cdist(z[image], codebook).argmin(1) + 4 * group[image]
        assert torch.equal(indices[image], wanted)
        torch.testing.assert_close(codes[image], quantizer.book.vectors[wanted])


def test_a_groups_codes_learn_from_its_images_alone() -> None:
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
    wanted = torch.cdist(rows, coverage.vectors).min(1)
    torch.testing.assert_close(distance, wanted.values)
    assert torch.equal(index, wanted.indices)
    assert float(coverage(patches)[1].max()) < float(coverage(patches + 5)[1].min())


def test_fixed_axes_keep_what_tells_images_apart() -> None:
    torch.manual_seed(0)
    kinds = torch.randn(4, 10, 1, 1)
    images = kinds[torch.arange(40) % 4] + 0.05 * torch.randn(40, 10, 3, 3)
    concepts = ConceptCodebook(10, 8, 3, CodebookOptions(restart=0.02, init="kmeans"))
    concepts.fit(concepts.pool(images))
    indices = concepts.eval()(images).indices
    codes = [set(indices[kind::4].tolist()) for kind in range(4)]
    assert sum(map(len, codes)) == len(set().union(*codes))  # none is shared


def test_expectation_takes_away_what_is_normal_at_the_place() -> None:
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


def test_shrinking_lets_few_images_say_little() -> None:
    terms = torch.arange(16.0).view(1, 1, 4, 4)
    concept = torch.zeros(1, dtype=torch.int64)
    expectation = ConceptNormalization(1, (4, 4), 1, shrink=20.0)
    expectation.fit([(terms, concept)], [(terms, concept)])
    wanted = (terms[0, 0] - terms.mean()) / 21
    torch.testing.assert_close(expectation.places[0, 0], wanted)


def test_an_image_is_measured_as_a_new_one_beyond_its_own_codes() -> None:
    """Codes chosen from two images, kept in half precision: each image is measured by those of the
    other alone, an image that none was chosen from by all."""
    first, second, third = (10 * correlated(30, seed) for seed in (1, 2, 3))
    cover = Coreset(40, first.shape[1])
    cover.vectors.copy_(torch.cat([first[:20], second[:20]]).half().float())
    assert 0 < float(cover(first[:20])[1].max()) < 0.2
    by_hand = torch.cdist(first, cover.vectors[20:]).amin(1)
    assert torch.allclose(cover.distance_to_others(first), by_hand, atol=0.1)
    assert float(by_hand.min()) > 1
    assert torch.equal(cover.distance_to_others(third), cover(third)[1])
    alone = Coreset(20, first.shape[1])
    alone.vectors.copy_(first[:20])
    assert torch.equal(alone.distance_to_others(first), alone(first)[1])  # there are no others
