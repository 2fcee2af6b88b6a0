"""The study of a sweep of one recipe."""

from __future__ import annotations

import optuna
from optuna.storages import BaseStorage

from vqlab.sweep.study.studies import load_studies, open_studies


def open_study(storage: BaseStorage, name: str) -> optuna.Study:
    return open_studies(storage, name, [""], ["maximize"])[""]


def load_study(storage: BaseStorage, name: str) -> optuna.Study:
    return load_studies(storage, name)[""]
