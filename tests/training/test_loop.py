"""The training loop: epochs, order, schedule, divergence, resuming."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vqlab.config import Settings, merge
from vqlab.data import load_dataset
from vqlab.detectors import Detector
from vqlab.run import make_trainer, resolve
from vqlab.training import (
    Diverged,
    Trainer,
    TrainingSettings,
    calibration_indices,
    choose_device,
    learning_rate,
    seed_everything,
)
from vqlab.training.calibration_images import stepped_indices
from vqlab.types import ImageRecord, Sample, Scores, UserError

Tree = dict[str, Any]
CPU = torch.device("cpu")
BOTH = {"data": {"categories": ["cable", "fabric"], "joint": True}}


def trainer(small: Tree, **training: Any) -> Trainer:
    config = resolve(merge(small, {"training": training}))
    return make_trainer(config, load_dataset(config.data), torch.device("cpu"))


def weights_of(part: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in part.detector.named_parameters()}


class Toy(Detector):
    """A detector with three weights and a loss that the test controls."""

    def __init__(self, part: Trainer, kind: str) -> None:
        super().__init__(Settings(), part.backbone.spec)
        self.kind = kind
        self.weights = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3)

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        if self.kind == "runaway":  # unbounded below, as a likelihood may be
            return {"loss": -self.weights.exp().sum()}
        if self.kind == "kink":  # loss 0 with a NaN gradient
            return {"loss": (0 * self.weights).abs().sqrt().sum()}
        return {"loss": (self.norm(sample.pyramid[0].mean((2, 3))) * self.weights).square().mean()}

    def score(self, sample: Sample) -> Scores:
        raise NotImplementedError


def toy(small: Tree, kind: str, **training: Any) -> Trainer:
    part = trainer(small, **training)
    return Trainer(Toy(part, kind), part.features, part.settings)


def test_epoch_visits_every_image_once_in_a_new_order(small: Tree) -> None:
    part = trainer(small)
    count = len(part.images)
    seed_everything(0, 1)
    first = part._order()
    seed_everything(0, 2)
    second = part._order()
    assert sorted(first) == sorted(second) == list(range(count)) and first != second


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_per_epoch_samples_uniformly(small: Tree, steps: int) -> None:
    part = trainer(small, steps_per_epoch=steps, batch_size=7)
    order = part._order()
    counts = [order.count(index) for index in range(len(part.images))]
    assert len(order) == 7 * steps and max(counts) - min(counts) <= 1


def test_cosine_schedule_ends_at_two_percent(small: Tree) -> None:
    part = trainer(small, schedule="cosine", learning_rate=0.01)
    rates = [learning_rate(part.settings, step, 11) for step in range(11)]
    part._set_rate(10, 11)
    assert rates[0] == pytest.approx(0.01) and rates[-1] == pytest.approx(0.0002)
    assert rates == sorted(rates, reverse=True)
    assert part.optimizer is not None and part.optimizer.param_groups[0]["lr"] == rates[-1]


def test_loss_decreases(small: Tree) -> None:
    part = trainer(small, epochs=8, learning_rate=0.01)
    losses: list[float] = []
    part.fit(lambda epoch, metrics: losses.append(metrics["train/reconstruction"]))
    assert losses[-1] < 0.5 * losses[0]


def test_clipping_limits_the_step(small: Tree) -> None:
    unclipped, clipped = trainer(small, epochs=1), trainer(small, epochs=1, clip=1e-9)
    before = {k: v.detach().clone() for k, v in clipped.detector.named_parameters()}
    unclipped.fit(lambda epoch, metrics: None)
    clipped.fit(lambda epoch, metrics: None)
    moved = [
        float(
            (dict(part.detector.named_parameters())["encoder.0.weight"].detach() - before[name])
            .abs()
            .max()
        )
        for part, name in ((unclipped, "encoder.0.weight"), (clipped, "encoder.0.weight"))
    ]
    assert moved[1] < 0.5 * moved[0]


def test_divergence_error_suggests_a_fix(small: Tree) -> None:
    part = trainer(small, epochs=2)
    with torch.no_grad():
        next(part.detector.parameters()).fill_(math.inf)
    with pytest.raises(UserError, match="diverged.*epoch 1, step 1; lower training.learning_rate"):
        part.fit(lambda epoch, metrics: None)


RESUMED: list[Tree] = [
    {},
    {"training": {"ema": 0.8, "batch_size": 4}},
    {
        **BOTH,
        "training": {
            "sampling": "balanced",
            "batch_size": 5,
            "drop_last": True,
            "optimizer": "adamw",
            "weight_decay": 0.1,
            "warmup_steps": 3,
            "schedule": "steps",
            "milestones": [1, 2],
            "clip": 0.1,
        },
    },
]


@pytest.mark.parametrize("last", [2, 3])
@pytest.mark.parametrize("tree", RESUMED, ids=["plain", "ema", "everything"])
def test_resumed_training_equals_uninterrupted_training(small: Tree, tree: Tree, last: int) -> None:
    """Includes resuming after the last epoch, and with the weights of the first epoch selected."""
    states: list[Tree] = []

    class Stop(Exception):
        pass

    def fit(part: Trainer, to: int) -> Trainer:
        def after(epoch: int, metrics: dict[str, float]) -> None:
            if epoch == 1 and "sampling" in tree.get("training", {}):
                part.select_epoch()
            states.append(copy.deepcopy(part.state()))
            if epoch == to:
                raise Stop

        part.fit(after)
        return part

    uninterrupted = fit(trainer(merge(small, tree)), to=4)
    with pytest.raises(Stop):
        fit(trainer(merge(small, tree)), to=last)
    resumed = trainer(merge(small, tree))
    resumed.load(states[-1])
    resumed.fit(lambda epoch, metrics: None)
    assert resumed.history == uninterrupted.history and len(uninterrupted.history) == 3
    for name, tensor in uninterrupted.detector.state_dict().items():
        assert torch.equal(tensor, resumed.detector.state_dict()[name]), name


def test_detector_without_parameters_is_only_prepared(small: Tree) -> None:
    config = resolve({**small, "detector": "mean_image", "training": {"epochs": 5}})
    part = make_trainer(config, load_dataset(config.data), torch.device("cpu"))
    part.fit(lambda epoch, metrics: pytest.fail("an epoch ran"))
    assert part.history == []


def test_unavailable_cuda_raises() -> None:
    if torch.cuda.is_available():
        assert choose_device(TrainingSettings(device="cuda")).type == "cuda"
    else:
        assert choose_device(TrainingSettings()).type == "cpu"
        with pytest.raises(UserError, match="CUDA is not available"):
            choose_device(TrainingSettings(device="cuda"))


# Learning rate and optimizer


@pytest.mark.parametrize("schedule", ["constant", "cosine", "steps"])
def test_warmup_is_linear_and_keeps_the_schedule(schedule: str) -> None:
    settings = {"learning_rate": 0.5, "schedule": schedule, "epochs": 10, "gamma": 0.2}
    milestones = {"milestones": [5, 8]} if schedule == "steps" else {}
    plain = TrainingSettings.model_validate({**settings, **milestones})
    warm = plain.model_copy(update={"warmup_steps": 4})
    rates = [learning_rate(warm, step, 100) for step in range(100)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    without = [learning_rate(plain, step, 100) for step in range(100)]
    if schedule == "cosine":  # decays over the remaining steps from 100 % to 2 %
        half = 0.5 * (0.02 + 0.98 / 2)
        assert rates[4:] == sorted(rates[4:], reverse=True)
        assert (rates[4], rates[-1]) == pytest.approx((0.5, 0.01))
        assert 0.5 * (rates[51] + rates[52]) == pytest.approx(half)
    else:
        assert rates[4:] == without[4:]
    if schedule == "steps":
        epochs = [rates[10 * epoch + 9] for epoch in range(10)]
        assert epochs == pytest.approx([0.5] * 5 + [0.1] * 3 + [0.02] * 2)
        assert rates[49] == 0.5 and rates[50] == pytest.approx(0.1)


def test_warmup_is_at_most_half_of_the_training() -> None:
    settings = TrainingSettings(warmup_steps=1000, learning_rate=0.1)
    rates = [learning_rate(settings, step, 6) for step in range(6)]
    assert rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1, 0.1])
    assert learning_rate(settings, 0, 1) == 0.1


def test_adamw_uses_decoupled_weight_decay(small: Tree) -> None:
    single = {"epochs": 1, "steps_per_epoch": 1, "learning_rate": 0.01}
    adam = trainer(small, **single)
    decayed = trainer(small, **single, optimizer="adamw", weight_decay=0.5)
    coupled = trainer(small, **single, weight_decay=0.5)
    start = weights_of(adam)
    for part in (adam, decayed, coupled):
        part.fit(lambda epoch, metrics: None)
    differ = False
    for name, undecayed in weights_of(adam).items():
        if not name.startswith(("encoder", "decoder")):  # no gradient from this loss
            continue
        expected = undecayed - 0.01 * 0.5 * start[name]
        torch.testing.assert_close(weights_of(decayed)[name], expected)
        differ |= not torch.allclose(weights_of(coupled)[name], expected)
    assert differ


def test_gradient_norm_is_measured_before_clipping(small: Tree) -> None:
    metrics: list[dict[str, float]] = []
    single = {"epochs": 1, "steps_per_epoch": 1}
    for clip in (None, 1e-6, 1e6):
        part = trainer(small, **single, clip=clip)
        part.fit(lambda epoch, values: metrics.append(values))
        grads = [p.grad for p in part.detector.parameters() if p.grad is not None]
        clipped_norm = float(torch.cat([grad.flatten() for grad in grads]).norm())
        norm = metrics[-1]["train/gradient_norm"]
        assert clipped_norm == pytest.approx(1e-6 if clip == 1e-6 else norm, rel=1e-3)
    assert metrics[0]["train/gradient_norm"] == metrics[1]["train/gradient_norm"] > 1e-3
    assert "train/clipped" not in metrics[0]
    assert [values["train/clipped"] for values in metrics[1:]] == [1.0, 0.0]


def test_clipped_is_the_share_of_clipped_steps(small: Tree) -> None:
    norms: list[float] = []
    part = trainer(small, epochs=1, batch_size=3)
    step = part._step

    def recorded_step(sample: Sample, images: int) -> tuple[dict[str, float], float]:
        values, norm = step(sample, images)
        norms.append(norm)
        return values, norm

    part._step = recorded_step  # type: ignore[method-assign]
    part.settings = part.settings.model_copy(update={"clip": 1e9})
    part.fit(lambda epoch, metrics: None)
    limit = sorted(norms)[1] * 0.5 + sorted(norms)[2] * 0.5
    assert part.history[0]["train/gradient_norm"] == pytest.approx(sum(norms) / len(norms))
    # clipping changes later steps, so the share is compared with the norms of the same run
    norms.clear()
    part = trainer(small, epochs=1, batch_size=3, clip=limit)
    step, part._step = part._step, recorded_step  # type: ignore[method-assign]
    part.fit(lambda epoch, metrics: None)
    assert 0 < sum(norm > limit for norm in norms) < len(norms)
    share = sum(norm > limit for norm in norms) / len(norms)
    assert part.history[0]["train/clipped"] == pytest.approx(share)


# Averaged weights


def test_averaged_weights_are_the_moving_average_of_every_step(small: Tree) -> None:
    quick = {"batch_size": 1, "learning_rate": 0.02}
    plain, part = trainer(small, **quick), trainer(small, **quick, ema=0.7)
    history: list[dict[str, Tensor]] = []
    assert part.optimizer is not None
    part.optimizer.register_step_post_hook(lambda *_: history.append(weights_of(part)))
    copies: list[Detector] = []
    part.fit(lambda epoch, metrics: copies.append(part.averaged_copy()))
    plain.fit(lambda epoch, metrics: None)
    assert plain.history == part.history  # averaging does not affect training
    average = history[0]
    for step, weights in enumerate(history[1:], 1):
        decay = min(0.7, step / (step + 10))
        average = {n: decay * average[n] + (1 - decay) * w for n, w in weights.items()}
    assert len(history) > 25  # enough steps to use both decays
    last = weights_of(plain)
    for name, tensor in part.detector.state_dict().items():
        assert torch.equal(tensor, copies[-1].state_dict()[name])
        if name in average:
            torch.testing.assert_close(tensor, average[name])
        else:  # buffers are copied from training
            assert torch.equal(tensor, plain.detector.state_dict()[name])
    assert not torch.allclose(average["encoder.0.weight"], last["encoder.0.weight"])
    assert all(torch.equal(history[-1][name], last[name]) for name in last)


@pytest.mark.parametrize("epochs", [0, 1])
def test_averaging_starts_from_the_prepared_state(small: Tree, epochs: int) -> None:
    part = toy(small, "norm", epochs=epochs, steps_per_epoch=1, ema=0.9, learning_rate=0.01)
    weights = part.detector.weights
    part.detector.prepare = lambda samples: weights.data.fill_(5)  # type: ignore[method-assign]
    part.fit(lambda epoch, metrics: None)
    assert weights.tolist() == pytest.approx([5 - 0.01 * epochs] * 3)


def test_selected_weights_are_used_at_the_end(small: Tree) -> None:
    part = trainer(small)
    selected: list[dict[str, Tensor]] = []

    def after_epoch(epoch: int, metrics: dict[str, float]) -> None:
        if epoch < 3:
            part.select_epoch()
            selected.append(weights_of(part))

    part.fit(after_epoch)
    assert all(torch.equal(tensor, selected[1][name]) for name, tensor in weights_of(part).items())
    assert not torch.equal(selected[0]["encoder.0.weight"], selected[1]["encoder.0.weight"])


# Sampling of an epoch


@pytest.mark.parametrize("steps", [None, 5])
def test_balanced_sampling_draws_each_category_equally_often(
    small: Tree, steps: int | None
) -> None:
    orders = {}
    for sampling in ("natural", "balanced"):
        part = trainer(merge(small, BOTH), sampling=sampling, steps_per_epoch=steps, batch_size=5)
        seed_everything(0, 1)
        orders[sampling] = part._order()
        seed_everything(0, 1)
        assert part._order() == orders[sampling]
        seed_everything(0, 2)
        assert part._order() != orders[sampling]
    categories = [record.category for record in part.images.records]
    assert len(orders["balanced"]) == len(orders["natural"])
    count = Counter(categories[index] for index in orders["balanced"])
    natural = Counter(categories)
    assert abs(natural["cable"] - natural["fabric"]) > 3
    assert abs(count["cable"] - count["fabric"]) <= 1
    for name in natural:  # uniform within a category
        counts = Counter(i for i in orders["balanced"] if categories[i] == name)
        all_indices = [counts[i] for i, category in enumerate(categories) if category == name]
        assert max(all_indices) - min(all_indices) <= 1
    first = [categories[index] for index in orders["balanced"][: len(categories) // 2]]
    assert len(set(first)) == 2  # categories are interleaved


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_unseen_calibration_images_are_excluded_from_the_steps(small: Tree, sampling: str) -> None:
    part = trainer(merge(small, BOTH), sampling=sampling, unseen_below=1000, steps_per_epoch=9)
    unseen = calibration_indices(part.images.records, 1000)
    stepped = [index for index in range(len(part.images)) if index not in unseen]
    assert unseen
    assert set(part._order()) == set(stepped)
    many = trainer(merge(small, BOTH), sampling=sampling, unseen_below=2, steps_per_epoch=9)
    assert set(many._order()) == set(range(len(part.images)))


class Unmeasured(Trainer):
    """Trainer that does not measure the unseen images."""

    def _unseen_losses(self) -> dict[str, float]:
        return {}


FLOW = {
    "name": "vqflow",
    "concept": {"codebook_size": 3, "dim": 4},
    "pattern": {"codebook_size": 8, "dim": 8, "coverage": 50},
}


@pytest.mark.parametrize(
    ("change", "name"),
    [({}, "loss"), ({"features": {"backbone": "filters"}, "detector": FLOW}, "nll")],
    ids=["vqvae", "vqflow"],
)
def test_loss_of_unseen_images_is_logged_and_leaves_training_unchanged(
    small: Tree, change: Tree, name: str
) -> None:
    detector = change.get("detector", small["detector"])
    config = resolve(
        {
            **small,
            **change,
            "detector": detector,
            "training": {"unseen_below": 100, "ema": 0.9, "device": "cpu", "epochs": 3},
        }
    )
    splits = load_dataset(config.data)
    parts = [make_trainer(config, splits, CPU, kind) for kind in (Trainer, Unmeasured)]
    draws = []
    for part in parts:
        part.fit(lambda epoch, metrics: draws.append(torch.rand(())))
    measured, unmeasured = parts
    assert draws[:3] == draws[3:]
    state = unmeasured.detector.state_dict()
    for key, tensor in measured.detector.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    keys = {f"train/unseen_{name}", f"train/seen_{name}"}
    for metrics, expected in zip(measured.history, unmeasured.history, strict=True):
        assert {key: value for key, value in metrics.items() if key not in keys} == expected
        assert keys < metrics.keys()
    unseen = calibration_indices(measured.images.records, 100)
    (sample,) = measured.features.in_order(unseen, len(unseen))
    with torch.no_grad():
        last = float(measured.detector.loss(sample)[name])
    assert measured.history[-1][f"train/unseen_{name}"] == pytest.approx(last, rel=1e-5)


def test_loss_of_unseen_images_needs_unseen_images(small: Tree) -> None:
    part = trainer(small, epochs=1)
    part.fit(lambda epoch, metrics: None)
    assert not any("seen" in key for key in part.history[0])


def test_number_of_unseen_images() -> None:
    def held_out(files: int, unseen_below: int) -> int:
        names = [f"{number}.png" for number in range(files)]
        records = [ImageRecord(Path(name), "cable", "good") for name in names for _ in range(2)]
        indices = calibration_indices(records, unseen_below)
        used = stepped_indices(records, unseen_below)
        assert len(used) == 2 * files - (len(indices) if files < unseen_below else 0)
        return len(indices) // 2

    assert held_out(240, 0) == held_out(240, 240) == 40
    assert held_out(240, 241) == 10
    assert [held_out(files, 500) for files in (60, 31, 12)] == [3, 4, 2]  # three where possible


def test_single_image_is_both_trained_on_and_calibrated_with(small: Tree) -> None:
    part = trainer(small)
    one = part.images.records[:1]
    assert calibration_indices(one, 10) == stepped_indices(one, 10) == [0]


def test_drop_last(small: Tree) -> None:
    part = trainer(small, epochs=1, batch_size=5, drop_last=True)
    count = len(part.images)
    assert count % 5 and len(part._order()) == count - count % 5
    with pytest.raises(UserError, match=rf"leaves no batch of {count} images in batches of 50"):
        trainer(small, batch_size=50, drop_last=True)
    trainer(small, batch_size=50, drop_last=True, steps_per_epoch=2)


def test_batch_of_one_with_batch_norm_raises(small: Tree) -> None:
    count = len(trainer(small).images)
    part = toy(small, "norm", epochs=1, batch_size=count - 1)
    with pytest.raises(UserError, match="at least two images.*set training.drop_last=true or"):
        part.fit(lambda epoch, metrics: None)
    part = toy(small, "norm", epochs=1, batch_size=count - 1, drop_last=True)
    part.fit(lambda epoch, metrics: None)
    assert len(part.history) == 1


# Divergence


def test_diverging_training_stops_at_the_last_finite_step(small: Tree) -> None:
    part = toy(small, "runaway", epochs=200, learning_rate=1.0, clip=1e30)
    with pytest.raises(
        Diverged, match=r"training.learning_rate \(now 1\) or training.clip"
    ) as error:
        part.fit(lambda epoch, metrics: None)
    assert "-inf" in str(error.value) or "norm is inf" in str(error.value)
    steps = math.ceil(len(part.images) / 8)
    place = f"epoch {len(part.history) + 1}, step "
    assert place in str(error.value) and 10 < len(part.history) * steps < 200
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(part).values())
    assert all(math.isfinite(value) for m in part.history for value in m.values())


def test_nan_gradient_does_not_change_the_weights(small: Tree) -> None:
    part = toy(small, "kink", epochs=1)
    with pytest.raises(Diverged, match="gradient's norm is nan at epoch 1, step 1; lower"):
        part.fit(lambda epoch, metrics: None)
    assert weights_of(part)["weights"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"schedule": "steps"}, "set training.milestones"),
        ({"milestones": [3]}, "got schedule constant; set training.schedule=steps"),
        ({"schedule": "cosine", "milestones": [3]}, "got schedule cosine"),
        ({"schedule": "steps", "milestones": [5, 3]}, "milestones: epochs must be distinct"),
        ({"schedule": "steps", "milestones": [0]}, "milestones.0: .*greater than or equal to 1"),
        ({"schedule": "steps", "milestones": [3], "gamma": 1.5}, "gamma"),
        ({"ema": 1.0}, "ema: .*less than 1"),
        ({"ema": 0}, "ema: .*greater than 0"),
        ({"select": "best_on_validation"}, "set training.validate_every=1"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_invalid_settings_raise(training: Tree, message: str) -> None:
    with pytest.raises(UserError, match=f"setting training.*{message}"):
        resolve({"training": training})
