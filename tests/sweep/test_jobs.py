"""Jobs shared by workers: each runs once, also after interruptions."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from vqlab.sweep import JobQueue, JobState, TrialProgress, opened_storage
from vqlab.sweep.study.record import note, record_of
from vqlab.types import UserError


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[RDBStorage]:
    with opened_storage(f"sqlite:///{tmp_path / 'optuna.db'}") as opened:
        yield opened


def states(queue: JobQueue) -> list[str]:
    return [each.state for each in queue.states()]


def test_every_job_runs_once_in_order(storage: RDBStorage) -> None:
    queue, ran, reported = JobQueue(storage, "q", 3), [], []
    queue.work(lambda job, progress: ran.append(job) or "", reported.append)
    assert ran == [0, 1, 2] and states(queue) == ["done"] * 3 and queue.finished()
    assert [(each.job, each.state) for each in reported] == [
        (job, state) for job in range(3) for state in ("running", "done")
    ]
    second_queue = JobQueue(storage, "q", 3)
    second_queue.work(lambda job, progress: pytest.fail("job was already done"), reported.append)


def test_two_workers_share_the_jobs(storage: RDBStorage, tmp_path: Path) -> None:
    JobQueue(storage, "q", 12)
    ran: Counter[int] = Counter()
    both = threading.Barrier(2)

    def work() -> None:
        with opened_storage(f"sqlite:///{tmp_path / 'optuna.db'}") as storage:
            both.wait()
            JobQueue(storage, "q").work(run, lambda state: None)

    def run(job: int, progress: TrialProgress) -> str:
        ran[job] += 1
        return ""

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert ran == dict.fromkeys(range(12), 1)


def test_failed_job_is_reported_and_retried_by_the_next_call(storage: RDBStorage) -> None:
    def fail(job: int, progress: TrialProgress) -> str:
        if job == 1:
            raise UserError("no weights.")
        return "run 0123"

    queue, reported = JobQueue(storage, "q", 3), []
    queue.work(fail, reported.append)
    assert queue.states()[1] == JobState(1, "failed", "no weights.")
    assert JobState(1, "failed", "no weights.") in reported and queue.finished()
    assert queue.states()[0].reused == "run 0123"
    second_queue, ran = JobQueue(storage, "q", 3), []
    assert states(second_queue) == ["done", "waiting", "done"]
    second_queue.work(lambda job, progress: ran.append(job) or "", reported.append)
    assert ran == [1] and states(second_queue) == ["done"] * 3


def test_stops_if_all_jobs_fail(storage: RDBStorage) -> None:
    ran = []

    def fail(job: int, progress: TrialProgress) -> str:
        ran.append(job)
        raise ValueError("boom")

    queue = JobQueue(storage, "q", 9)
    with pytest.raises(UserError, match="3 jobs failed and none .* because: ValueError: boom Fix"):
        queue.work(fail, lambda state: None)
    assert ran == [0, 1, 2]


def test_interrupted_job_is_retried(storage: RDBStorage) -> None:
    def interrupt(job: int, progress: TrialProgress) -> str:
        raise KeyboardInterrupt

    queue = JobQueue(storage, "q", 2)
    with pytest.raises(KeyboardInterrupt):
        queue.work(interrupt, lambda state: None)
    ran: list[int] = []
    second_queue = JobQueue(storage, "q", 2)
    second_queue.work(lambda job, progress: ran.append(job) or "", lambda state: None)
    assert ran == [0, 1] and states(second_queue) == ["done", "done"]
    trials = second_queue._study.get_trials(deepcopy=False)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert record_of(trials[1]).retry_of == 0


def test_job_of_a_killed_process_is_retried(storage: RDBStorage) -> None:
    queue = JobQueue(storage, "q", 1)
    trial = queue._claim(0)
    worker = dict(record_of(trial).worker or {})
    note(trial, worker={**worker, "vqlab.pid": "999999999"}, progress=[2, 5])
    assert queue.states()[0] == JobState(0, "running", progress=(2, 5))
    assert states(JobQueue(storage, "q", 1)) == ["waiting"]
    queue.work(lambda job, progress: "", lambda state: None)
    ended = [trial.state for trial in queue._study.get_trials(deepcopy=False)]
    assert ended == [TrialState.FAIL, TrialState.COMPLETE]


def test_forgotten_jobs_are_rerun(storage: RDBStorage) -> None:
    queue, ran = JobQueue(storage, "q", 3), []
    queue.work(lambda job, progress: "", lambda state: None)
    queue.forget([2])
    queue.forget([])
    assert states(queue) == ["done", "done", "waiting"]
    queue.work(lambda job, progress: ran.append(job) or "", lambda state: None)
    assert ran == [2] and queue.finished()


def test_unknown_queue_raises(storage: RDBStorage) -> None:
    with pytest.raises(UserError, match="there is no study 'nothing'"):
        JobQueue(storage, "nothing")
