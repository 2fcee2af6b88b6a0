"""Score images in one thread; waiting images of the same model form a batch."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from vqlab.model import Prediction
from vqlab.serve.champions import ServedModel

Array = NDArray[Any]
Observe = Callable[[ServedModel, int, float], None]
"""Called after each batch with the model, the number of images and the seconds."""


_GPU_BATCH = 8


@dataclass(frozen=True, eq=False)
class _Job:
    served: ServedModel
    pixels: Array
    result: Future[Prediction] = field(default_factory=Future)


class Batcher:
    """A queue of images and the thread that scores them.

    A batch starts as soon as the thread is idle. It waits, for at most `max_wait` seconds, only
    while other images of the same model are being decoded (see `expect`), so that a single client
    never waits.
    """

    def __init__(self, max_batch: int | None, max_wait: float, observe: Observe) -> None:
        """max_batch: see `ServeSettings.max_batch`."""
        self._max_batch, self._max_wait, self._observe = max_batch, max_wait, observe
        self._jobs: list[_Job] = []
        self._expected: Counter[ServedModel] = Counter()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Score the images in the queue, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    @contextmanager
    def expect(self, served: ServedModel) -> Iterator[None]:
        """Announce an image that is being decoded for this model, until the block ends."""
        with self._changed:
            self._expected[served] += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected[served] -= 1
                if not self._expected[served]:
                    del self._expected[served]
                self._changed.notify_all()

    def submit(self, served: ServedModel, pixels: Array) -> Future[Prediction]:
        """Add an image (H, W, 3) uint8 to the queue."""
        job = _Job(served, pixels)
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
        return job.result

    def _run(self) -> None:
        while batch := self._next():
            self._score([job for job in batch if job.result.set_running_or_notify_cancel()])

    def _next(self) -> list[_Job]:
        """Wait for the next batch, of the model whose image came first; empty if stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            if not self._jobs:
                return []
            served = self._jobs[0].served
            self._changed.wait_for(lambda: self._is_complete(served), self._max_wait)
            batch = [job for job in self._jobs if job.served is served][: self._limit(served)]
            self._jobs = [job for job in self._jobs if job not in batch]
            return batch

    def _is_complete(self, served: ServedModel) -> bool:
        waiting = sum(job.served is served for job in self._jobs)
        return waiting >= self._limit(served) or not self._expected[served] or self._stopping

    def _limit(self, served: ServedModel) -> int:
        """Return the maximum number of images of a batch of this model."""
        return self._max_batch or (1 if served.model.device.type == "cpu" else _GPU_BATCH)

    def _score(self, batch: list[_Job]) -> None:
        if not batch:
            return
        served, started = batch[0].served, time.perf_counter()
        try:
            predictions = served.model.score_batch([job.pixels for job in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
            else:  # one image, or the memory of all of them, may be the cause
                for job in batch:
                    self._score([job])
            return
        self._observe(served, len(batch), time.perf_counter() - started)
        for job, prediction in zip(batch, predictions, strict=True):
            job.result.set_result(prediction)
