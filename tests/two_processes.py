"""Two processes that work together, for tests: each calls a function and keeps what it gives."""

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
Found = dict[str, Any]


def in_two_processes(work: Callable[..., Found], folder: Path, *arguments: object) -> list[Found]:
    """What `work(*arguments)`, a function of a module, gives in each of two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    call = (port, folder, work, arguments)
    ensure_server()
    torch.multiprocessing.start_processes(_rank, call, nprocs=RANKS, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def _rank(
    rank: int, port: int, folder: Path, work: Callable[..., Found], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    torch.save(work(*arguments), folder / f"{rank}.pt")
