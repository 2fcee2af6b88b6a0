"""What a sweep says in a log file: a line for every kind of work that is counted."""

from __future__ import annotations

import pytest

from vqlab.cli.progress import sweeping
from vqlab.sweep import Progressed, TrialStarted


def test_a_sweep_shows_work_that_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with sweeping() as on_event:
        on_event(TrialStarted(0, {}, "", 0))
        for done in (16, 32, 40):
            on_event(Progressed("extracting features", done, 40))
        on_event(Progressed("scoring the test set", 1, 12))
    said = capsys.readouterr().out.splitlines()
    assert said == ["extracting features: 40", "scoring the test set: 12"]
