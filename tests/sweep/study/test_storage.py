"""Studies in a PostgreSQL server that is started for the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import start_program
from one_study import load_study, open_study
from optuna.trial import TrialState
from sweep_processes import COUNTED

from vqlab.sweep.study.storage import open_storage, opened_storage, storage_address, study_lock
from vqlab.types import UserError


def test_lock_is_exclusive_and_released_when_its_process_ends(
    postgres: str, tmp_path: Path
) -> None:
    holder = (
        "import sys, time; from vqlab.sweep.study.storage import study_lock, open_storage\n"
        "with study_lock(open_storage(sys.argv[1]), 's'):\n"
        "    print('mine', flush=True); time.sleep(600)"
    )
    other = start_program(holder, postgres, cwd=tmp_path)
    assert other.first_line() == "mine"
    with opened_storage(postgres) as storage:
        with study_lock(storage, "another"):
            pass
        other.kill()  # the server notices the closed connection
        for _ in range(2):
            with study_lock(storage, "s"):
                pass


@pytest.mark.slow
def test_four_workers_run_exactly_one_hundred_trials(postgres: str) -> None:
    command = [sys.executable, "-c", COUNTED, postgres]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    for worker in workers:
        _, stderr = worker.communicate(timeout=300)
        assert worker.returncode == 0, stderr.decode()[-2000:]
    with opened_storage(postgres) as storage:
        trials = load_study(storage, "s").get_trials(deepcopy=False)
    assert [t.number for t in trials] == list(range(100))
    assert all(t.state == TrialState.COMPLETE for t in trials)


def test_missing_study_error_lists_the_existing_studies(postgres: str) -> None:
    with opened_storage(postgres) as storage:
        open_study(storage, "cable-vqvae-12345678")
        with pytest.raises(
            UserError, match="'cable-vqvae-1234567'; there are cable-vqvae-12345678"
        ):
            load_study(storage, "cable-vqvae-1234567")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:9/none", "check that the server is running"),
        ("postgresql+pg8000://me:secret@127.0.0.1:9/none", "pip install 'vqlab"),
    ],
)
def test_unreachable_server_raises(address: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        open_storage(address)
    assert message in str(error.value) and "secret" not in str(error.value)


def test_storage_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VQLAB_STORAGE", raising=False)
    assert storage_address(tmp_path) == f"sqlite:///{tmp_path / 'optuna.db'}"
    monkeypatch.setenv("VQLAB_STORAGE", "mysql://me:secret@host/db")
    with pytest.raises(UserError, match="must be postgresql://.*; got 'mysql://host/db'"):
        storage_address(tmp_path)
    monkeypatch.setenv("VQLAB_STORAGE", "sqlite:///studies.db")
    monkeypatch.chdir(tmp_path)
    assert storage_address(tmp_path) == f"sqlite:///{tmp_path / 'studies.db'}"
