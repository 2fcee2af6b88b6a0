"""Test trials on request: restore their checkpoints, or retrain them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from optuna.trial import FrozenTrial, TrialState

from vqlab.data import Splits
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.openmp import requested_threads
from vqlab.run import Recording, RunConfig, run, trained_key
from vqlab.sweep.context import SweepContext
from vqlab.sweep.events import Progressed, TrialKey
from vqlab.sweep.study.record import key_of, recipe_of, record_of
from vqlab.sweep.study.studies import TESTED_ON_REQUEST, Studies
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
"""Maximum number of trials listed in an error."""


def request_tests(studies: Studies, keys: Sequence[TrialKey], more: bool = False) -> None:
    """Store the trials to be tested in the studies, so that their checkpoints are not deleted.
    Raises UserError for a trial that is not complete.

    more: further trials will run, so that trials that have not ended yet are allowed.
    """
    for key in keys:
        trial = studies.find(key)
        if trial is None or trial.state != TrialState.COMPLETE:
            pending = key.recipe in studies.by_recipe and more
            if not pending or (trial is not None and trial.state.is_finished()):
                _store_asked(studies, key, remove=True)
                raise UserError(_not_complete(studies, key, trial))
    for key in keys:
        _store_asked(studies, key)


def _store_asked(studies: Studies, key: TrialKey, remove: bool = False) -> None:
    if key.recipe in studies.by_recipe:
        study = studies[key.recipe]
        before = set(study.user_attrs.get(TESTED_ON_REQUEST, ()))
        after = before - {key.number} if remove else before | {key.number}
        if after != before:
            study.set_user_attr(TESTED_ON_REQUEST, sorted(after))


def _not_complete(studies: Studies, key: TrialKey, trial: FrozenTrial | None) -> str:
    complete = [str(key_of(each)) for each in studies.trials(TrialState.COMPLETE)]
    listed = ", ".join(complete[:_LISTED]) + (", …" if len(complete) > _LISTED else "")
    return (
        f"trial {key} of study {studies.name} must be complete to be scored on test; it "
        f"{f'is {trial.state.name}' if trial else 'does not exist'}; complete trials: "
        f"{listed or 'none'}."
    )


def restore_checkpoint(
    context: SweepContext, mirror: Mirror, trial: FrozenTrial, record: RunRecord
) -> str:
    """Restore the checkpoint of a complete trial if it was deleted: from a run with the same
    training, or by retraining.

    Return a note if the retrained objective differs from the original; else an empty string.
    """
    if record.tags.get(RETRAINED) != IN_PROGRESS:  # otherwise it may lack the selected settings
        with suppress(UserError):
            record.checkpoint()
            return ""
    tracked = context.tracker.amend(record.run_id, repeated=True)
    plan = context.comparison[recipe_of(trial)]
    config = trial_config(plan, trial.params)
    splits = context.splits_for(config)
    tracked.set_tags({RETRAINED: IN_PROGRESS})
    try:
        with _as_many_threads(threads_again(config, record)):
            tracked.set_tags({THREADS: str(config.training.threads or torch.get_num_threads())})
            key = trained_key(config, splits.fingerprint)
            complete = context.studies.trials(TrialState.COMPLETE)
            reused = context.earlier_runs.model(complete, key, config)
            if reused is not None:
                report = select_for_reused(plan, tracked, reused[0], config, splits).report
            else:
                report = _trained_again(context, trial, config, splits, tracked)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted while retraining trial {key_of(trial)} for its test; run the same "
            "command to resume."
        ) from None
    finally:
        mirror.update(trial)
    return _compared(context, trial, report, tracked, record)


def _trained_again(
    context: SweepContext, trial: FrozenTrial, config: RunConfig, splits: Splits, tracked: Run
) -> Report:
    def choose(model: Model, config: RunConfig, splits: Splits) -> tuple[Model, Report]:
        selection = select_within(plan, tracked, model, config, splits)
        return selection.model, selection.report

    plan = context.comparison[recipe_of(trial)]
    title = f"training trial {key_of(trial)} again"
    context.tracker.reopen(tracked.id)
    outcome = run(
        config,
        context.tracker,
        Recording(resumed=tracked),
        splits=splits,
        test=False,
        assess=choose,
        on_epoch=lambda epoch, epochs, metrics: context.emit(Progressed(title, epoch, epochs)),
        on_progress=lambda *counted: context.emit(Progressed(*counted)),
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
    original, current = record.tags.get(THREADS), tracked.tags.get(THREADS)
    threads = f" (with {current} CPU threads instead of {original})" if original != current else ""
    return (
        f"trial {key_of(trial)} was retrained for its test{threads}: its {name} is {after:.6g} "
        f"instead of {before:.6g}, so its test metrics are those of a slightly different model."
    )


def threads_again(config: RunConfig, record: RunRecord) -> int | None:
    """Return the number of CPU threads for retraining the trial of `record`; None: unchanged.

    Settings of the user (`training.threads`, OMP_NUM_THREADS) take precedence over the number that
    the trial had, which gives the same order of summation.
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
