"""Two processes that share batches come to the same as one that has them whole, and to the same
bits as each other."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from two_processes import in_two_processes

from vqlab.errors import UserError
from vqlab.nn import distributed
from vqlab.nn.batch_norm import BatchNorm
from vqlab.nn.codebook import CodebookOptions
from vqlab.nn.hierarchy import GroupedQuantizer
from vqlab.nn.quantizer import VectorQuantizer

Found = dict[str, Tensor]
BATCHES = (5, 4, 7, 1)
"""Images of the batches: shared unevenly, evenly, and too few to share."""


def images(count: int, seed: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def wandering(count: int, step: int, *shape: int) -> Tensor:
    """Images that leave some codes behind every few steps, so that these start anew."""
    to = torch.zeros(shape[:1] + (1,) * (len(shape) - 1))
    to[step // 4] = 10.0
    return images(count, step, *shape) + to


def state_of(module: nn.Module) -> Found:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def quantised(quantizer: VectorQuantizer) -> Found:
    """What steps on shared batches make of codebooks; a gradient codebook descends."""
    for step in range(12):
        count = BATCHES[step % len(BATCHES)]
        z = distributed.shard(wandering(count, step, 4, 3, 2))
        with distributed.sharded_batch(count):
            loss = quantizer(z).loss * distributed.batch_weight()
            for weight in quantizer.parameters():
                (gradient,) = torch.autograd.grad(loss, weight)
                weight.data -= 0.1 * distributed.sum_over_ranks(gradient)
    usage = quantizer.pop_usage()
    assert usage is not None
    return state_of(quantizer) | {"usage": usage.histogram}


def moving() -> Found:
    options = CodebookOptions(decay=0.8, restart=0.3, init="kmeans")
    return quantised(VectorQuantizer(6, 4, options, learning="ema", levels=2))


def by_gradient() -> Found:
    options = CodebookOptions(decay=0.8, restart=0.3, init="kmeans")
    return quantised(VectorQuantizer(6, 4, options))


def on_sphere() -> Found:
    options = CodebookOptions(decay=0.7, restart=0.2)
    return quantised(VectorQuantizer(6, 4, options, learning="ema", distance="cosine"))


def grouped() -> Found:
    quantizer = GroupedQuantizer(3, 4, 5, CodebookOptions(1.0, decay=0.5, restart=0.4))
    for step in range(12):
        count = BATCHES[step % len(BATCHES)]
        group = distributed.shard((torch.arange(count) * (step + 1)) % 3)
        with distributed.sharded_batch(count):
            quantizer(distributed.shard(wandering(count, step, 6, 5)), group)
    usage = quantizer.pop_usage()
    assert usage is not None
    return state_of(quantizer) | {"usage": usage.histogram}


def normed() -> Found:
    """A network with batch norm: its gradients, and what the norm remembers."""
    network = nn.Sequential(nn.Linear(3, 4), BatchNorm(4), nn.ReLU(), nn.Linear(4, 2))
    tensors = {}
    for step, count in enumerate((5, 2, 4)):
        rows = distributed.shard(images(count, step, 2, 3)).flatten(0, 1)
        with distributed.sharded_batch(count):
            loss = network(rows).square().mean() * distributed.batch_weight()
            for place, gradient in enumerate(torch.autograd.grad(loss, list(network.parameters()))):
                tensors[f"{step} {place}"] = distributed.sum_over_ranks(gradient)
    return tensors | state_of(network)


def rows_and_draws() -> Found:
    mine = distributed.shard(images(5, 0, 3, 2))
    with distributed.sharded_batch(5):
        whole = distributed.gather_rows(mine.flatten(0, 1))
        places = torch.tensor([14, 0, 8, 9, 8])
        noise = distributed.sample_shard(lambda count: torch.randn(count, 2), len(mine))
        return {
            "rows": whole,
            "some": distributed.gather_rows_at(mine.flatten(0, 1), places),
            "noise": distributed.gather_rows(noise),
            "next": torch.rand(1),
            "count": torch.tensor(distributed.count_rows(mine.flatten(0, 1))),
        }


CASES: dict[str, Callable[[], Found]] = {
    case.__name__: case
    for case in (moving, by_gradient, on_sphere, grouped, normed, rows_and_draws)
}


def seeded(case: Callable[[], Found]) -> Found:
    torch.manual_seed(0)
    return case()


def found_here() -> dict[str, object]:
    """What this process finds, together with the other one."""
    results: dict[str, object] = {}
    try:
        with distributed.process_group():
            results |= {name: seeded(case) for name, case in CASES.items()}
            number = distributed.rank()
            results["told"] = distributed.from_rank_zero(
                lambda: {"rank": number, "t": torch.ones(2)}
            )
            shares = [distributed.shard(range(count)) for count in range(1, 6)]
            results["shares"] = [list(share) for share in shares]
            if number == 1:
                raise UserError("the picture is torn.")
            with distributed.error_barrier():  # where the first rank learns of it
                pass
            results["error"] = "went on"
    except UserError as error:
        results["error"] = str(error)
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What each of two processes found."""
    return in_two_processes(found_here, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", CASES)
def test_processes_agree_with_each_other_and_with_one(
    results: list[dict[str, object]], name: str
) -> None:
    alone = seeded(CASES[name])
    first, second = (rank[name] for rank in results)
    assert isinstance(first, dict) and isinstance(second, dict)
    assert alone.keys() == first.keys() == second.keys()
    for key, tensor in alone.items():
        assert torch.equal(first[key], second[key]), key
        if tensor.is_floating_point():
            torch.testing.assert_close(first[key], tensor, rtol=1e-4, atol=1e-5, msg=key)
        else:
            assert torch.equal(first[key], tensor), key


@pytest.mark.parametrize("name", ["moving", "by_gradient", "on_sphere", "grouped"])
def test_the_cases_restart_codes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would not show that restarts are shared."""
    restarted = []

    def counted(rows: Tensor, places: Tensor) -> Tensor:
        restarted.append(len(places))
        return rows[places]

    monkeypatch.setattr(distributed, "gather_rows_at", counted)
    seeded(CASES[name])
    assert sum(restarted) > 2


def test_shares_are_even_and_too_few_images_are_everyones(results: list[dict[str, object]]) -> None:
    assert results[0]["shares"] == [[0], [0], [0, 1], [0, 1], [0, 1, 2]]
    assert results[1]["shares"] == [[0], [1], [2], [2, 3], [3, 4]]


def test_the_first_tells_the_others(results: list[dict[str, object]]) -> None:
    for result in results:
        message = result["told"]
        assert isinstance(message, dict)
        assert message["rank"] == 0 and torch.equal(message["t"], torch.ones(2))


def test_an_error_of_one_is_everyones(results: list[dict[str, object]]) -> None:
    assert results[1]["error"] == "the picture is torn."
    assert results[0]["error"] == f"process 1 on {socket.gethostname()}: the picture is torn."


def test_one_process_shares_nothing() -> None:
    assert (distributed.ranks(), distributed.rank()) == (1, 0)
    rows = images(4, 0, 2)
    with distributed.error_barrier(), distributed.sharded_batch(4):
        assert len(distributed.shard(rows)) == 4 and distributed.gather_rows(rows) is rows
        assert distributed.sum_over_ranks(rows) is rows and distributed.all_reduce_sum(rows) is rows
        assert distributed.batch_weight() == 1
    assert distributed.from_rank_zero(lambda: rows) is rows


def test_batch_norm_is_torchs_in_one_process() -> None:
    rows = images(6, 0, 4)
    ours, theirs = BatchNorm(4), nn.BatchNorm1d(4)
    assert torch.equal(ours(rows), theirs(rows))
    assert torch.equal(ours.running_var, theirs.running_var)  # type: ignore[arg-type]
