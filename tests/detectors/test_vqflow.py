"""VQ-Flow: likelihood, codebooks, ablations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vqlab.config import merge, read_recipe, validate
from vqlab.detectors.vqflow import VQFlow, VQFlowSettings
from vqlab.nn.codebook import CodebookOptions
from vqlab.nn.image_score import total_variation
from vqlab.nn.quantizer import VectorQuantizer
from vqlab.types import InputSpec, Sample, UserError

SPEC = InputSpec(channels=(6, 8), sizes=((8, 8), (4, 4)), image_size=(32, 32))
SMALL: dict[str, Any] = {
    "positions": 8,
    "concept": {"codebook_size": 4, "dim": 6},
    "pattern": {"codebook_size": 16, "dim": 8, "coverage": 100},
    "flow": {"blocks": [2], "hidden": 16, "condition": 8, "noise": 0.05, "places": 16},
}
PAPER = {
    "deepest": "condition",
    "whitening": "none",
    "concept": {"encoder": "mlp"},
    "pattern": {"encoder": "mlp", "coverage": 0},
    "flow": {"kernel": 3, "hidden": 0, "condition": 0, "norm": True, "fusion": True, "noise": 0.0}
    | {"mixing": "permutation"},
    "scoring": {"combine": "add"},
}
RECIPES = Path(__file__).parents[2] / "experiments" / "ablations"
ABLATIONS: dict[str, dict[str, Any]] = {
    path.stem: read_recipe(path).get("detector", {})
    for path in sorted(RECIPES.glob("vqflow_*.yaml"))
} | {
    "whole": {},
    "paper": PAPER,
    "joined": {"levels": "joined"},
    "coreset of each concept": {"pattern": {"coverage": 40, "coverage_kind": "per_concept"}},
    "true mixture": {"base": "mixture"},
    "without any condition": {"concept": {"enabled": False}, "base": "standard", "positions": 0}
    | {"pattern": {"kind": "none", "coverage": 0}},
}


def two_products(count: int, seed: int, noise: tuple[float, float] = (0.5, 0.5)) -> Sample:
    """Return features of two kinds of product in equal numbers: smooth patterns with noise."""
    draw = torch.Generator().manual_seed(seed)
    generator = torch.Generator().manual_seed(99)
    levels = []
    for channels, (height, width) in zip(SPEC.channels, SPEC.sizes, strict=True):
        kinds = torch.randn(2, channels, height, width, generator=generator)
        kind = torch.arange(count) % 2
        values = torch.randn(count, channels, height, width, generator=draw)
        levels.append(2 * kinds[kind] + torch.tensor(noise)[kind, None, None, None] * values)
    return Sample(levels[0], tuple(levels))


def build(settings: dict[str, Any], seed: int = 0) -> VQFlow:
    torch.manual_seed(seed)
    return VQFlow(validate(VQFlowSettings, merge(SMALL, settings)), SPEC)


def train(
    detector: VQFlow, steps: int = 60, noise: tuple[float, float] = (0.5, 0.5)
) -> list[float]:
    """Train and calibrate; return the negative log-likelihood of each step."""
    parts = [two_products(16, seed, noise) for seed in range(3)]
    torch.manual_seed(1)
    detector.train()
    detector.prepare(parts)
    optimizer = torch.optim.Adam(detector.parameters(), 3e-3)
    nll = []
    for step in range(steps):
        losses = detector.loss(parts[step % 3])
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        nll.append(float(losses["nll"].detach()))
    detector.eval()
    detector.calibrate(parts[:2], parts[2:])
    return nll


def with_foreign_patch(sample: Sample) -> Sample:
    """Return the features with a patch of foreign features."""
    levels = [level.clone() for level in sample.pyramid]
    levels[0][:, :, 2:4, 2:4] += 4
    levels[1][:, :, 1:2, 1:2] += 4
    return Sample(levels[0], tuple(levels))


def test_golden_short_run() -> None:
    """A change in these values changes users' scores: add it to the CHANGELOG."""
    detector = build({})
    nll = train(detector)
    assert sum(nll[-10:]) / 10 == pytest.approx(0.58687, rel=0.01)
    images = two_products(3, seed=8)
    scores = detector.score(images)
    assert scores.image_score.tolist() == pytest.approx([0.8482, -2.1577, -0.7698], abs=0.03)
    assert float(scores.anomaly_map.mean()) == pytest.approx(0.1340, abs=0.01)
    anomalous = detector.score(with_foreign_patch(images)).image_score.tolist()
    assert anomalous == pytest.approx([23.16, 23.49, 25.31], rel=0.02)


def test_coverage_is_standardised_by_distances_to_codes_of_other_images() -> None:
    detector = build({"pattern": {"coverage": 800}})  # most patches are codes
    train(detector, steps=3)
    images = two_products(16, 2).pyramid
    with torch.no_grad():
        terms, concept = detector._training_terms(images, 1)
        seen = detector._terms(images)[0]
    standardised = detector.expectation.normalize(terms, concept, "global")
    assert float(seen[-1].mean()) < 0.8 * float(terms[-1].mean())
    assert float(standardised[-1].mean()) == pytest.approx(0, abs=1e-3)
    assert float(standardised[-1].std(correction=0)) == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("narrow_fusion")
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_and_detects_a_defect(name: str) -> None:
    detector = build(ABLATIONS[name])
    nll = train(detector)
    assert sum(nll[-10:]) < sum(nll[:10])
    clean = two_products(6, seed=8)
    before, after = detector.score(clean), detector.score(with_foreign_patch(clean))
    assert bool((after.anomaly_map[:, 8:16, 8:16].mean((1, 2))
                 > before.anomaly_map[:, 8:16, 8:16].mean((1, 2))).all())  # fmt: skip
    health = detector.health()
    assert all(1 <= v for k, v in health.items() if k.endswith("perplexity"))


@pytest.mark.parametrize(
    ("name", "books"),
    [
        ("whole", {"concept": 4, "pattern0": 16, "pattern1": 16}),
        ("paper", {"concept": 4, "pattern0": 16, "pattern_top": 16}),
        ("vqflow_no_cpc", {"pattern0": 16, "pattern1": 16}),
        ("vqflow_no_cspc", {"concept": 4}),
    ],
)
def test_health_reports_the_usage_of_every_codebook(name: str, books: dict[str, int]) -> None:
    detector = build(ABLATIONS[name])
    train(detector, steps=3)
    health = detector.health()
    kinds = ("perplexity", "dead_codes", "usage")
    assert set(health) == {f"codebook/{book}_{kind}" for book in books for kind in kinds}
    for book, size in books.items():
        dead = health[f"codebook/{book}_dead_codes"]
        assert health[f"codebook/{book}_usage"] == pytest.approx(1 - dead / size)
    assert detector.health() == {}


@pytest.mark.parametrize(
    "name",
    ["whole", "joined", "true mixture", "vqflow_no_cpc", "vqflow_additive", "vqflow_hierarchical"],
)
def test_loss_is_the_negative_log_likelihood_of_the_features(name: str) -> None:
    """−log p(features) per dimension includes the log-determinants of the whitening and of the
    flow."""
    detector = build(merge(ABLATIONS[name], {"flow": {"noise": 0.0, "places": 64}}))
    train(detector, steps=5)
    sample = two_products(2, seed=5)
    pyramid = sample.pyramid
    detector.eval()
    loss = float(detector.loss(sample)["nll"].detach())
    concept = detector._concept(pyramid)
    total, dims = 0.0, 0
    for number, level in enumerate(detector._levels()):
        maps = detector._features(pyramid, number)
        rows = maps.flatten(2).mT
        white = level.whitening(rows.flatten(0, 1)).view_as(rows)
        places = torch.arange(level.size[0] * level.size[1]).expand(2, -1)
        condition = level.condition(white, places, concept, pyramid[-1], level.size).vectors
        flat = None if condition is None else condition.flatten(0, 1)
        z, log_det = level.flow(white.flatten(0, 1), flat)
        prototypes = detector._prototypes(z.view_as(white), concept)
        likely = level.base.log_prob(z, prototypes)
        slope = torch.linalg.slogdet(level.whitening.matrix.double()).logabsdet
        total += float((likely + log_det).detach().sum()) + len(likely) * float(slope)
        dims += white.numel()
    assert loss == pytest.approx(-total / dims, rel=1e-4)


def test_initial_density_of_whitened_features_is_normal() -> None:
    """The flow is a rotation at initialisation: the NLL without the log-det of the whitening is
    that of N(0, I)."""
    detector = build({"base": "standard", "flow": {"noise": 0.0}})
    parts = [two_products(32, seed) for seed in range(4)]
    detector.prepare(parts)
    detector.eval()
    nll = float(detector.loss(parts[0])["nll"].detach())
    positions = [level.size[0] * level.size[1] for level in detector._levels()]
    pairs = list(zip(positions, detector._levels(), strict=True))
    slopes = sum(count * float(level.whitening.log_det) for count, level in pairs)
    dims = sum(count * level.channels for count, level in pairs)
    assert nll + slopes / dims == pytest.approx(0.5 * (1 + math.log(2 * math.pi)), abs=0.06)


def test_conditioning_on_concepts_raises_the_likelihood_of_normal_images() -> None:
    held_out = two_products(16, seed=12)

    def of_held_out(name: str) -> float:
        detector = build(ABLATIONS[name])
        train(detector, steps=150)
        return float(detector.loss(held_out)["nll"].detach())

    assert of_held_out("vqflow_no_cspc") < of_held_out("without any condition")


def test_concepts_separate_products_without_labels() -> None:
    detector = build({})
    train(detector, steps=10)
    prototypes = detector.prototypes(detector.extract(two_products(16, seed=4)))
    assert prototypes is not None
    kinds = [set(prototypes.indices[kind::2].tolist()) for kind in (0, 1)]
    assert not kinds[0] & kinds[1]


def test_published_initialization_collapses_and_kmeans_does_not() -> None:
    """The reference initialises its moving averages with count 0 and sum N(0, 1) (rosinality's
    VQ-VAE-2): an unused code moves far away at once, and one or two codes receive all assignments.
    Here: k-means and count 1."""
    draw = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(15, 16, generator=draw)

    def batch() -> Tensor:
        kind = torch.randint(15, (64,), generator=draw)
        return centres[kind] + 0.3 * torch.randn(64, 16, generator=draw)

    codes, count, total = torch.randn(32, 16, generator=draw), torch.zeros(32), torch.zeros(32, 16)
    total += codes
    for _ in range(20):
        rows = batch()
        index = torch.cdist(rows, codes).argmin(1)
        members = torch.bincount(index, minlength=32).float()
        count = 0.99 * count + 0.01 * members
        total = 0.99 * total + 0.01 * torch.zeros_like(total).index_add_(0, index, rows)
        smoothed = (count + 1e-5) / (count.sum() + 32e-5) * count.sum()
        codes = total / smoothed[:, None]
    reference_live_codes = len(torch.cdist(batch(), codes).argmin(1).unique())

    options = CodebookOptions(restart=0.02, init="kmeans")
    ours = VectorQuantizer(32, 16, options, learning="ema").train()
    for _ in range(20):
        ours(batch())
    usage = ours.pop_usage()
    assert usage is not None
    assert reference_live_codes <= 2
    assert usage.perplexity >= 0.3 * 32


def test_scoring_can_change_without_retraining() -> None:
    detector = build({})
    train(detector, steps=20)
    images = two_products(4, seed=3)
    before = detector.score(images)
    other = build({"scoring": {"coverage": 0.2, "image_score": "max", "image_standardise": "none"}})
    other.load_state_dict(detector.state_dict())
    after = other.eval().score(images)
    assert not torch.equal(before.anomaly_map, after.anomaly_map)
    assert torch.equal(after.image_score, after.anomaly_map.amax((1, 2)))


def test_scores_of_products_with_different_scatter_are_normalized() -> None:
    """Image scores of two products, one of which scatters more, are normalised; maps are unchanged.

    The bank contains so many patches that training images are matched with their own. Without
    leave-one-out, their distances would say nothing about new images.
    """
    noise = (0.3, 0.8)
    new = two_products(24, seed=31, noise=noise)
    results = {}
    for kind in ("none", "concept"):
        detector = build({"scoring": {"image_standardise": kind}, "pattern": {"coverage": 1500}})
        train(detector, steps=20, noise=noise)
        results[kind] = detector.score(new)
    assert torch.equal(results["none"].anomaly_map, results["concept"].anomaly_map)

    def separation(scores: Tensor) -> float:
        calm, wild = scores[0::2], scores[1::2]
        return float((wild.mean() - calm.mean()) / (wild.std() + calm.std()))

    assert separation(results["none"].image_score) > 2
    assert abs(separation(results["concept"].image_score)) < 0.5 * separation(
        results["none"].image_score
    )


@pytest.mark.usefixtures("narrow_fusion")
@pytest.mark.parametrize(
    "name", ["whole", "paper", "joined", "coreset of each concept", "without any condition"]
)
def test_calibration_terms_of_every_second_position_equal_those_of_all(name: str) -> None:
    detector = build(ABLATIONS[name])
    train(detector, steps=3)
    pyramid = two_products(16, seed=0).pyramid  # training images, whose patches are codes
    for level in (pyramid, tuple(level[..., :-1] for level in pyramid)):
        terms, concept = detector._training_terms(level, step=1)
        some, concept_of_some = detector._training_terms(level, step=2)
        torch.testing.assert_close(some, terms[..., ::2, ::2])
        assert torch.equal(concept_of_some, concept)


@pytest.mark.parametrize("combine", ["sum", "add"])
def test_total_variation_in_calibration_equals_that_in_scoring(combine: str) -> None:
    """Calibration of large maps sees every second row and column only."""
    settings = {"combine": combine, "image_standardise": "none"}
    plain, varied = (build({"scoring": settings | {"variation": v}}) for v in (0.0, 2.0))
    train(plain, steps=20)
    varied.load_state_dict(plain.state_dict())
    varied.eval().stride = 2
    pyramid = two_products(16, seed=0).pyramid
    with torch.no_grad():
        terms, concept = plain._training_terms(pyramid, step=1)
    added = []
    for step in (1, 2):
        part = terms[..., ::step, ::step]
        with_variation, without = (d._scores(part, concept, step) for d in (varied, plain))
        assert torch.equal(with_variation.anomaly_map, without.anomaly_map)
        added.append(with_variation.image_score - without.image_score)
    assert float(added[0].min()) > 0
    torch.testing.assert_close(added[0], added[1])
    maps = plain._scores(terms[..., ::2, ::2], concept, 2).anomaly_map
    torch.testing.assert_close(added[1], 2 * total_variation(maps))


def test_alternatives_are_the_published_scores() -> None:
    detector = build({})
    train(detector, steps=10)
    for name, scores in detector.alternatives(detector.extract(two_products(3, seed=3))).items():
        assert name in ("add", "mul")
        assert float(scores.anomaly_map.amin()) == pytest.approx(0, abs=1e-5)
        assert float(scores.anomaly_map.amax()) <= (2 if name == "add" else 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": "joined", "flow": {"fusion": True}}, "set detector.levels=each"),
        ({"flow": {"kernel": 3}, "scoring": {"jacobian": 0.5}}, "jacobian"),
        ({"concept": {"enabled": False}}, "set detector.base=standard"),
        (
            {"concept": {"enabled": False}, "base": "standard", "pattern": {"kind": "per_concept"}},
            "set detector.pattern.kind=naive",
        ),
        (
            {"concept": {"encoder": "mlp"}, "pattern": {"coverage_kind": "per_concept"}},
            "set detector.concept.enabled=true and detector.concept.encoder=pca",
        ),
        ({"flow": {"kernel": 2}}, "detector.flow.kernel|flow.kernel"),
    ],
)
def test_incompatible_settings_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(settings)


def test_more_prototypes_than_images_raises() -> None:
    detector = build({"concept": {"codebook_size": 40}})
    with pytest.raises(UserError, match="40 prototypes need as many training images; got 16"):
        detector.prepare([two_products(16, seed=0)])


def test_commitment_loss_includes_the_codebook_of_the_fusion() -> None:
    detector = build(merge(PAPER, {"flow": {"fusion": True}}))
    detector.train().prepare([two_products(16, seed=0)])
    detector.loss(two_products(16, seed=0))["pattern"].backward()
    codebook = detector.above.encoder.own
    weights = [p.grad for p in codebook.parameters()]
    assert all(grad is not None for grad in weights)
    assert any(bool(grad.any()) for grad in weights if grad is not None)
