"""Lists of arrays, in memory up to a limit, then in a temporary file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vqlab.types import UserError

Array = NDArray[Any]
IN_MEMORY = 1 << 30
"""Maximum number of bytes in memory per pass: 4,096 anomaly maps of 256 px."""


@dataclass
class Budget:
    """Number of bytes in several spools."""

    used: int = 0


class Spool:
    """List of arrays of one type.

    Beyond `IN_MEMORY` bytes they are written to an unnamed file, which the system deletes with the
    last array mapped from it.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self._in_memory: list[Array] = []
        self._shapes: list[tuple[int, ...]] = []
        """Shapes of the arrays in the file."""
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._file: IO[bytes] | None = None

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, values: Array) -> None:
        """Append an array. Raises UserError if the folder for temporary files is full."""
        self._budget.used += values.nbytes
        if self._budget.used <= IN_MEMORY and self._file is None:
            self._in_memory.append(values)
            return
        self._shapes.append(values.shape)
        self._dtype = values.dtype
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="vqlab-maps-")
            self._file.write(values.tobytes())
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write anomaly maps to {tempfile.gettempdir()}: {error.strerror}; free "
                "space, or set TMPDIR to another folder."
            ) from error

    def arrays(self) -> list[Array]:
        """Return all arrays; those in the file are read when they are accessed."""
        if self._file is None:
            return self._in_memory
        flat = np.asarray(np.memmap(self._file, self._dtype, "c"))
        ends = np.cumsum([prod(shape) for shape in self._shapes])
        pieces = zip(np.split(flat, ends[:-1]), self._shapes, strict=True)
        return self._in_memory + [piece.reshape(shape) for piece, shape in pieces]
