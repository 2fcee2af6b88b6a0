"""The VQ-VAE: the published network, the warm-up and its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.config import read_recipe, validate
from vqlab.detectors.vqvae import TERMS, VQVAE, Scoring, VQVAESettings, random_crops
from vqlab.testing import as_sample
from vqlab.types import InputSpec, UserError

SIDE = 32
RECIPES = Path(__file__).parents[2] / "experiments"
SMALL: dict[str, Any] = {
    "hidden": 16,
    "codebook_size": 64,
    "dim": 8,
    "warmup": 20,
    "scoring": {"context_steps": 10},
}


def detector(seed: int = 0, side: int = SIDE, **settings: Any) -> VQVAE:
    torch.manual_seed(seed)
    spec = InputSpec(channels=(3,), sizes=((side, side),), image_size=(side, side))
    return VQVAE(validate(VQVAESettings, SMALL | settings), spec)


def published(**settings: Any) -> VQVAE:
    tree = read_recipe(RECIPES / "paper" / "vqvae.yaml")["detector"]
    return detector(**{k: v for k, v in tree.items() if k != "name"} | settings)


def rings(count: int, seed: int = 1) -> Tensor:
    """Return images (N, 3, 32, 32) of a ring on a grey background, with varying brightness and
    noise."""
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    far = ((y - 15.5).square() + (x - 15.5).square()).sqrt()
    ring = torch.exp(-0.5 * ((far - 9) / 2).square())
    colour = torch.tensor([0.4, 0.2, -0.1]).view(1, 3, 1, 1)
    light = 1 + 0.1 * torch.rand(count, 1, 1, 1, generator=draw)
    noise = 0.02 * torch.randn(count, 3, SIDE, SIDE, generator=draw)
    return ((0.4 + colour * ring) * light + noise).clamp(0, 1)


def train(part: VQVAE, steps: int) -> list[float]:
    images = rings(32)
    optimizer = torch.optim.Adam(part.parameters(), 3e-3)
    torch.manual_seed(3)
    part.train()
    history = []
    for _ in range(steps):
        losses = part.loss(as_sample(images[torch.randperm(len(images))[:8]]))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses["loss"].detach()))
    part.eval()
    return history


def calibrate(part: VQVAE) -> None:
    part.calibrate([as_sample(rings(32))], [as_sample(rings(12, seed=2))])


# The published baseline


def test_paper_recipe_has_the_published_architecture() -> None:
    part = published()
    learned = [weights for weights in part.parameters() if weights.requires_grad]
    shapes = [tuple(weights.shape) for weights in learned if weights.ndim == 4]
    hidden = 128
    assert shapes == [
        (hidden, 3, 4, 4),
        (hidden, hidden, 4, 4),
        (64, hidden, 3, 3),
        (64, hidden, 3, 3),
        (hidden, hidden, 4, 4),
        (hidden, 3, 4, 4),
    ]
    convolution, transposed, relu = nn.Conv2d, nn.ConvTranspose2d, nn.ReLU
    kinds = [convolution, relu, convolution, relu, convolution] + [
        transposed, relu, transposed, relu, transposed, nn.Sigmoid,
    ]  # fmt: skip
    layers = [*part.encoder, *part.decoder]
    for layer, kind in zip(layers, kinds, strict=True):
        assert isinstance(layer, kind)
    strides = [layer.stride[0] for layer in layers if hasattr(layer, "stride")]
    assert strides == [2, 2, 1, 1, 2, 2]
    codebook = dict(part.named_parameters())["quantizer.codebooks.0.vectors"]
    assert codebook.shape == (512, 64)
    assert float(codebook.detach().abs().max()) <= 1.001 / 512


def test_paper_recipe_has_the_published_loss_and_score() -> None:
    part, images = published(), rings(2)
    losses = part.loss(as_sample(images))
    z = part.encoder(images)
    codebook = part.quantizer.codebooks[0].vectors
    rows = z.movedim(1, -1)
    codes = codebook[(rows[..., None, :] - codebook).square().sum(-1).argmin(-1)].movedim(-1, 1)
    rebuilt = part.decoder(codes)
    expected = F.mse_loss(rebuilt, images) + 1.25 * F.mse_loss(codes, z)
    torch.testing.assert_close(losses["loss"], expected)
    scores = part.score(as_sample(images))
    error = (rebuilt - images).square().mean(1).detach()
    torch.testing.assert_close(scores.anomaly_map, error)
    torch.testing.assert_close(scores.image_score, error.amax((1, 2)))
    torch.testing.assert_close(
        part.alternatives(part.extract(as_sample(images)))["squared_error"].anomaly_map, error
    )


def test_straight_through_gradient_reaches_the_encoder() -> None:
    part, images = published(commitment=0.0), rings(2)
    z = part.latents(images).detach().requires_grad_()
    codes = part.quantizer(z).codes
    F.mse_loss(part.decoder(codes), images).backward()
    at_codes = codes.detach().requires_grad_()
    F.mse_loss(part.decoder(at_codes), images).backward()
    assert z.grad is not None and at_codes.grad is not None
    torch.testing.assert_close(z.grad, at_codes.grad)


# Warm-up and codebook usage


def test_warmup_trains_without_quantization_and_then_initializes_the_codebook() -> None:
    part = detector(warmup=5)
    for step in range(5):
        losses = part.train().loss(as_sample(rings(8)))
        assert int(part.step) == step + 1 and not bool(part.quantizer.initialised)
        assert float(losses["commitment"]) == 0 and part.health() == {}
        torch.testing.assert_close(losses["loss"], losses["reconstruction"])
    losses = part.loss(as_sample(rings(8)))
    assert bool(part.quantizer.initialised) and float(losses["commitment"]) > 0
    assert part.health()["codebook/perplexity"] > 10


def test_loss_in_evaluation_mode_does_not_change_the_state() -> None:
    part = detector(warmup=0).eval()
    before = {key: value.clone() for key, value in part.state_dict().items()}
    part.loss(as_sample(rings(4)))
    for key, value in part.state_dict().items():
        assert torch.equal(before[key], value), key
    assert part.health() == {}


def test_resumed_training_equals_uninterrupted_training() -> None:
    def steps(part: VQVAE, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        part.train()
        for number in numbers:
            torch.manual_seed(number)
            loss = part.loss(as_sample(rings(8, seed=number)))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    settings = {"warmup": 6, "restart": 0.3}
    uninterrupted, first, second = (detector(seed, **settings) for seed in (0, 0, 5))
    steps(uninterrupted, torch.optim.Adam(uninterrupted.parameters()), range(20))
    optimizer = torch.optim.Adam(first.parameters())
    steps(first, optimizer, range(9))
    second.load_state_dict(first.state_dict())
    resumed = torch.optim.Adam(second.parameters())
    resumed.load_state_dict(optimizer.state_dict())
    steps(second, resumed, range(9, 20))
    for key, value in uninterrupted.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def test_default_codebook_does_not_collapse_where_the_published_one_does() -> None:
    def perplexity(part: VQVAE) -> float:
        train(part, 60)
        part.health()
        train(part, 10)
        return part.health()["codebook/perplexity"]

    small = {"hidden": 16, "codebook_size": 64, "dim": 64}
    assert perplexity(published(**small)) < 5
    assert perplexity(detector(**small)) > 30


def test_health_counts_used_codes() -> None:
    part = detector(warmup=0).train()
    part.loss(as_sample(rings(2)))
    health = part.health()
    assert set(health) == {"codebook/perplexity", "codebook/dead_codes", "codebook/usage"}
    assert health["codebook/usage"] == pytest.approx(1 - health["codebook/dead_codes"] / 64)
    assert part.health() == {}


def test_codebook_quantises_in_float32_under_bfloat16() -> None:
    part = detector(warmup=0).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = part.loss(as_sample(rings(4)))
    assert all(value.dtype == torch.float32 for value in losses.values())
    losses["loss"].backward()
    weights = next(part.encoder.parameters())
    assert weights.grad is not None and weights.grad.dtype == torch.float32


def test_golden_short_run() -> None:
    """A change in these values changes users' scores: add it to the CHANGELOG."""
    history = train(detector(), 60)
    assert history[19] == pytest.approx(0.00656, rel=0.02)  # last step of the warm-up
    assert sum(history[-10:]) / 10 == pytest.approx(0.00373, rel=0.15)


# Scores


def recalibrated(part: VQVAE, *terms: str, **scoring: Any) -> VQVAE:
    """Return the trained detector with other scoring settings, recalibrated."""
    other = detector(scoring={"terms": terms, "context_steps": 10, **scoring})
    other.load_state_dict(part.state_dict())
    calibrate(other)
    return other.eval()


@pytest.fixture(scope="module")
def trained() -> VQVAE:
    part = detector()
    train(part, 60)
    return part


@pytest.mark.parametrize("levels", [1, 2])
def test_training_shorter_than_the_warmup_initializes_the_codebook(levels: int) -> None:
    part = detector(warmup=1000, levels=levels, scoring={"terms": TERMS, "context_steps": 2})
    train(part, 5)
    calibrate(part)
    assert bool(part.quantizer.initialised)
    terms = part.terms(part.extract(as_sample(rings(2))))
    assert bool((terms.flatten(2).std(2) > 0).all())


@pytest.mark.parametrize("term", TERMS)
def test_globally_normalized_terms_are_standardized_on_held_out_normals(
    trained: VQVAE, term: str
) -> None:
    maps = (
        recalibrated(trained, term, normalise="global")
        .score(as_sample(rings(12, seed=2)))
        .anomaly_map
    )
    assert float(maps.mean()) == pytest.approx(0, abs=1e-3)
    assert float(maps.std()) == pytest.approx(1, abs=1e-3)


def test_terms_normalized_by_pixel_have_zero_mean_at_each_pixel(trained: VQVAE) -> None:
    part = recalibrated(trained, "error", normalise="pixel")
    held_out = as_sample(rings(12, seed=2))
    maps = part.score(held_out).anomaly_map
    assert float(maps.mean(0).abs().max()) < 1e-3
    torch.testing.assert_close(
        maps * part.normality.pixel_sd[0] + part.normality.pixel_mean[0],
        part.terms(part.extract(held_out))[0],
    )


@pytest.mark.parametrize("term", TERMS)
def test_excess_is_zero_for_common_and_one_for_rare_values(trained: VQVAE, term: str) -> None:
    maps = (
        recalibrated(trained, term, normalise="excess")
        .score(as_sample(rings(12, seed=2)))
        .anomaly_map
    )
    assert float((maps == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float((maps > 1).float().mean()) == pytest.approx(0.001, abs=0.0005)


def test_map_is_the_weighted_sum_of_its_terms(trained: VQVAE) -> None:
    images = as_sample(rings(3, seed=5))
    single = {term: recalibrated(trained, term).score(images).anomaly_map for term in TERMS}
    equal = recalibrated(trained, *TERMS, balance="equal").score(images).anomaly_map
    torch.testing.assert_close(equal, sum(single.values()))
    both = recalibrated(trained, "error", "context")
    both.explained.fill_(0.2)
    share = 0.4
    expected = (1 - share) * single["error"] + share * single["context"]
    torch.testing.assert_close(both.score(images).anomaly_map, expected)
    both.explained.fill_(0.7)  # from one half, the surprisal terms determine the map
    torch.testing.assert_close(both.score(images).anomaly_map, single["context"])


def test_terms_have_equal_weights_without_the_learned_prior(trained: VQVAE) -> None:
    images = as_sample(rings(3, seed=5))
    single = {
        t: recalibrated(trained, t).score(images).anomaly_map for t in ("error", "neighbours")
    }
    both = recalibrated(trained, "error", "neighbours").score(images).anomaly_map
    torch.testing.assert_close(both, single["error"] + single["neighbours"])


def test_map_is_the_error_with_a_collapsed_codebook(trained: VQVAE) -> None:
    part = recalibrated(trained, "error", "context")
    one_code = torch.zeros(8, 8, 8, dtype=torch.int64)
    part.prior.fit(one_code, part.quantizer.codebook, steps=60, places=64)
    assert part._explained_fraction(one_code, one_code) == 0


def test_map_is_the_error_where_codes_are_noise(trained: VQVAE) -> None:
    part = recalibrated(trained, "error", "context")
    noise = torch.randint(64, (40, 8, 8), generator=torch.Generator().manual_seed(0))
    part.prior.fit(noise[:30], part.quantizer.codebook, steps=10)
    assert part._explained_fraction(noise[:30], noise[30:]) < 0.05


def test_relative_error_is_normalized_by_position(trained: VQVAE) -> None:
    part = recalibrated(trained, "error", error_smoothing=0)
    images = rings(3, seed=5)
    error = (part.reconstruct(images)[0] - images).square().mean(1)
    mean = part.error_mean
    expected = (error - mean) / (mean + 0.3 * mean.mean())
    torch.testing.assert_close(part.terms(part.extract(as_sample(images)))[0], expected)
    assert float(part.terms(part.extract(as_sample(rings(32))))[0].mean()) == pytest.approx(
        0, abs=0.05
    )


@pytest.mark.parametrize("kind", ["max", "mean", "top"])
def test_image_score_of_the_map(kind: str) -> None:
    plain = {"terms": ["error"], "error": "plain", "normalise": "none"}
    part = detector(scoring={**plain, "image_score": kind, "top": 0.25})
    scores = part.score(as_sample(rings(3)))
    values = scores.anomaly_map.flatten(1).sort(1, descending=True).values
    expected = {"max": values[:, 0], "mean": values.mean(1), "top": values[:, :256].mean(1)}
    torch.testing.assert_close(scores.image_score, expected[kind])


@pytest.mark.parametrize("term", ["position", "context"])
def test_unusual_brightness_is_not_a_defect(trained: VQVAE, term: str) -> None:
    images = rings(12, seed=6)
    bright = (images * 1.3).clamp(0, 1)

    def rise(light: float) -> float:
        part = recalibrated(trained, term, light=light, context_steps=60)
        row = TERMS.index(term)
        before, after = (
            part.terms(part.extract(as_sample(batch)))[row].mean() for batch in (images, bright)
        )
        return float(after - before)

    without = rise(0.0)
    assert without > 0.3
    assert rise(0.2) < 0.7 * without


def test_brightness_setting_requires_recalibration() -> None:
    assert not VQVAE.can_rescore(Scoring(), Scoring(light=0.3))
    assert VQVAE.can_rescore(Scoring(), Scoring(top=0.01))


def test_recalibration_gives_the_same_scores(trained: VQVAE) -> None:
    images = as_sample(rings(3, seed=5))
    first, second = (recalibrated(trained, *TERMS).score(images) for _ in range(2))
    assert torch.equal(first.anomaly_map, second.anomaly_map)


def test_weight_of_the_prior_is_robust_to_one_unusual_image(trained: VQVAE) -> None:
    part = recalibrated(trained, "error", "context", context_steps=60)
    train, remaining = (part.reconstruct(rings(n, seed=n))[1] for n in (32, 5))
    before = part._explained_fraction(train, remaining)
    assert before > 0.1
    noise = torch.randint(64, remaining[:1].shape, generator=torch.Generator().manual_seed(0))
    assert part._explained_fraction(train, torch.cat([remaining, noise])) > 0.9 * before


@pytest.mark.parametrize("term", TERMS)
def test_surprisal_is_high_at_the_defect(trained: VQVAE, term: str) -> None:
    part = recalibrated(trained, term)
    images = rings(4, seed=6)
    broken = images.clone()
    broken[:, :, 20:26, 8:14] = 0.05
    rise = part.score(as_sample(broken)).anomaly_map - part.score(as_sample(images)).anomaly_map
    inside, outside = rise[:, 20:26, 8:14].mean((1, 2)), rise[:, :8].mean((1, 2))
    assert bool((inside > 0.5).all()) and bool((inside > 3 * outside).all())


def test_crops_are_windows_of_their_image() -> None:
    images = torch.arange(2 * 3 * 24 * 32).view(2, 3, 24, 32).float()
    torch.manual_seed(0)
    crops = random_crops(images, 16)
    assert crops.shape == (2, 3, 16, 16)
    for image, crop in zip(images, crops, strict=True):
        (place,) = (image[0] == crop[0, 0, 0]).nonzero().tolist()
        y, x = place
        assert y % 4 == 0 and x % 4 == 0
        assert torch.equal(crop, image[:, y : y + 16, x : x + 16])
    assert random_crops(images, 64) is images


# Settings


def test_settings_are_passed_to_the_quantizer() -> None:
    part = detector(
        commitment=0.7, learning="gradient", gradient="rotation", levels=2, restart=0.2, decay=0.9
    )
    quantizer = part.quantizer
    assert (quantizer.commitment, quantizer.gradient, quantizer.levels) == (0.7, "rotation", 2)
    assert quantizer.codebooks[1].restart == 0.2 and quantizer.codebooks[1].decay == 0.9
    assert quantizer.codebooks[1].vectors.requires_grad


def test_requires_an_image() -> None:
    spec = InputSpec(channels=(8, 16), sizes=((16, 16), (8, 8)), image_size=(32, 32))
    with pytest.raises(UserError, match="needs images.*set features.backbone=pixels"):
        VQVAE(VQVAESettings(), spec)


def test_image_size_must_be_divisible_by_four() -> None:
    with pytest.raises(UserError, match=r"data\.image_size must be a multiple of 4.*30 x 30"):
        detector(side=30)


def test_cosine_with_residual_levels_raises() -> None:
    with pytest.raises(UserError, match="distance must be l2 if levels is above 1"):
        detector(levels=2, distance="cosine")


@pytest.mark.parametrize("recipe", ["vqvae.yaml", "paper/vqvae.yaml"])
def test_recipes_are_valid(recipe: str) -> None:
    tree = read_recipe(RECIPES / recipe)
    assert tree["detector"].pop("name") == "vqvae"
    validate(VQVAESettings, tree["detector"])
