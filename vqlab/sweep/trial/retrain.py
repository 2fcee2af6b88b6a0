"""Test further trials on request: restore their checkpoints, or train them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from vqlab.data import Splits
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.openmp import requested_threads
from vqlab.run import RunConfig, run, trained_key
from vqlab.sweep.context import SweepContext
from vqlab.sweep.events import Progressed
from vqlab.sweep.study.policy import ASKED
from vqlab.sweep.study.record import record_of
from vqlab.sweep.sync.mirror import Mirror
from vqlab.sweep.trial.objective import trial_config
from vqlab.sweep.trial.selection import select_for_reused, select_within
from vqlab.tracking import Run, RunRecord
from vqlab.types import UserError

RETRAINED, IN_PROGRESS = "vqlab.trained_again", "under way"
"""Tag of the run of a retrained trial: how the objective compares with the original."""
THREADS = "vqlab.threads"
"""Tag of a run: the CPU threads of its training."""
_LISTED = 12
"""Trials that an error names."""


def ask(study: optuna.Study, numbers: Sequence[int], more: bool = False) -> None:
    """Store in the study which trials are to be tested, so that their checkpoints are not deleted.
    Raises UserError for one that is not complete.

    more: trials are still to come, so that one which has not ended yet may be among them.
    """
    if not numbers:
        return
    before = set(study.user_attrs.get(ASKED, ()))
    trials = study.get_trials(deepcopy=False)
    for number in numbers:
        trial = trials[number] if 0 <= number < len(trials) else None
        if trial is not None and trial.state == TrialState.COMPLETE:
            continue
        if more and (trial is None or not trial.state.is_finished()):
            continue
        if number in before:
            study.set_user_attr(ASKED, sorted(before - {number}))
        done = [str(each.number) for each in trials if each.state == TrialState.COMPLETE]
        there = ", ".join(done[:_LISTED]) + (", …" if len(done) > _LISTED else "")
        raise UserError(
            f"trial {number} of study {study.study_name} must be complete to be scored on test; it "
            f"{f'is {trial.state.name}' if trial else 'does not exist'}; complete are "
            f"{there or 'none'}."
        )
    if not before.issuperset(numbers):
        study.set_user_attr(ASKED, sorted(before.union(numbers)))


def restore_checkpoint(
    context: SweepContext, mirror: Mirror, trial: FrozenTrial, record: RunRecord
) -> str:
    """Restore the checkpoint of a complete trial if it was deleted: from a run with the same
    training, or by training again.

    Return a note if the retrained objective differs from the original; else an empty string.
    """
    if record.tags.get(RETRAINED) != IN_PROGRESS:  # else it may lack the selected settings
        with suppress(UserError):
            record.checkpoint()
            return ""
    tracked = context.tracker.amend(record.run_id, repeated=True)
    config = trial_config(context.comparison, trial.params)
    splits = context.splits_for(config)
    tracked.set_tags({RETRAINED: IN_PROGRESS})
    try:
        with _as_many_threads(threads_again(config, record)):
            tracked.set_tags({THREADS: str(config.training.threads or torch.get_num_threads())})
            key = trained_key(config, splits.fingerprint)
            complete = context.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            found = context.earlier_runs.model(complete, key, config)
            if found is not None:
                settings = context.comparison.of(trial.params)
                report = select_for_reused(settings, tracked, found[0], config, splits).report
            else:
                report = _trained_again(context, trial, config, splits, tracked)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted while trial {trial.number} was trained again for its test; the same "
            "command goes on from there."
        ) from None
    finally:
        mirror.update(trial)
    return _compared(context, trial, report, tracked, record)


def _trained_again(
    context: SweepContext, trial: FrozenTrial, config: RunConfig, splits: Splits, tracked: Run
) -> Report:
    def choose(model: Model, config: RunConfig, splits: Splits) -> tuple[Model, Report]:
        found = select_within(settings, tracked, model, config, splits)
        return found.model, found.report

    settings = context.comparison.of(trial.params)
    what = f"training trial {trial.number} again"
    context.tracker.reopen(tracked.id)
    outcome = run(
        config,
        context.tracker,
        resumed=tracked,
        splits=splits,
        test=False,
        assess=choose,
        on_epoch=lambda epoch, epochs, metrics: context.say(Progressed(what, epoch, epochs)),
        on_progress=lambda *counted: context.say(Progressed(*counted)),
    )
    return outcome.validation


def _compared(
    context: SweepContext, trial: FrozenTrial, report: Report, tracked: Run, record: RunRecord
) -> str:
    name = context.comparison.objective
    before = record_of(trial).validation[name]
    after = report.keyed("validation")[name]
    tracked.set_tags({RETRAINED: "the same" if after == before else f"{name} {after!r}"})
    if after == before:
        return ""
    then, now = record.tags.get(THREADS), tracked.tags.get(THREADS)
    threads = f" (with {now} CPU threads instead of {then})" if then != now else ""
    return (
        f"trial {trial.number} was trained again for its test{threads}: its {name} is {after:.6g} "
        f"and was {before:.6g}, so its test figures are of a slightly other model."
    )


def threads_again(config: RunConfig, record: RunRecord) -> int | None:
    """Return the number of CPU threads for training the trial of `record` again; None: unchanged.

    What the user asks for (`training.threads`, OMP_NUM_THREADS) comes first, then the number that
    the trial had: another number sums in another order.
    """
    before = record.tags.get(THREADS, "")
    return (
        config.training.threads
        or requested_threads()
        or (int(before) if before.isdigit() else None)
    )


@contextmanager
def _as_many_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        yield
    finally:
        torch.set_num_threads(before)
