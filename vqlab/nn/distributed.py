"""Several processes that work on one batch: each has a share of its images, and what they learn of
it they learn together. In one process nothing here does anything.

`torchrun` starts the processes, called ranks, and `joined` makes them a group. A rank knows of the
others only in two places: inside `batch_of`, where tensors are summed or brought together; and
where all meet, `agreed` and `from_first`. Everything else, judging say, a rank does by itself.

Random draws for a batch are made for the whole of it by every rank, which takes its own rows, so
that all generators stay alike and the draws are those of one process.
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
PATIENCE = timedelta(days=1)
"""How long a rank waits for the others: the first one prepares and validates meanwhile. One that
has ended is noticed at once."""


class Share(NamedTuple):
    """This rank's part of a batch."""

    first: int
    """Place of its first image in the batch."""
    size: int
    """Images of it."""
    total: int
    """Images of the batch."""


class _State:
    joined = False
    settled = False
    """Whether all ranks know that the work failed."""
    share: Share | None = None


# The group


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that torchrun started are one group; they leave it together.

    A UserError that one of them raises inside all of them raise, at the latest when they leave.
    """
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=PATIENCE)
    _State.joined, _State.settled = True, False
    try:
        with agreed():
            yield
    except UserError:
        with suppress(RuntimeError):  # torchrun ends all where one ends early: wait for the others
            dist.all_reduce(torch.zeros(1))
        _leave()
        raise
    except BaseException:
        _State.joined = False
        raise
    _leave()


def _leave() -> None:
    _State.joined = False
    dist.destroy_process_group()


def ranks() -> int:
    """How many processes there are; 1 outside `joined`."""
    return dist.get_world_size() if _State.joined else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _State.joined else 0


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _State.joined else 0


# Where all ranks meet


@contextmanager
def agreed() -> Iterator[None]:
    """All ranks wait at the end for each other; a UserError of one inside all of them raise.

    Its sentence is that of the lowest such rank.
    """
    if ranks() == 1:
        yield
        return
    try:
        yield
    except UserError as error:
        if not _State.settled:
            _agree(error)
        raise
    _agree(None)


def _agree(error: UserError | None) -> None:
    failed = torch.tensor([int(error is not None)])
    with _met():
        dist.all_reduce(failed)
        if not failed.item():
            return
        _State.settled = True
        sentences: list[Any] = [None] * ranks()
        own = error and f"process {rank()} on {socket.gethostname()}: {error}"
        dist.all_gather_object(sentences, own and (str(error) if rank() == 0 else own))
    if error is None:
        raise UserError(next(filter(None, sentences)))


@contextmanager
def _met() -> Iterator[None]:
    """The end of another process as a sentence."""
    try:
        yield
    except RuntimeError as error:
        _State.settled = True
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"another process of this training ended ({reason}); see what it said, and go on with "
            "`--resume`."
        ) from error


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives on the first rank, on all; plain values and tensors, on the CPU."""
    if ranks() == 1:
        return make()
    kept = []
    with agreed():
        if rank() == 0:
            kept.append(make())
    buffer = io.BytesIO()
    if kept:
        torch.save(kept[0], buffer)
    with _met():
        size = torch.tensor([buffer.tell()])
        dist.broadcast(size, 0)
        data = torch.empty(int(size), dtype=torch.uint8)
        if kept:
            data = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        dist.broadcast(data, 0)
    if kept:
        return kept[0]
    loaded: T = torch.load(io.BytesIO(data.numpy().tobytes()), "cpu", weights_only=True)
    return loaded


# A batch and its shares


def own(things: Sequence[T]) -> Sequence[T]:
    """This rank's share of what is in a batch; all of it where there are fewer than ranks."""
    if len(things) < ranks():
        return things
    share = _shares(len(things))[rank()]
    return things[share.first : share.first + share.size]


@contextmanager
def batch_of(images: int) -> Iterator[None]:
    """Inside, tensors are rows of this rank's share of a batch of so many images, in its order.

    Where there are fewer images than ranks, each rank does the whole batch, as one process would.
    """
    if 1 < ranks() <= images:
        _State.share = _shares(images)[rank()]
    try:
        yield
    finally:
        _State.share = None


def _shares(images: int) -> list[Share]:
    """The share of every rank: as even as can be, one after another."""
    each, more = divmod(images, ranks())
    return [
        Share(each * number + min(number, more), each + (number < more), images)
        for number in range(ranks())
    ]


def weight() -> float:
    """This rank's share of the batch: what its means weigh in the means over the batch."""
    share = _State.share
    return 1.0 if share is None else share.size / share.total


def drawn(make: Callable[[int], Tensor], images: int) -> Tensor:
    """The rows of these images of a draw `make(n)` for all n images of the batch."""
    share = _State.share
    if share is None:
        return make(images)
    return make(share.total)[share.first : share.first + share.size]


def count_rows(rows: Tensor) -> int:
    """How many rows all ranks have; each has the same number for each of its images."""
    share = _State.share
    return len(rows) if share is None else len(rows) // share.size * share.total


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (N, …) of all ranks, in the order of the batch; carries no gradient."""
    share = _State.share
    if share is None:
        return rows
    each = len(rows) // share.size
    counts = [each * other.size for other in _shares(share.total)]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    everyone = [torch.empty_like(padded) for _ in counts]
    with _met():
        dist.all_gather(everyone, padded)
    return torch.cat([part[:count] for part, count in zip(everyone, counts, strict=True)])


def rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """Those of all ranks' rows (N, …) that are at `places` (n,), counted as `gather_rows` does."""
    share = _State.share
    if share is None:
        return rows[places]
    first = len(rows) // share.size * share.first
    here = (places >= first) & (places < first + len(rows))
    found = rows.new_zeros(len(places), *rows.shape[1:])
    found[here] = rows[places[here] - first]
    return sum_over_ranks(found)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks, the same bits on each; carries no gradient, see `summed`."""
    if _State.share is None:
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    with _met():
        dist.all_reduce(total)
    return total


def as_first(tensor: Tensor) -> Tensor:
    """The tensor, set to what it is on the first rank: what is decided by it must not depend on how
    different machines round."""
    if _State.share is not None:
        with _met():
            dist.broadcast(tensor, 0)
    return tensor


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return sum_over_ranks(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient)


def summed(tensor: Tensor) -> Tensor:
    """As `sum_over_ranks`, with the gradient that the sum of all ranks' losses has."""
    if _State.share is None:
        return tensor
    total: Tensor = _Summed.apply(tensor)
    return total
