"""Data-parallel training: every process (rank) computes a shard of each batch.

`torchrun` starts the processes; `process_group` connects them. Ranks communicate in two places
only: inside `sharded_batch`, where tensors are reduced or gathered, and in `error_barrier` and
`from_rank_zero`. In a single process every function here is the identity.

Every rank draws the random numbers of the whole batch and takes the rows of its shard, so that the
generators of all ranks stay in step and the draws equal those of a single process.
"""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vqlab.errors import UserError

T = TypeVar("T")
TIMEOUT = timedelta(days=1)
"""How long a rank waits for the others, since rank 0 prepares data and validates meanwhile. A rank
that exits is noticed at once."""


class Shard(NamedTuple):
    """Contiguous images of a batch assigned to one rank."""

    first: int
    """Position of the first image in the batch."""
    size: int
    """Number of images in the shard."""
    total: int
    """Number of images in the batch."""


class _State:
    initialized = False
    failed = False
    """Whether all ranks know about the failure."""
    shard: Shard | None = None


# The group


@contextmanager
def process_group() -> Iterator[None]:
    """Initialise the default process group of a torchrun launch; destroy it on exit.

    A UserError raised on one rank is raised on every rank, at the latest on exit.
    """
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=TIMEOUT)
    _State.initialized, _State.failed = True, False
    try:
        with error_barrier():
            yield
    except UserError:
        with suppress(RuntimeError):  # torchrun stops all ranks as soon as one exits
            dist.all_reduce(torch.zeros(1))
        _leave()
        raise
    except BaseException:
        _State.initialized = False
        raise
    _leave()


def _leave() -> None:
    _State.initialized = False
    dist.destroy_process_group()


def ranks() -> int:
    """Return the number of processes; 1 outside `process_group`."""
    return dist.get_world_size() if _State.initialized else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if _State.initialized else 0


def local_rank() -> int:
    """Return the rank of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _State.initialized else 0


# Synchronisation points of all ranks


@contextmanager
def error_barrier() -> Iterator[None]:
    """Wait for all ranks at the end of the block; raise a UserError of one rank on every rank.

    The message is that of the lowest rank that failed.
    """
    if ranks() == 1:
        yield
        return
    try:
        yield
    except UserError as error:
        if not _State.failed:
            _exchange(error)
        raise
    _exchange(None)


def _exchange(error: UserError | None) -> None:
    failed = torch.tensor([int(error is not None)])
    with _peer_errors():
        dist.all_reduce(failed)
        if not failed.item():
            return
        _State.failed = True
        sentences: list[Any] = [None] * ranks()
        prefix = f"process {rank()} on {socket.gethostname()}: " if rank() else ""
        dist.all_gather_object(sentences, error and f"{prefix}{error}")
    if error is None:
        raise UserError(next(filter(None, sentences)))


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Turn the loss of another process into a UserError."""
    try:
        yield
    except RuntimeError as error:
        _State.failed = True
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"another process of this training ended ({reason}); check its output, then continue "
            "with `--resume`."
        ) from error


def from_rank_zero(make: Callable[[], T]) -> T:
    """Return on every rank what `make` returns on rank 0: plain values and CPU tensors."""
    if ranks() == 1:
        return make()
    values = []
    with error_barrier():
        if rank() == 0:
            values.append(make())
    buffer = io.BytesIO()
    if values:
        torch.save(values[0], buffer)
    with _peer_errors():
        size = torch.tensor([buffer.tell()])
        dist.broadcast(size, 0)
        data = torch.empty(int(size), dtype=torch.uint8)
        if values:
            data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        dist.broadcast(data, 0)
    if values:
        return values[0]
    loaded: T = torch.load(io.BytesIO(data.numpy().tobytes()), "cpu", weights_only=True)
    return loaded


# A batch and its shards


def shard(items: Sequence[T]) -> Sequence[T]:
    """Return this rank's shard of a batch; the whole batch if it has fewer items than ranks."""
    if len(items) < ranks():
        return items
    local = _shards(len(items))[rank()]
    return items[local.first : local.first + local.size]


@contextmanager
def sharded_batch(images: int) -> Iterator[None]:
    """Declare that tensors inside the block are rows of this rank's shard of a batch.

    With fewer images than ranks, every rank computes the whole batch, as a single process would.
    """
    if 1 < ranks() <= images:
        _State.shard = _shards(images)[rank()]
    try:
        yield
    finally:
        _State.shard = None


def _shards(images: int) -> list[Shard]:
    """Return the shards of all ranks: contiguous, sizes differ by at most one."""
    each, more = divmod(images, ranks())
    return [
        Shard(each * number + min(number, more), each + (number < more), images)
        for number in range(ranks())
    ]


def batch_weight() -> float:
    """Return the shard's fraction of the batch: the weight of its mean in the batch mean."""
    part = _State.shard
    return 1.0 if part is None else part.size / part.total


def sample_shard(make: Callable[[int], Tensor], images: int) -> Tensor:
    """Return the shard's rows of `make(n)`, a random draw for all n images of the batch."""
    part = _State.shard
    if part is None:
        return make(images)
    return make(part.total)[part.first : part.first + part.size]


def count_rows(rows: Tensor) -> int:
    """Return the number of rows on all ranks; every image has the same number of rows."""
    part = _State.shard
    return len(rows) if part is None else len(rows) // part.size * part.total


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (N, …) of all ranks in batch order, without gradient."""
    part = _State.shard
    if part is None:
        return rows
    each = len(rows) // part.size
    counts = [each * other.size for other in _shards(part.total)]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    with _peer_errors():
        dist.all_gather(gathered, padded)
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])


def gather_rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """Return `gather_rows(rows)[places]` for `places` (n,), transferring those rows only."""
    part = _State.shard
    if part is None:
        return rows[places]
    first = len(rows) // part.size * part.first
    local = (places >= first) & (places < first + len(rows))
    selected = rows.new_zeros(len(places), *rows.shape[1:])
    selected[local] = rows[places[local] - first]
    return sum_over_ranks(selected)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum over all ranks, bitwise equal on each, without gradient."""
    if _State.shard is None:
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    with _peer_errors():
        dist.all_reduce(total)
    return total


def broadcast(tensor: Tensor) -> Tensor:
    """Overwrite the tensor with that of rank 0, so that decisions based on it do not depend on
    rounding differences between machines."""
    if _State.shard is not None:
        with _peer_errors():
            dist.broadcast(tensor, 0)
    return tensor


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return sum_over_ranks(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum over all ranks, with the gradient of the sum of all ranks' losses."""
    if _State.shard is None:
        return tensor
    total: Tensor = _AllReduceSum.apply(tensor)
    return total
