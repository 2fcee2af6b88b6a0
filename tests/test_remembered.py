"""What is remembered of a store of studies is what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep import study as studies
from vqlab.sweep.storage import opened_storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[RDBStorage]:
    with opened_storage(f"sqlite:///{tmp_path / 'optuna.db'}") as storage:
        yield storage


@pytest.fixture
def study(storage: RDBStorage) -> optuna.Study:
    return studies.open_study(storage, "s", "maximize")


def plain(trial: FrozenTrial) -> FrozenTrial:
    """Without the times, which the store notes a moment earlier."""
    trial.datetime_start = trial.datetime_complete = None
    return trial


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_the_trial_one_is_at(
    study: optuna.Study, storage: RDBStorage, queued: bool, state: TrialState
) -> None:
    def known() -> FrozenTrial:
        remembered = study._storage.get_trial(trial._trial_id)
        assert plain(remembered) == plain(storage.get_trial(trial._trial_id))
        return remembered

    if queued:
        study.enqueue_trial({"x": 0.25, "kind": "b"}, user_attrs={"retry_of": 7})
    trial = study.ask()
    assert known().state == TrialState.RUNNING
    trial.suggest_float("x", 0, 1)
    trial.suggest_int("k", 1, 100, log=True)
    trial.suggest_categorical("kind", ["a", "b", None])
    assert set(known().params) == {"x", "k", "kind"}
    trial.set_user_attr("list", [1, {"a": None}])
    trial.set_constraint("room", 0.5)
    trial.report(0.5, 1)
    trial.report(0.75, 2)
    assert known().intermediate_values == {1: 0.5, 2: 0.75}
    told = study.tell(trial, 1.5 if state == TrialState.COMPLETE else None, state)
    assert plain(told) == known()
    assert told.values == {"COMPLETE": [1.5], "PRUNED": [0.75], "FAIL": None}[state.name]
    assert plain(study.trials[0]) == plain(told)


def test_trials_of_others_are_read(tmp_path: Path, study: optuna.Study) -> None:
    with opened_storage(f"sqlite:///{tmp_path / 'optuna.db'}") as storage:
        others = studies.load_study(storage, "s")
        with studies.as_read(study):
            assert study.trials == [], "they were never read"
            theirs = others.ask()
            assert study.trials == []
            assert study.ask().number == 1
            assert [t.number for t in study.trials] == [1]
        assert [t.state.name for t in study.trials] == ["RUNNING", "RUNNING"]
        others.tell(theirs, 2.0)
        assert study._storage.get_trial(theirs._trial_id).values == [2.0]
        assert [t.state.name for t in study.trials] == ["COMPLETE", "RUNNING"]


def test_the_store_is_asked_no_more_than_that(study: optuna.Study, storage: RDBStorage) -> None:
    study.tell(study.ask(), 1.0)
    assert len(study.trials) == 1
    asked: list[str] = []

    @sqlalchemy.event.listens_for(storage.engine, "before_cursor_execute")
    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if "trial_user_attributes" in statement:  # whenever a trial is read
            asked.append(statement)

    with studies.as_read(study):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.get_trials()
    study.tell(trial, 1.0)
    assert asked == []
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE"]
    assert asked
