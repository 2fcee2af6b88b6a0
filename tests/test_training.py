"""The training loop: epochs, order, schedule, divergence, resume."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vqlab.config import merge
from vqlab.data import load_dataset
from vqlab.run import make_trainer, resolve
from vqlab.training import Trainer, TrainingSettings, choose_device, seed_everything
from vqlab.types import UserError

Tree = dict[str, Any]


def trainer(small: Tree, **training: Any) -> Trainer:
    config = resolve(merge(small, {"training": training}))
    return make_trainer(config, load_dataset(config.data), torch.device("cpu"))


def test_an_epoch_sees_every_image_once_in_another_order(small: Tree) -> None:
    part = trainer(small)
    count = len(part.images)
    seed_everything(0, 1)
    first = part._order()
    seed_everything(0, 2)
    second = part._order()
    assert sorted(first) == sorted(second) == list(range(count)) and first != second


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_per_epoch_draws_evenly(small: Tree, steps: int) -> None:
    part = trainer(small, steps_per_epoch=steps, batch_size=7)
    order = part._order()
    counts = [order.count(index) for index in range(len(part.images))]
    assert len(order) == 7 * steps and max(counts) - min(counts) <= 1


def test_cosine_falls_to_two_percent(small: Tree) -> None:
    part = trainer(small, schedule="cosine", learning_rate=0.01)
    rates = [part._set_rate(step, 11) for step in range(11)]
    assert rates[0] == pytest.approx(0.01) and rates[-1] == pytest.approx(0.0002)
    assert rates == sorted(rates, reverse=True)
    assert part.optimizer is not None and part.optimizer.param_groups[0]["lr"] == rates[-1]


def test_the_loss_falls(small: Tree) -> None:
    part = trainer(small, epochs=8, learning_rate=0.01)
    losses: list[float] = []
    part.fit(lambda epoch, metrics: losses.append(metrics["train/reconstruction"]))
    assert losses[-1] < 0.5 * losses[0]


def test_clipping_bounds_the_step(small: Tree) -> None:
    free, clipped = trainer(small, epochs=1), trainer(small, epochs=1, clip=1e-9)
    before = {k: v.detach().clone() for k, v in clipped.detector.named_parameters()}
    free.fit(lambda epoch, metrics: None)
    clipped.fit(lambda epoch, metrics: None)
    moved = [
        float(
            (dict(part.detector.named_parameters())["encoder.0.weight"].detach() - before[name])
            .abs()
            .max()
        )
        for part, name in ((free, "encoder.0.weight"), (clipped, "encoder.0.weight"))
    ]
    assert moved[1] < 0.5 * moved[0]


def test_divergence_is_a_sentence_that_says_what_to_do(small: Tree) -> None:
    part = trainer(small, epochs=2)
    with torch.no_grad():
        next(part.detector.parameters()).fill_(math.inf)
    with pytest.raises(UserError, match="diverged.*epoch 1, step 1; lower training.learning_rate"):
        part.fit(lambda epoch, metrics: None)


def test_state_goes_on_where_it_was(small: Tree) -> None:
    whole = trainer(small)
    whole.fit(lambda epoch, metrics: None)
    states: list[Tree] = []

    class Stop(Exception):
        pass

    def stop(epoch: int, metrics: dict[str, float]) -> None:
        import copy

        states.append(copy.deepcopy(part.state()))
        if epoch == 2:
            raise Stop

    part = trainer(small)
    with pytest.raises(Stop):
        part.fit(stop)
    resumed = trainer(small)
    resumed.load(states[-1])
    resumed.fit(lambda epoch, metrics: None)
    assert resumed.history == whole.history
    for name, tensor in whole.detector.state_dict().items():
        assert torch.equal(tensor, resumed.detector.state_dict()[name]), name


def test_a_detector_without_weights_is_only_prepared(small: Tree) -> None:
    config = resolve({**small, "detector": "mean_image", "training": {"epochs": 5}})
    part = make_trainer(config, load_dataset(config.data), torch.device("cpu"))
    part.fit(lambda epoch, metrics: pytest.fail("an epoch ran"))
    assert part.history == []


def test_cuda_where_there_is_none_is_a_sentence() -> None:
    if torch.cuda.is_available():
        assert choose_device(TrainingSettings(device="cuda")).type == "cuda"
    else:
        assert choose_device(TrainingSettings()).type == "cpu"
        with pytest.raises(UserError, match="cuda is not available here"):
            choose_device(TrainingSettings(device="cuda"))
