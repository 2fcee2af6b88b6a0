"""Several threads give the rows of a single thread, in order; items are computed shortly before
use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vqlab.model import Model
from vqlab.predict import predict_files
from vqlab.predict.workers import AHEAD, map_in_order


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_are_ordered_and_computed_shortly_before_use() -> None:
    started: list[int] = []
    barrier = threading.Barrier(2, timeout=60)

    def square(number: int) -> int:
        started.append(number)
        if number < 2:
            barrier.wait()  # the first two run concurrently
        return number**2

    results = map_in_order(square, range(50), 2)
    for number in range(50):
        assert next(results) == number**2
        assert len(started) <= number + 1 + AHEAD * 2
    assert next(results, None) is None


def test_closing_cancels_items_that_have_not_started() -> None:
    others = set(threading.enumerate())
    started: list[int] = []
    results = map_in_order(started.append, range(1000), 2)
    next(results)
    results.close()
    assert len(started) <= 1 + AHEAD * 2
    assert not set(threading.enumerate()) - others


def test_two_threads_give_the_rows_of_a_single_thread(
    model: Model, photos: Callable[[int], Path], tmp_path: Path, two_threads: None
) -> None:
    folder = photos(12)
    (folder / "005.png").write_bytes(b"no image")
    both = predict_files(model, [folder], tmp_path / "two")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    single = predict_files(model, [folder], tmp_path / "one")
    assert both.rows == single.rows
    assert both.counts["unreadable"] == 1


def test_two_threads_can_be_interrupted_and_resumed(
    model: Model, photos: Callable[[int], Path], tmp_path: Path, two_threads: None
) -> None:
    def stop(completed: int, total: int) -> None:
        if completed == 5:
            raise KeyboardInterrupt

    folder = photos(12)
    with pytest.raises(KeyboardInterrupt, match="5 of 12 images are scored"):
        predict_files(model, [folder], tmp_path / "p", progress=stop)
    assert torch.get_num_threads() == 2
    counts: list[int] = []
    summary = predict_files(
        model, [folder], tmp_path / "p", resume=True, progress=lambda done, _: counts.append(done)
    )
    assert counts == list(range(6, 13))
    assert summary.total == 12
