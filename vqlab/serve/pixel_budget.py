"""Bound the number of pixels that are decoded at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PixelBudget:
    """At most `limit` pixels at a time, first come, first served; a larger image is processed
    alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._queue = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def reserve(self, pixels: int) -> AsyncIterator[None]:
        """Wait until `pixels` pixels fit, and hold them until the block ends."""
        async with self._queue:
            while self._used and self._used + pixels > self._limit:
                self._freed.clear()
                await self._freed.wait()
            self._used += pixels
        try:
            yield
        finally:
            self._used -= pixels
            self._freed.set()
