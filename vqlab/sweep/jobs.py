"""Jobs that several workers share: an Optuna study as a queue.

A job is a number from 0. It runs as a trial that minimises nothing: the value of a trial is its
duration. Workers, on any machines, take jobs under the lock of the study, record heartbeats, and
retry the jobs of workers that were killed, as for the trials of a sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from vqlab.sweep.study.execution import TrialProgress, noted_reason, run_trial
from vqlab.sweep.study.record import note, record_of, stored
from vqlab.sweep.study.retry import ask, reconcile, this_worker
from vqlab.sweep.study.storage import study_lock
from vqlab.sweep.workers.base import Launcher
from vqlab.types import UserError

_JOB, _COUNT, _TRIALS_AT_START, _FORGOTTEN = "job", "n_trials", "n_begun", "forgotten"
"""Parameter of a trial; attributes of a study: number of jobs, number of trials at the start of the
current call (earlier failures are retried), and, by job, when its result was forgotten."""
_MOST_JOBS = 10**6
_FAILURES = 3
"""Number of failed jobs that ends a call if none succeeds."""
_PAUSE = 0.5
"""Seconds between polls of a queue."""


@dataclass(frozen=True)
class JobState:
    """State of a job after its last trial."""

    job: int
    state: str
    """waiting, running, done or failed."""
    reason: str = ""
    """Why it failed."""
    seconds: float | None = None
    reused: str = ""
    """The run whose result was reused."""
    progress: tuple[int, int] = (0, 0)
    """Epochs done and epochs in all."""


OnJob = Callable[[JobState], None]
"""Called when the state or the progress of a job changes."""


RunJob = Callable[[int, TrialProgress], str]
"""Runs a job, given its number and a callback for its progress; returns which run it reused."""


class JobQueue:
    """The jobs of one study. Raises UserError if the study does not exist and `count` is None.

    count: number of jobs, which starts a call: jobs that failed in earlier calls run again.
    """

    def __init__(self, storage: RDBStorage, name: str, count: int | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name, self._storage = name, storage
        if count is None:
            try:
                self._study = optuna.load_study(study_name=name, storage=storage)
            except KeyError:
                raise UserError(f"there is no study {name!r} in this store.") from None
        else:
            self._study = optuna.create_study(
                study_name=name, storage=storage, direction="minimize", load_if_exists=True
            )
            with study_lock(storage, name):
                reconcile(self._study, storage)
                start = len(self._study.get_trials(deepcopy=False))
                self._study.set_user_attr(_TRIALS_AT_START, start)
                self._study.set_user_attr(_COUNT, count)
        self._study.sampler = optuna.samplers.RandomSampler()  # parameters are set, not sampled

    def states(self) -> list[JobState]:
        """Return the state of every job."""
        start, count = (self._study.user_attrs[name] for name in (_TRIALS_AT_START, _COUNT))
        forgotten = self._study.user_attrs.get(_FORGOTTEN, {})
        states = {job: JobState(job, "waiting") for job in range(count)}
        for trial in self._study.get_trials(deepcopy=False):
            record = record_of(trial)
            job = record.queued[_JOB]
            if trial.state == TrialState.COMPLETE:
                if trial.number >= forgotten.get(str(job), 0):
                    states[job] = JobState(
                        job, "done", seconds=trial.values[0], reused=record.reused
                    )
            elif trial.state == TrialState.RUNNING:
                done, total = record.progress
                states[job] = JobState(job, "running", progress=(done, total))
            elif trial.state == TrialState.WAITING or trial.number < start:
                states[job] = JobState(job, "waiting")
            else:
                reason = record.reason or "its worker was killed"
                states[job] = JobState(job, "failed", reason)
        return list(states.values())

    def forget(self, jobs: list[int]) -> None:
        """Queue finished jobs again."""
        if jobs:
            number = len(self._study.get_trials(deepcopy=False))
            earlier = self._study.user_attrs.get(_FORGOTTEN, {})
            forgotten = {**earlier, **{str(job): number for job in jobs}}
            self._study.set_user_attr(_FORGOTTEN, forgotten)

    def work(self, run: RunJob, on_job: OnJob) -> None:
        """Run jobs until none is left, and wait for those of other workers.

        Raises UserError if jobs fail and none succeeds.
        """
        while True:
            with study_lock(self._storage, self.name):
                reconcile(self._study, self._storage)
                states = self.states()
                _raise_if_all_failed(states)
                open_jobs = [each.job for each in states if each.state == "waiting"]
                trial = self._claim(open_jobs[0]) if open_jobs else None
            if trial is not None:
                self._run(trial, run, on_job)
            elif any(each.state == "running" for each in states):
                time.sleep(_PAUSE)
            else:
                return

    def _claim(self, job: int) -> optuna.Trial:
        """Return the queued retry of an interrupted job, else a new trial of `job`."""
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial({_JOB: job}, user_attrs=stored(queued={_JOB: job}))
        trial = ask(self._study)
        note(trial, worker=this_worker())
        trial.suggest_int(_JOB, 0, _MOST_JOBS)
        return trial

    def _run(self, trial: optuna.Trial, run: RunJob, on_job: OnJob) -> None:
        job = trial.params[_JOB]

        def timed(trial: optuna.Trial) -> float:
            started = time.monotonic()
            with noted_reason(trial):
                note(trial, reused=run(job, TrialProgress(trial)))
            return time.monotonic() - started

        on_job(JobState(job, "running"))
        run_trial(self._study, self._storage, trial, timed)
        on_job(self.states()[job])

    def monitor(self, launcher: Launcher, on_job: OnJob) -> None:
        """Poll the workers and report changes of jobs until all workers have ended.

        Raises UserError with the last error of the workers if jobs are left.
        """
        before = {each.job: each for each in self.states()}
        while True:
            alive = launcher.poll()
            for each in self.states():
                if each != before[each.job]:
                    before[each.job] = each
                    on_job(each)
            if not alive:
                break
            time.sleep(_PAUSE)
        if launcher.error() and any(s.state in ("waiting", "running") for s in before.values()):
            raise UserError(launcher.error())

    def done(self) -> int:
        """Return the number of jobs that succeeded."""
        return sum(each.state == "done" for each in self.states())

    def finished(self) -> bool:
        """Return whether no job is waiting or running."""
        return all(each.state in ("done", "failed") for each in self.states())


def _raise_if_all_failed(states: list[JobState]) -> None:
    failed = [each for each in states if each.state == "failed"]
    if len(failed) >= _FAILURES and not any(each.state == "done" for each in states):
        raise UserError(
            f"stopped: {len(failed)} jobs failed and none succeeded, the last one because: "
            f"{failed[-1].reason} Fix the cause and re-run the command."
        )
