"""Links into the MLflow UI and descriptions of experiments."""

from __future__ import annotations

import pytest
from tracked_runs import MODE, start

from vqlab.errors import UserError
from vqlab.tracking import NOTE, Tracker, remember_ui
from vqlab.tracking.store import locate


def test_links_use_the_address_of_the_ui(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tracker)
    path = f"#/experiments/{run.experiment_id}/runs/{run.id}{MODE}"
    assert run.link == tracker.link(run.id) == f"http://127.0.0.1:5000/{path}"
    pages = tracker.pages("cable")
    charts = f"#/experiments/{run.experiment_id}/runs{MODE}&viewStateShareKey=a-b&compareRunsMode="
    assert pages.charts("a-b") == f"{charts}CHART" and pages.table("a-b") == f"{charts}TABLE"
    for host, linked in (("127.0.0.1", "127.0.0.1"), ("results", "results"), ("::1", "[::1]")):
        remember_ui(tracker.root, host, 5001)
        assert tracker.link(run.id) == f"http://{linked}:5001/{path}"
        assert pages.link("#/x") == f"http://{linked}:5001/#/x"
    monkeypatch.setenv("VQLAB_UI", "https://results.example/mlflow/")
    assert run.link == f"https://results.example/mlflow/{path}"
    monkeypatch.setenv("VQLAB_UI", "localhost:5001")
    with pytest.raises(UserError, match="VQLAB_UI must be the address of the MLflow UI.*got 'loc"):
        locate(tracker.root)


def test_user_written_description_is_kept(tracker: Tracker) -> None:
    pages = tracker.pages("cable")

    def described() -> str:
        return str(tracker._client.get_experiment_by_name("cable").tags.get(NOTE, ""))

    for text in ("first", "second"):
        pages.describe(text)
        assert described() == text
    experiment = tracker._client.get_experiment_by_name("cable").experiment_id
    tracker._client.set_experiment_tag(experiment, NOTE, "mine")
    pages.describe("third")
    assert described() == "mine"
