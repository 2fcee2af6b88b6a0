"""The contract of detectors, one function per check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from vqlab.config import dump, validate
from vqlab.detectors import (
    HasAlternatives,
    HasCodeMaps,
    HasPanels,
    HasPrototypes,
    Rescorable,
    detector_class,
    extract,
    scores,
)
from vqlab.testing.case import (
    PYRAMID,
    SIDE,
    SPEC,
    DetectorCase,
    batches,
    products,
    train,
    with_anomaly,
)
from vqlab.types import Scores


def check_detector(name: str, settings: Mapping[str, Any] | None = None) -> None:
    """Run every check on the detector registered as `name`; raises AssertionError if one fails.

    The detector is checked on images and on pyramids of two levels, unless its constructor raises a
    UserError for one of them. settings: small values make the checks fast, e.g. `{"width": 8}`.
    """
    cases = [DetectorCase(name, settings or {}, spec) for spec in (SPEC, PYRAMID)]
    accepted = [case for case in cases if case.accepted] or cases[:1]
    for case in accepted:
        for check in CHECKS:
            # Simple detectors need not detect anomalies in random features.
            if case is accepted[0] or check is not a_synthetic_anomaly_scores_above_its_clean_twin:
                run_check(check, case)


def run_check(check: Check, case: DetectorCase) -> None:
    """Run one check, and check that it does not change the trained detector."""
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
    assert detector.spec == case.spec, "spec is not stored"


def loss_is_finite_scalar_and_named(case: DetectorCase) -> None:
    detector = case.build()
    losses = detector.loss(case.sample(products(4, seed=1)))
    assert "loss" in losses
    for value in losses.values():
        assert value.shape == () and bool(value.isfinite())


def every_trainable_parameter_gets_a_gradient(case: DetectorCase) -> None:
    detector = case.build()
    detector.prepare(batches(products(8, seed=1), case.spec))
    weights = [w for w in detector.parameters() if w.requires_grad]
    optimizer = torch.optim.SGD(weights, 1e-2) if weights else None
    for _ in range(25):  # layers initialised to zero block the gradient at first
        detector.zero_grad()
        loss = detector.loss(case.sample(products(8, seed=1)))["loss"]
        if optimizer is not None:
            torch.autograd.backward(loss)
            optimizer.step()
    for name, weight in detector.named_parameters():
        if not weight.requires_grad:
            continue
        assert weight.grad is not None and bool(weight.grad.isfinite().all()), name
        assert bool(weight.grad.any()), f"{name} gets a gradient of zeros"


@torch.no_grad()
def score_shapes(case: DetectorCase) -> None:
    result = case.trained.score(case.sample(products(5, seed=3)))
    assert result.anomaly_map.shape == (5, SIDE, SIDE) and result.image_score.shape == (5,)
    for value in (result.anomaly_map, result.image_score):
        assert value.dtype == torch.float32 and bool(value.isfinite().all())


def images_may_have_any_shape_if_declared(case: DetectorCase) -> None:
    """A detector with `any_shape` learns from and scores images of other shapes than the spec's."""
    if not detector_class(case.name).any_shape:
        return
    tall, square = products(8, seed=3)[..., : SIDE // 2], products(8, seed=4)
    detector = case.build()
    detector.prepare([case.sample(tall), case.sample(square)])
    for images in (tall, square):
        assert bool(detector.loss(case.sample(images))["loss"].isfinite())
    parts = [case.sample(square), case.sample(tall)]
    detector.eval()
    detector.calibrate(parts, parts)
    with torch.no_grad():
        result = detector.score(case.sample(tall[:3]))
    assert result.anomaly_map.shape == (3, SIDE, SIDE // 2) and result.image_score.shape == (3,)
    assert bool(result.anomaly_map.isfinite().all() and result.image_score.isfinite().all())


@torch.no_grad()
def score_before_training_is_finite(case: DetectorCase) -> None:
    result = case.build().score(case.sample(products(2, seed=3)))
    assert bool(result.anomaly_map.isfinite().all() and result.image_score.isfinite().all())


@torch.no_grad()
def score_does_not_depend_on_batch_mates(case: DetectorCase) -> None:
    images = products(6, seed=3)
    noise = torch.cat([torch.rand(3, 3, SIDE, SIDE), images[2:3]])
    single = case.trained.score(case.sample(images[2:3]))
    for batch, index in ((images, 2), (noise, 3)):
        result = case.trained.score(case.sample(batch))
        for name in ("anomaly_map", "image_score"):
            value, expected = getattr(result, name)[index], getattr(single, name)[0]
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def score_does_not_depend_on_the_training_flag_or_random_state(case: DetectorCase) -> None:
    images = products(4, seed=3)
    random_state = torch.get_rng_state()
    evaluating = case.trained.eval().score(case.sample(images))
    training = case.trained.train().score(case.sample(images))
    case.trained.eval()
    assert_equal(evaluating, training)
    assert torch.equal(random_state, torch.get_rng_state())


@torch.no_grad()
def a_synthetic_anomaly_scores_above_its_clean_twin(case: DetectorCase) -> None:
    clean = products(6, seed=4)
    anomalous, mask = with_anomaly(clean)
    before = case.trained.score(case.sample(clean))
    after = case.trained.score(case.sample(anomalous))
    assert bool((after.image_score > before.image_score).all())
    inside = after.anomaly_map[:, mask].mean(1)
    assert bool((inside > before.anomaly_map[:, mask].mean(1)).all())
    assert bool((inside > after.anomaly_map[:, ~mask].mean(1)).all())


@torch.no_grad()
def scores_of_extracted_outputs_equal_score(case: DetectorCase) -> None:
    sample = case.sample(products(4, seed=3))
    extracted = extract(case.trained, sample)
    assert all(len(part) == 4 for part in extracted)
    for part in (extracted, tuple(extracted)):
        assert_equal(scores(case.trained, part), case.trained.score(sample))
    if isinstance(case.trained, Rescorable):
        scoring = getattr(case.trained.config, "scoring", case.trained.config)
        assert case.trained.can_rescore(scoring, scoring)


@torch.no_grad()
def state_round_trip(case: DetectorCase) -> None:
    other = case.build(seed=9).eval()
    other.load_state_dict(case.trained.state_dict())
    images = products(4, seed=3)
    sample = case.sample(images)
    assert_equal(case.trained.score(sample), other.score(sample))


def same_seed_same_result(case: DetectorCase) -> None:
    images = products(4, seed=3)
    detectors = [case.briefly_trained, train(case.build(), steps=25)]
    with torch.no_grad():
        first, second = (detector.score(case.sample(images)) for detector in detectors)
    assert_equal(first, second)


def calibrating_again_replaces(case: DetectorCase) -> None:
    other = case.build().eval()
    other.load_state_dict(case.trained.state_dict())
    for images, held_out in (
        (torch.rand(16, 3, SIDE, SIDE), torch.rand(8, 3, SIDE, SIDE)),
        (products(32, seed=1), products(16, seed=2)),
    ):
        other.calibrate(batches(images, case.spec), batches(held_out, case.spec))
    for key, value in case.trained.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def health_is_numbers_and_reset(case: DetectorCase) -> None:
    detector = case.briefly_trained
    assert all(isinstance(value, float) for value in detector.health().values())
    assert detector.health() == {}


@torch.no_grad()
def alternatives_are_scores(case: DetectorCase) -> None:
    if not isinstance(case.trained, HasAlternatives):
        return
    extracted = extract(case.trained, case.sample(products(3, seed=3)))
    for name, result in case.trained.alternatives(extracted).items():
        assert result.anomaly_map.shape == (3, SIDE, SIDE) and result.image_score.shape == (3,), (
            name
        )
        assert bool(result.anomaly_map.isfinite().all() and result.image_score.isfinite().all())


@torch.no_grad()
def panels_are_pictures_or_integer_maps(case: DetectorCase) -> None:
    detector = case.trained
    if not isinstance(detector, HasPanels):
        return
    sizes = detector.codebook_sizes() if isinstance(detector, HasCodeMaps) else {}
    for title, panel in detector.panels(
        extract(detector, case.sample(products(3, seed=3)))
    ).items():
        assert len(panel) == 3, title
        if panel.is_floating_point():
            assert panel.shape[1:] == (3, SIDE, SIDE)
            assert 0 <= float(panel.min()) and float(panel.max()) <= 1
        else:
            assert panel.ndim == 3 and int(panel.min()) >= 0
            assert int(panel.max()) < sizes[title]


@torch.no_grad()
def prototypes_are_codes_of_single_images(case: DetectorCase) -> None:
    detector, images = case.trained, products(6, seed=3)
    if not isinstance(detector, HasPrototypes):
        return
    batch, single, training = (
        detector.train(flag).prototypes(extract(detector, case.sample(part)))
        for flag, part in ((False, images), (False, images[2:3]), (True, images))
    )
    detector.eval()
    if batch is None or single is None or training is None:
        assert batch is single is training
        return
    assert batch.indices.shape == (6,) and batch.indices.dtype == torch.int64
    assert batch.vectors.shape == (6, batch.codebook.shape[1])
    assert int(batch.indices[2]) == int(single.indices[0]) < len(batch.codebook)
    torch.testing.assert_close(batch.vectors[2], single.vectors[0], rtol=1e-3, atol=1e-4)
    assert torch.equal(training.vectors, batch.vectors)
    direct = detector.extract_prototypes(case.sample(images))
    assert direct is not None and torch.equal(direct.vectors, batch.vectors)
    assert torch.equal(direct.indices, batch.indices)


def assert_equal(first: Scores, second: Scores) -> None:
    """Raise AssertionError if two results differ in any bit."""
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert torch.equal(first.image_score, second.image_score)


Check = Callable[[DetectorCase], None]
CHECKS: tuple[Check, ...] = (
    settings_have_defaults,
    config_and_spec_are_stored,
    loss_is_finite_scalar_and_named,
    every_trainable_parameter_gets_a_gradient,
    score_shapes,
    images_may_have_any_shape_if_declared,
    score_before_training_is_finite,
    score_does_not_depend_on_batch_mates,
    score_does_not_depend_on_the_training_flag_or_random_state,
    a_synthetic_anomaly_scores_above_its_clean_twin,
    scores_of_extracted_outputs_equal_score,
    state_round_trip,
    same_seed_same_result,
    calibrating_again_replaces,
    health_is_numbers_and_reset,
    alternatives_are_scores,
    panels_are_pictures_or_integer_maps,
    prototypes_are_codes_of_single_images,
)
"""The whole contract."""
