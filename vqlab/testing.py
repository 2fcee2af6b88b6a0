"""The contract of a detector, for those who write one: `check_detector("my_detector")`.

Each check is a function that takes a `DetectorCase` and raises AssertionError where the detector
breaks the contract; `CHECKS` lists them, for a parametrised test of each. They run on images of 32
px without a backbone and take a few seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vqlab.config import dump, validate
from vqlab.detectors import Detector, detector_class
from vqlab.types import InputSpec, Pyramid

SIDE = 32
SPEC = InputSpec(channels=(3,), sizes=((SIDE, SIDE),), image_size=(SIDE, SIDE))


@dataclass(frozen=True)
class DetectorCase:
    """A registered detector with the settings that it is checked with."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What differs from its defaults, as in section `detector` of a recipe."""

    def build(self, seed: int = 0) -> Detector:
        """Return a new detector for images of 32 px."""
        torch.manual_seed(seed)
        kind = detector_class(self.name)
        return kind(validate(kind.Config, self.settings), SPEC)

    @cached_property
    def trained(self) -> Detector:
        """A detector trained for 80 steps on pictures of a ring; no check may change its state."""
        return train(self.build(), steps=80)


def check_detector(name: str, settings: Mapping[str, Any] | None = None) -> None:
    """Run every check on the detector registered as `name`; raises AssertionError where one fails.

    settings: make it small, so that the checks are quick, e.g. `{"width": 8}`.
    """
    case = DetectorCase(name, settings or {})
    for check in CHECKS:
        run_check(check, case)


def run_check(check: Check, case: DetectorCase) -> None:
    """Run one check, and check that it left the trained detector as it was."""
    before = {k: v.clone() for k, v in case.trained.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        check(case)
    for key, value in case.trained.state_dict().items():
        assert torch.equal(before[key], value), f"scoring changed {key}"


def settings_have_defaults(case: DetectorCase) -> None:
    kind = detector_class(case.name).Config
    settings = validate(kind, {})
    assert validate(kind, dump(settings)) == settings


def config_and_spec_are_stored(case: DetectorCase) -> None:
    detector = case.build()
    assert detector.config == validate(detector.Config, case.settings), "config is not stored"
    assert detector.spec == SPEC, "spec is not stored"


def loss_is_finite_scalar_and_named(case: DetectorCase) -> None:
    detector = case.build()
    losses = detector.loss((products(4, seed=1),))
    assert "loss" in losses
    for value in losses.values():
        assert value.shape == () and bool(value.isfinite())


def every_trainable_parameter_gets_a_gradient(case: DetectorCase) -> None:
    detector = case.build()
    detector.prepare(batches(products(8, seed=1)))
    learned = [w for w in detector.parameters() if w.requires_grad]
    optimizer = torch.optim.SGD(learned, 1e-2) if learned else None
    for _ in range(25):  # with steps: layers that start at zero hide those before them
        detector.zero_grad()
        loss = detector.loss((products(8, seed=1),))["loss"]
        if optimizer is not None:
            torch.autograd.backward(loss)
            optimizer.step()
    for name, weights in detector.named_parameters():
        if not weights.requires_grad:
            continue
        assert weights.grad is not None and bool(weights.grad.isfinite().all()), name
        assert bool(weights.grad.any()), f"{name} gets a gradient of zeros"


@torch.no_grad()
def score_shapes(case: DetectorCase) -> None:
    scores = case.trained.score((products(5, seed=3),))
    assert scores.anomaly_map.shape == (5, SIDE, SIDE) and scores.image_score.shape == (5,)
    for value in (scores.anomaly_map, scores.image_score):
        assert value.dtype == torch.float32 and bool(value.isfinite().all())


@torch.no_grad()
def score_before_training_is_finite(case: DetectorCase) -> None:
    scores = case.build().score((products(2, seed=3),))
    assert bool(scores.anomaly_map.isfinite().all() and scores.image_score.isfinite().all())


@torch.no_grad()
def score_does_not_depend_on_batch_mates(case: DetectorCase) -> None:
    images = products(6, seed=3)
    together = case.trained.score((images,))
    others = case.trained.score((torch.cat([torch.rand(3, 3, SIDE, SIDE), images[2:3]]),))
    alone = case.trained.score((images[2:3],))
    for scores, at in ((together, 2), (others, 3)):
        torch.testing.assert_close(
            scores.anomaly_map[at], alone.anomaly_map[0], rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(
            scores.image_score[at], alone.image_score[0], rtol=1e-3, atol=1e-4
        )


@torch.no_grad()
def score_does_not_depend_on_the_training_flag_or_chance(case: DetectorCase) -> None:
    images = products(4, seed=3)
    chance = torch.get_rng_state()
    calm = case.trained.eval().score((images,))
    eager = case.trained.train().score((images,))
    case.trained.eval()
    assert torch.equal(calm.anomaly_map, eager.anomaly_map)
    assert torch.equal(calm.image_score, eager.image_score)
    assert torch.equal(chance, torch.get_rng_state())


@torch.no_grad()
def a_synthetic_anomaly_scores_above_its_clean_twin(case: DetectorCase) -> None:
    clean = products(6, seed=4)
    broken, mask = spoiled(clean)
    before, after = case.trained.score((clean,)), case.trained.score((broken,))
    assert bool((after.image_score > before.image_score).all())
    inside = after.anomaly_map[:, mask].mean(1)
    assert bool((inside > before.anomaly_map[:, mask].mean(1)).all())
    assert bool((inside > after.anomaly_map[:, ~mask].mean(1)).all())


@torch.no_grad()
def scores_of_what_was_read_equal_score(case: DetectorCase) -> None:
    images = products(4, seed=3)
    reading = case.trained.read((images,))
    assert all(len(part) == 4 for part in reading)
    for scores in (case.trained.scores_of(reading), case.trained.scores_of(tuple(reading))):
        direct = case.trained.score((images,))
        assert torch.equal(scores.anomaly_map, direct.anomaly_map)
        assert torch.equal(scores.image_score, direct.image_score)


@torch.no_grad()
def state_round_trip(case: DetectorCase) -> None:
    other = case.build(seed=9).eval()
    other.load_state_dict(case.trained.state_dict())
    images = products(4, seed=3)
    one, two = case.trained.score((images,)), other.score((images,))
    assert torch.equal(one.anomaly_map, two.anomaly_map)
    assert torch.equal(one.image_score, two.image_score)


def same_seed_same_result(case: DetectorCase) -> None:
    images = products(4, seed=3)
    detectors = [train(case.build(), steps=25) for _ in range(2)]
    with torch.no_grad():
        one, two = (detector.score((images,)) for detector in detectors)
    assert torch.equal(one.anomaly_map, two.anomaly_map)
    assert torch.equal(one.image_score, two.image_score)


def calibrating_again_replaces(case: DetectorCase) -> None:
    other = case.build().eval()
    other.load_state_dict(case.trained.state_dict())
    other.calibrate(batches(torch.rand(16, 3, SIDE, SIDE)), batches(torch.rand(8, 3, SIDE, SIDE)))
    other.calibrate(batches(products(32, seed=1)), batches(products(16, seed=2)))
    for key, value in case.trained.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def health_is_numbers_read_once(case: DetectorCase) -> None:
    detector = train(case.build(), steps=25)
    assert all(isinstance(value, float) for value in detector.health().values())
    assert detector.health() == {}


@torch.no_grad()
def panels_are_pictures_or_integer_maps(case: DetectorCase) -> None:
    for title, panel in case.trained.panels((products(3, seed=3),)).items():
        assert len(panel) == 3, title
        if panel.is_floating_point():
            assert panel.shape[1:] == (3, SIDE, SIDE)
            assert 0 <= float(panel.min()) and float(panel.max()) <= 1
        else:
            assert panel.ndim == 3 and int(panel.min()) >= 0
            assert int(panel.max()) < case.trained.codebook_sizes()[title]


@torch.no_grad()
def prototypes_are_codes_of_single_images(case: DetectorCase) -> None:
    images = products(6, seed=3)
    together, alone = (case.trained.prototypes_of((part,)) for part in (images, images[2:3]))
    if together is None or alone is None:
        assert together is alone
        return
    assert together.indices.shape == (6,) and together.indices.dtype == torch.int64
    assert together.vectors.shape == (6, together.codebook.shape[1])
    assert int(together.indices[2]) == int(alone.indices[0]) < len(together.codebook)
    torch.testing.assert_close(together.vectors[2], alone.vectors[0], rtol=1e-3, atol=1e-4)
    eager = case.trained.train().prototypes_of((images,))
    case.trained.eval()
    assert eager is not None and torch.equal(eager.vectors, together.vectors)


def products(count: int, seed: int) -> Tensor:
    """Return images (N, 3, 32, 32) of a ring on grey, with varied light, place and noise."""
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
    """Return the images with a dark bar across the ring, and its mask (H, W)."""
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[20:26, 8:14] = True
    return torch.where(mask, 0.05, images), mask


def batches(images: Tensor) -> list[Pyramid]:
    """Return the images as pyramids of one level, 8 images each."""
    return [(part,) for part in torch.split(images, 8)]


def train(detector: Detector, steps: int) -> Detector:
    """Prepare, train and calibrate a detector on images of `products`."""
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
        torch.autograd.backward(loss)
        optimizer.step()
    detector.eval()
    detector.calibrate(batches(images), batches(products(16, seed=2)))
    return detector


Check = Callable[[DetectorCase], None]
CHECKS: tuple[Check, ...] = (
    settings_have_defaults,
    config_and_spec_are_stored,
    loss_is_finite_scalar_and_named,
    every_trainable_parameter_gets_a_gradient,
    score_shapes,
    score_before_training_is_finite,
    score_does_not_depend_on_batch_mates,
    score_does_not_depend_on_the_training_flag_or_chance,
    a_synthetic_anomaly_scores_above_its_clean_twin,
    scores_of_what_was_read_equal_score,
    state_round_trip,
    same_seed_same_result,
    calibrating_again_replaces,
    health_is_numbers_read_once,
    panels_are_pictures_or_integer_maps,
    prototypes_are_codes_of_single_images,
)
"""The whole contract."""
