"""Two processes that share batches give the same results as one process, and the same bits as each
other."""

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

Results = dict[str, Tensor]
BATCHES = (5, 4, 7, 1)
"""Images of the batches: shared unevenly, evenly, and too few to share."""


def images(count: int, seed: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def drifting_images(count: int, step: int, *shape: int) -> Tensor:
    """Return images whose mean moves every few steps, so that unused codes are restarted."""
    offset = torch.zeros(shape[:1] + (1,) * (len(shape) - 1))
    offset[step // 4] = 10.0
    return images(count, step, *shape) + offset


def state_of(module: nn.Module) -> Results:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def codebook_after_training(quantizer: VectorQuantizer) -> Results:
    """Train a quantizer on shared batches and return its state; a gradient codebook takes SGD
    steps."""
    for step in range(12):
        count = BATCHES[step % len(BATCHES)]
        z = distributed.shard(drifting_images(count, step, 4, 3, 2))
        with distributed.sharded_batch(count):
            loss = quantizer(z).loss * distributed.batch_weight()
            for weight in quantizer.parameters():
                (gradient,) = torch.autograd.grad(loss, weight)
                weight.data -= 0.1 * distributed.sum_over_ranks(gradient)
    usage = quantizer.pop_usage()
    assert usage is not None
    return state_of(quantizer) | {"usage": usage.histogram}


def ema() -> Results:
    options = CodebookOptions(decay=0.8, restart=0.3, init="kmeans")
    return codebook_after_training(VectorQuantizer(6, 4, options, learning="ema", levels=2))


def gradient_descent() -> Results:
    options = CodebookOptions(decay=0.8, restart=0.3, init="kmeans")
    return codebook_after_training(VectorQuantizer(6, 4, options))


def cosine() -> Results:
    options = CodebookOptions(decay=0.7, restart=0.2)
    return codebook_after_training(
        VectorQuantizer(6, 4, options, learning="ema", distance="cosine")
    )


def grouped() -> Results:
    quantizer = GroupedQuantizer(3, 4, 5, CodebookOptions(1.0, decay=0.5, restart=0.4))
    for step in range(12):
        count = BATCHES[step % len(BATCHES)]
        group = distributed.shard((torch.arange(count) * (step + 1)) % 3)
        with distributed.sharded_batch(count):
            quantizer(distributed.shard(drifting_images(count, step, 6, 5)), group)
    usage = quantizer.pop_usage()
    assert usage is not None
    return state_of(quantizer) | {"usage": usage.histogram}


def batch_norm_network() -> Results:
    """Return the gradients and the state of a network with batch norm."""
    network = nn.Sequential(nn.Linear(3, 4), BatchNorm(4), nn.ReLU(), nn.Linear(4, 2))
    tensors = {}
    for step, count in enumerate((5, 2, 4)):
        rows = distributed.shard(images(count, step, 2, 3)).flatten(0, 1)
        with distributed.sharded_batch(count):
            loss = network(rows).square().mean() * distributed.batch_weight()
            for place, gradient in enumerate(torch.autograd.grad(loss, list(network.parameters()))):
                tensors[f"{step} {place}"] = distributed.sum_over_ranks(gradient)
    return tensors | state_of(network)


def gathered_rows_and_noise() -> Results:
    mine = distributed.shard(images(5, 0, 3, 2))
    with distributed.sharded_batch(5):
        gathered = distributed.gather_rows(mine.flatten(0, 1))
        places = torch.tensor([14, 0, 8, 9, 8])
        noise = distributed.sample_shard(lambda count: torch.randn(count, 2), len(mine))
        return {
            "rows": gathered,
            "some": distributed.gather_rows_at(mine.flatten(0, 1), places),
            "noise": distributed.gather_rows(noise),
            "next": torch.rand(1),
            "count": torch.tensor(distributed.count_rows(mine.flatten(0, 1))),
        }


CASES: dict[str, Callable[[], Results]] = {
    case.__name__: case
    for case in (
        ema,
        gradient_descent,
        cosine,
        grouped,
        batch_norm_network,
        gathered_rows_and_noise,
    )
}


def seeded(case: Callable[[], Results]) -> Results:
    torch.manual_seed(0)
    return case()


def run_cases() -> dict[str, object]:
    """Return the results of this process, which shares batches with the other one."""
    results: dict[str, object] = {}
    try:
        with distributed.process_group():
            results |= {name: seeded(case) for name, case in CASES.items()}
            number = distributed.rank()
            results["broadcast"] = distributed.from_rank_zero(
                lambda: {"rank": number, "t": torch.ones(2)}
            )
            shares = [distributed.shard(range(count)) for count in range(1, 6)]
            results["shares"] = [list(share) for share in shares]
            if number == 1:
                raise UserError("the image is damaged.")
            with distributed.error_barrier():  # rank 0 receives the error here
                pass
            results["error"] = "no error"
    except UserError as error:
        results["error"] = str(error)
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Results of each of the two processes."""
    return in_two_processes(run_cases, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", CASES)
def test_ranks_agree_with_each_other_and_with_a_single_process(
    results: list[dict[str, object]], name: str
) -> None:
    single = seeded(CASES[name])
    first, second = (rank[name] for rank in results)
    assert isinstance(first, dict) and isinstance(second, dict)
    assert single.keys() == first.keys() == second.keys()
    for key, tensor in single.items():
        assert torch.equal(first[key], second[key]), key
        if tensor.is_floating_point():
            torch.testing.assert_close(first[key], tensor, rtol=1e-4, atol=1e-5, msg=key)
        else:
            assert torch.equal(first[key], tensor), key


@pytest.mark.parametrize("name", ["ema", "gradient_descent", "cosine", "grouped"])
def test_cases_restart_codes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precondition: the cases cover restarts of codes."""
    restarted = []

    def counted(rows: Tensor, places: Tensor) -> Tensor:
        restarted.append(len(places))
        return rows[places]

    monkeypatch.setattr(distributed, "gather_rows_at", counted)
    seeded(CASES[name])
    assert sum(restarted) > 2


def test_shards_are_even_and_fewer_images_than_ranks_are_replicated(
    results: list[dict[str, object]],
) -> None:
    assert results[0]["shares"] == [[0], [0], [0, 1], [0, 1], [0, 1, 2]]
    assert results[1]["shares"] == [[0], [1], [2], [2, 3], [3, 4]]


def test_value_of_rank_zero_is_broadcast(results: list[dict[str, object]]) -> None:
    for result in results:
        message = result["broadcast"]
        assert isinstance(message, dict)
        assert message["rank"] == 0 and torch.equal(message["t"], torch.ones(2))


def test_error_on_one_rank_is_raised_on_all(results: list[dict[str, object]]) -> None:
    assert results[1]["error"] == "the image is damaged."
    assert results[0]["error"] == f"process 1 on {socket.gethostname()}: the image is damaged."


def test_single_process_has_one_shard() -> None:
    assert (distributed.ranks(), distributed.rank()) == (1, 0)
    rows = images(4, 0, 2)
    with distributed.error_barrier(), distributed.sharded_batch(4):
        assert len(distributed.shard(rows)) == 4 and distributed.gather_rows(rows) is rows
        assert distributed.sum_over_ranks(rows) is rows and distributed.all_reduce_sum(rows) is rows
        assert distributed.batch_weight() == 1
    assert distributed.from_rank_zero(lambda: rows) is rows


def test_batch_norm_equals_torch_in_a_single_process() -> None:
    rows = images(6, 0, 4)
    ours, theirs = BatchNorm(4), nn.BatchNorm1d(4)
    assert torch.equal(ours(rows), theirs(rows))
    assert torch.equal(ours.running_var, theirs.running_var)  # type: ignore[arg-type]
