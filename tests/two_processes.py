"""Run a function in two processes that communicate by torch.distributed, and collect the
results."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from commands import ensure_server

RANKS = 2
Result = dict[str, Any]


def in_two_processes(work: Callable[..., Result], folder: Path, *arguments: object) -> list[Result]:
    """Return the results of `work(*arguments)`, an importable function, in each of two
    processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    call = (port, folder, work, arguments)
    ensure_server()
    torch.multiprocessing.start_processes(_rank, call, nprocs=RANKS, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def _rank(
    rank: int, port: int, folder: Path, work: Callable[..., Result], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    torch.save(work(*arguments), folder / f"{rank}.pt")
