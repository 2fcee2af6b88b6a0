"""Optuna's cache of a store of studies, asked less often: a question costs milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState


class Remembered(_CachedStorage):
    """As Optuna's own, which remembers the trials that have ended. Besides, it knows the trial that
    this process is at, for nobody else writes that; and within `as_read` it reads no other.
    """

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._own: FrozenTrial | None = None
        self._as_read = False
        self._read: set[int] = set()

    def get_heartbeat_interval(self) -> int | None:
        """None: signs of life are given and looked for by `vqlab.sweep.worker`."""
        return None

    @contextmanager
    def as_read(self) -> Iterator[None]:
        """Within, the trials are what they were when they were last read."""
        self._as_read = True
        try:
            yield
        finally:
            self._as_read = False

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if not self._as_read or study_id not in self._read:
            super()._read_trials_from_remote_storage(study_id)
            self._read.add(study_id)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        if template_trial is None:  # not one that is queued
            self._own = self._last_read(trial_id)
        return trial_id

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        own = self._last_read(trial_id) if state == TrialState.RUNNING else self._mine(trial_id)
        self._own = None
        done = super().set_trial_state_values(trial_id, state, values)
        if done and own is not None:
            own.state = state
            own.values = None if values is None else list(values)
            if state.is_finished():
                own.datetime_complete = datetime.now()
            else:
                own.datetime_start = datetime.now()
            self._own = own
        return done

    def get_trial(self, trial_id: int) -> FrozenTrial:
        own = self._mine(trial_id)
        return super().get_trial(trial_id) if own is None else deepcopy(own)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        own = self._mine(trial_id)
        if own is not None:
            own.params[param_name] = distribution.to_external_repr(param_value_internal)
            own.distributions[param_name] = distribution

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        own = self._mine(trial_id)
        if own is not None:
            own.intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(trial_id, key, value)
        own = self._mine(trial_id)
        if own is not None:
            own.user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(trial_id, key, value)
        own = self._mine(trial_id)
        if own is not None:
            own.system_attrs[key] = value

    def _last_read(self, trial_id: int) -> FrozenTrial:
        study_id, number = self._trial_id_to_study_id_and_number[trial_id]
        return deepcopy(self._studies[study_id].trials[number])

    def _mine(self, trial_id: int) -> FrozenTrial | None:
        return self._own if self._own is not None and self._own._trial_id == trial_id else None
