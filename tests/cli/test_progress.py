"""Progress of a sweep in a log file: one line per kind of counted task."""

from __future__ import annotations

import pytest

from vqlab.cli.progress import sweeping
from vqlab.sweep import Progressed, TrialStarted


def test_sweep_shows_progress_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    with sweeping() as on_event:
        on_event(TrialStarted(0, {}, "", 0))
        for completed in (16, 32, 40):
            on_event(Progressed("extracting features", completed, 40))
        on_event(Progressed("scoring the test set", 1, 12))
    output = capsys.readouterr().out.splitlines()
    assert output == ["extracting features: 40", "scoring the test set: 12"]
