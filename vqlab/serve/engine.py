"""Score the images of requests: decode, batch, score, describe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from vqlab.data import (
    BadImage,
    Pixels,
    accept_pixels,
    pixels_digest,
    read_encoded,
    size_of,
    too_small,
)
from vqlab.errors import ScoreError, UserError
from vqlab.serve.answers import DriftAnswer, Options, failed_answer, image_answer, model_answer
from vqlab.serve.batching import Batcher
from vqlab.serve.champions import Champions, ServedModel
from vqlab.serve.metrics import Metrics
from vqlab.serve.pixel_budget import PixelBudget
from vqlab.serve.settings import ServeSettings
from vqlab.serve.uploads import Upload
from vqlab.text import folder_name
from vqlab.watch import DriftState, read_drift_state

logger = logging.getLogger("vqlab.serve")
T = TypeVar("T")
_BUDGET = 2
"""Number of images of the maximum size that may be decoded at the same time."""


class QueueFull(Exception):
    """Too many images are in progress; `retry_after` (seconds): when to try again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class Engine:
    """The models of a server and the threads that score with them."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        """Load the champions. Raises UserError as `Champions`."""
        self._settings, self._metrics = settings, metrics
        accept_pixels(settings.max_pixels)
        self.champions = Champions(settings)
        self._in_progress = 0
        self._seconds_per_image = 0.1
        self._budget = PixelBudget(_BUDGET * settings.max_pixels)
        self._batcher = Batcher(settings.max_batch, settings.max_wait_ms / 1000, self._observe)
        self._pool = ThreadPoolExecutor(max(2, os.cpu_count() or 1), "images")
        self._poller: asyncio.Task[None] | None = None
        self.ready = False
        """Whether requests are served: between start and stop."""
        self._show_versions()

    async def start(self) -> None:
        """Start the scoring thread, and the task that checks for new champions."""
        self._batcher.start()
        self._poller = asyncio.create_task(self._poll())
        self.ready = True

    async def stop(self) -> None:
        """Finish all images, then end the threads."""
        self.ready = False
        if self._poller:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller
        await asyncio.to_thread(self._batcher.stop)
        self._pool.shutdown()

    async def predict(
        self,
        category: str | None,
        version: int | None,
        uploads: Sequence[Upload],
        options: Options,
    ) -> dict[str, Any]:
        """Return the fields of PredictAnswer. Raises QueueFull, UnknownModel, and BadImage if no
        image can be read."""
        with self._admitted(len(uploads)):
            served = self.champions.champion(category)
            if version is not None and version != served.version:
                served = await asyncio.to_thread(self.champions.version, category, version)
            results = await asyncio.gather(*(self._image(served, u, options) for u in uploads))
        failures = [result for result in results if isinstance(result, BadImage)]
        if len(failures) == len(results):
            raise failures[0]
        images = [
            failed_answer(upload.name, str(result)) if isinstance(result, BadImage) else result
            for upload, result in zip(uploads, results, strict=True)
        ]
        for image in images:
            self._metrics.images.labels(served.category, image["verdict"] or "error").inc()
        return {**model_answer(served), "images": images}

    def drift(self, category: str) -> DriftAnswer | None:
        """Return the latest drift test of a category; None if it is not watched. Raises
        UnknownModel."""
        served = self.champions.champion(category)
        state = self._drift_state(served)
        if state is None:
            return None
        return DriftAnswer(
            tested=state.tested, wealth=state.wealth, wealths=state.wealths, level=state.level,
            alarm=state.alarm, current=state.model == served.digest,
        )  # fmt: skip

    async def digest(self, category: str, upload: Upload) -> str:
        """Return the digest of an image's pixels. Raises UnknownModel and BadImage."""
        bits = self.champions.champion(category).model.data.bits
        most = self._settings.max_pixels
        width, height = await self._call(size_of, upload.content, most)
        async with self._budget.reserve(width * height):
            pixels = await self._call(read_encoded, upload.content, most, bits)
            return await self._call(pixels_digest, pixels)

    @contextmanager
    def _admitted(self, count: int) -> Iterator[None]:
        """Count images in progress. Raises QueueFull if there are too many."""
        waiting = self._in_progress
        if waiting and waiting + count > self._settings.max_queue:
            raise QueueFull(max(1, math.ceil(waiting * self._seconds_per_image)))
        self._in_progress += count
        self._metrics.images_in_progress.set(self._in_progress)
        try:
            yield
        finally:
            self._in_progress -= count
            self._metrics.images_in_progress.set(self._in_progress)

    async def _image(
        self, served: ServedModel, upload: Upload, options: Options
    ) -> dict[str, Any] | BadImage:
        most, bits = self._settings.max_pixels, served.model.data.bits
        try:
            width, height = await self._call(size_of, upload.content, most)
            async with self._budget.reserve(width * height):
                with self._batcher.expect(served):
                    pixels = await self._call(read_encoded, upload.content, most, bits)
                    _require_fit(served, pixels)
                    result = self._batcher.submit(served, pixels)
                prediction = await asyncio.wrap_future(result)
                return await self._call(image_answer, upload.name, prediction, options)
        except BadImage as error:
            return error
        except ScoreError as error:
            return failed_answer(upload.name, str(error))

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _observe(self, served: ServedModel, count: int, seconds: float) -> None:
        self._seconds_per_image += 0.1 * (seconds / count - self._seconds_per_image)
        self._metrics.batch_seconds.labels(served.category).observe(seconds)
        self._metrics.batch_images.labels(served.category).observe(count)

    async def _poll(self) -> None:
        """Check for new champions until cancelled; failures are logged and retried."""
        failure = ""
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            started = time.perf_counter()
            try:
                replaced = await asyncio.to_thread(self.champions.refresh)
                failure = ""
            except Exception as error:
                self._metrics.poll_failures.inc()
                text = str(error) if isinstance(error, UserError) else repr(error)
                if text != failure:  # not every few seconds
                    logger.warning("champions could not be updated: %s", text)
                failure, replaced = text, 0
            if replaced:
                self._metrics.replaced.inc(replaced)
                versions = {name: m.version for name, m in self.champions.current.items()}
                seconds = time.perf_counter() - started
                logger.info("new champions after %.1f s; versions in use: %s", seconds, versions)
            self._show_versions()
            await asyncio.to_thread(self._show_drift)

    def _show_versions(self) -> None:
        for category, served in self.champions.current.items():
            self._metrics.champion.labels(category).set(served.version)

    def _show_drift(self) -> None:
        states: dict[str, DriftState] = {}
        for category, served in self.champions.current.items():
            state = self._drift_state(served)
            if state is not None and state.model == served.digest:
                states[category] = state
        self._metrics.show_drift(states)

    def _drift_state(self, served: ServedModel) -> DriftState | None:
        return read_drift_state(self._settings.watched / folder_name(served.category))


def _require_fit(served: ServedModel, pixels: Pixels) -> None:
    """Raise BadImage if an image (H, W, 3) does not fit the inspected area or tiles of a model."""
    area, size = served.model.area, (pixels.shape[0], pixels.shape[1])
    if area is not None and not area.fits(size):
        raise BadImage(f"{area.mismatch(size)}; use images of that aspect ratio.")
    if small := too_small(size, served.model.data):
        raise BadImage(f"{small}; use images of at least that size.")
