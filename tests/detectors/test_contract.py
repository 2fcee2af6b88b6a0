"""What every registered detector keeps to; a new one is tested here without another line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from vqlab.config import Settings, dump, validate
from vqlab.detectors import Detector, detector_class, names, register
from vqlab.types import InputSpec, Pyramid, UserError

SIDE = 32
SPEC = InputSpec(channels=(3,), sizes=((SIDE, SIDE),), image_size=(SIDE, SIDE))
FLOW = {
    "neighbourhood": 1,
    "positions": 8,
    "concept": {"codebook_size": 4, "dim": 8},
    "pattern": {"codebook_size": 16, "coverage": 200},
    "flow": {"blocks": [2], "hidden": 16, "condition": 16},
}
SMALL = {"hidden": 16, "codebook_size": 32, "dim": 8, "scoring": {"context_steps": 30}}
QUICK: dict[str, list[dict[str, Any]]] = {
    "memory_bank": [{"bank_size": 300}],
    "vqvae": [
        SMALL | {"warmup": 20},
        SMALL
        | {"warmup": 0, "latent_norm": "none"}
        | {"learning": "gradient", "init": "random", "restart": 0},
    ],
    "vqflow": [
        FLOW,
        FLOW | {"base": "mixture"},
        FLOW
        | {"levels": "each", "base": "standard"}
        | {"flow": {"blocks": [1], "hidden": 8, "kernel": 3, "fusion": True, "condition": 8}},
    ],
}
"""Settings that make a detector small; one without an entry is tested as it is by default."""
CASES = [(name, settings) for name in names() for settings in QUICK.get(name, [{}])]


def products(count: int, seed: int) -> Tensor:
    """Images (N, 3, 32, 32) of a ring on a grey ground, with varied light, place and noise."""
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    shift = torch.rand(count, 2, 1, 1, generator=draw) * 2
    far = ((y - 15 - shift[:, 0]).square() + (x - 15 - shift[:, 1]).square()).sqrt()
    ring = torch.exp(-0.5 * ((far - 9) / 2).square())
    colour = torch.tensor([0.4, 0.2, -0.1]).view(1, 3, 1, 1)
    light = 1 + 0.1 * torch.rand(count, 1, 1, 1, generator=draw)
    noise = 0.02 * torch.randn(count, 3, SIDE, SIDE, generator=draw)
    return ((0.4 + colour * ring[:, None]) * light + noise).clamp(0, 1)


def spoiled(images: Tensor) -> tuple[Tensor, Tensor]:
    """The same images with a dark bar across the ring, and its mask (H, W)."""
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[20:26, 8:14] = True
    return torch.where(mask, 0.05, images), mask


def build(name: str, settings: dict[str, Any], seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    kind = detector_class(name)
    return kind(validate(kind.Config, settings), SPEC)


def batches(images: Tensor) -> list[Pyramid]:
    return [(part,) for part in images.split(8)]


def train(detector: Detector, steps: int) -> Detector:
    images = products(32, seed=1)
    torch.manual_seed(7)
    detector.train()
    detector.prepare(batches(images))
    weights = list(detector.parameters())
    optimizer = torch.optim.Adam(weights, 3e-3) if weights else None
    for _ in range(steps if optimizer else 0):
        loss = detector.loss((images[torch.randperm(len(images))[:8]],))["loss"]
        assert optimizer is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    detector.eval()
    detector.calibrate(batches(images), batches(products(16, seed=2)))
    return detector


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{len(case[1])}")
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    found: tuple[str, dict[str, Any]] = request.param
    return found


@pytest.fixture(scope="module")
def trained(case: tuple[str, dict[str, Any]]) -> Detector:
    return train(build(*case), steps=80)


@pytest.fixture(autouse=True)
def scoring_changes_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test but those of training may change the trained detector's state."""
    detector = request.getfixturevalue("trained") if "trained" in request.fixturenames else None
    before = {k: v.clone() for k, v in detector.state_dict().items()} if detector else {}
    yield
    for key, value in detector.state_dict().items() if detector else ():
        assert torch.equal(before[key], value), key


def test_settings_have_defaults_and_a_section_scoring(case: tuple[str, dict[str, Any]]) -> None:
    kind = detector_class(case[0]).Config
    settings = validate(kind, {})
    assert isinstance(getattr(settings, "scoring", None), Settings)
    assert validate(kind, dump(settings)) == settings


def test_loss_is_finite_scalar_and_named(case: tuple[str, dict[str, Any]]) -> None:
    detector = build(*case)
    losses = detector.loss((products(4, seed=1),))
    assert "loss" in losses
    for value in losses.values():
        assert value.shape == () and bool(value.isfinite())


def test_every_trainable_parameter_gets_a_gradient(case: tuple[str, dict[str, Any]]) -> None:
    detector = build(*case)
    detector.prepare(batches(products(8, seed=1)))
    learned = [w for w in detector.parameters() if w.requires_grad]
    optimizer = torch.optim.SGD(learned, 1e-2) if learned else None
    for _ in range(25):  # with steps: layers that start at zero hide those before them
        detector.zero_grad()
        loss = detector.loss((products(8, seed=1),))["loss"]
        if optimizer is not None:
            loss.backward()
            optimizer.step()
    for name, weights in detector.named_parameters():
        if not weights.requires_grad:
            continue
        assert weights.grad is not None and bool(weights.grad.isfinite().all()), name
        assert bool(weights.grad.any()), f"{name} gets a gradient of zeros"


def test_score_shapes(trained: Detector) -> None:
    scores = trained.score((products(5, seed=3),))
    assert scores.anomaly_map.shape == (5, SIDE, SIDE) and scores.image_score.shape == (5,)
    for value in (scores.anomaly_map, scores.image_score):
        assert value.dtype == torch.float32 and bool(value.isfinite().all())
        assert not value.requires_grad


def test_score_before_training_is_finite(case: tuple[str, dict[str, Any]]) -> None:
    scores = build(*case).score((products(2, seed=3),))
    assert bool(scores.anomaly_map.isfinite().all() and scores.image_score.isfinite().all())


def test_score_does_not_depend_on_batch_mates(trained: Detector) -> None:
    images = products(6, seed=3)
    together = trained.score((images,))
    others = trained.score((torch.cat([torch.rand(3, 3, SIDE, SIDE), images[2:3]]),))
    alone = trained.score((images[2:3],))
    for scores, at in ((together, 2), (others, 3)):
        torch.testing.assert_close(
            scores.anomaly_map[at], alone.anomaly_map[0], rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            scores.image_score[at], alone.image_score[0], rtol=1e-3, atol=1e-4
        )


def test_score_does_not_depend_on_the_training_flag_or_chance(trained: Detector) -> None:
    images = products(4, seed=3)
    chance = torch.get_rng_state()
    calm = trained.eval().score((images,))
    eager = trained.train().score((images,))
    trained.eval()
    assert torch.equal(calm.anomaly_map, eager.anomaly_map)
    assert torch.equal(calm.image_score, eager.image_score)
    assert torch.equal(chance, torch.get_rng_state())


def test_a_drawn_defect_scores_above_its_clean_twin(trained: Detector) -> None:
    clean = products(6, seed=4)
    broken, mask = spoiled(clean)
    before, after = trained.score((clean,)), trained.score((broken,))
    assert bool((after.image_score > before.image_score).all())
    inside = after.anomaly_map[:, mask].mean(1)
    assert bool((inside > before.anomaly_map[:, mask].mean(1)).all())
    assert bool((inside > after.anomaly_map[:, ~mask].mean(1)).all())


def test_what_was_read_is_scored_as_the_image_is(trained: Detector) -> None:
    images = products(4, seed=3)
    reading = trained.read((images,))
    assert all(len(part) == 4 for part in reading)
    for scores in (trained.scores_of(reading), trained.scores_of(tuple(reading))):
        direct = trained.score((images,))
        assert torch.equal(scores.anomaly_map, direct.anomaly_map)
        assert torch.equal(scores.image_score, direct.image_score)


def test_state_round_trip(case: tuple[str, dict[str, Any]], trained: Detector) -> None:
    other = build(*case, seed=9).eval()
    other.load_state_dict(trained.state_dict())
    images = products(4, seed=3)
    one, two = trained.score((images,)), other.score((images,))
    assert torch.equal(one.anomaly_map, two.anomaly_map)
    assert torch.equal(one.image_score, two.image_score)


def test_same_seed_same_result(case: tuple[str, dict[str, Any]]) -> None:
    images = products(4, seed=3)
    one, two = (train(build(*case), steps=25).score((images,)) for _ in range(2))
    assert torch.equal(one.anomaly_map, two.anomaly_map)
    assert torch.equal(one.image_score, two.image_score)


def test_calibrating_again_replaces(case: tuple[str, dict[str, Any]], trained: Detector) -> None:
    other = build(*case).eval()
    other.load_state_dict(trained.state_dict())
    other.calibrate(batches(torch.rand(16, 3, SIDE, SIDE)), batches(torch.rand(8, 3, SIDE, SIDE)))
    other.calibrate(batches(products(32, seed=1)), batches(products(16, seed=2)))
    for key, value in trained.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_health_is_numbers_read_once(case: tuple[str, dict[str, Any]]) -> None:
    detector = train(build(*case), steps=25)
    assert all(isinstance(value, float) for value in detector.health().values())
    assert detector.health() == {}


def test_panels_are_pictures_or_integer_maps(trained: Detector) -> None:
    for title, panel in trained.panels((products(3, seed=3),)).items():
        assert len(panel) == 3, title
        if panel.is_floating_point():
            assert panel.shape[1:] == (3, SIDE, SIDE)
            assert 0 <= float(panel.min()) and float(panel.max()) <= 1
        else:
            assert panel.ndim == 3 and int(panel.min()) >= 0
            assert int(panel.max()) < trained.codebook_sizes()[title]


def test_prototypes_are_codes_of_single_images(trained: Detector) -> None:
    images = products(6, seed=3)
    together, alone = (trained.prototypes_of((part,)) for part in (images, images[2:3]))
    if together is None or alone is None:
        assert together is alone
        return
    assert together.indices.shape == (6,) and together.indices.dtype == torch.int64
    assert together.vectors.shape == (6, together.codebook.shape[1])
    assert int(together.indices[2]) == int(alone.indices[0]) < len(together.codebook)
    torch.testing.assert_close(together.vectors[2], alone.vectors[0], rtol=1e-3, atol=1e-4)
    eager = trained.train().prototypes_of((images,))
    trained.eval()
    assert eager is not None and torch.equal(eager.vectors, together.vectors)


def test_unknown_name_lists_close_matches() -> None:
    with pytest.raises(UserError, match="no detector 'vqave'; did you mean vqvae"):
        detector_class("vqave")


def test_taken_name_names_its_owner() -> None:
    with pytest.raises(ValueError, match=r"'vqvae' is taken by vqlab\.detectors\.vqvae\.VQVAE"):
        register("vqvae")(detector_class("mean_image"))
