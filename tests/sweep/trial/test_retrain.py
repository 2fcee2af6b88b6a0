"""Trials that are retrained and evaluated on the test set on request, in addition to the winner."""

from __future__ import annotations

import copy
import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from optuna.trial import FrozenTrial
from tiny_set import tiny_recipe

from vqlab.cli import main
from vqlab.config import read_recipe
from vqlab.evaluation import Report
from vqlab.run import resolve, run
from vqlab.sweep import Event, Progressed, SweepResult, make_comparison, make_space, sweep
from vqlab.sweep.context import SweepContext
from vqlab.sweep.result import REQUESTED, TESTED
from vqlab.sweep.sync.mirror import Mirror
from vqlab.sweep.trial.retrain import RETRAINED, THREADS, restore_checkpoint
from vqlab.tracking import RunRecord, Tracker
from vqlab.training import Trainer
from vqlab.types import UserError

Tree = dict[str, Any]
pytestmark = pytest.mark.usefixtures("blank_figures")
AXES: Tree = {
    "training.learning_rate": {"low": "3e-4", "high": "3e-3", "log": True},
    "detector.scoring.code_smoothing": {"low": 0.02, "high": 0.2},
    "threshold.pixel_false_positive_rate": {"choices": [0.002, 0.1]},
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the evaluation on the test set and the report, which take longer than everything else
    and are checked in the first test."""

    def tested(model: Any, config: Any, splits: Any, run: Any, results: Path) -> Any:
        run.log_metrics({"test/image_auroc": 1.0})
        return Report({}, {}), {}, results

    def write_page(study: Any, objectives: Any, folder: Path, *_: Any) -> None:
        (folder / "study.html").write_text("nothing")

    monkeypatch.setattr("vqlab.sweep.result.test_model", tested)
    monkeypatch.setattr("vqlab.sweep.result.write_report", write_page)


def run_sweep(
    root: Path, tracker: Tracker, trials: int = 3, seed: int = 0, **more: Any
) -> SweepResult:
    """Run a sweep; each training seed has its own study."""
    space = make_space({"validations": 0, "scorings": 3, "space": AXES})
    return sweep(
        make_comparison(space, tiny_recipe(root, seed=seed)),
        tracker,
        trials=trials,
        results=tracker.root / "results",
        **more,
    )


def losing_trial(result: SweepResult) -> int:
    return next(row.number for row in result.trials if row.number != result.best.number)


def run_of(tracker: Tracker, result: SweepResult, number: int) -> RunRecord:
    return tracker.find(str(result.trials[number].run_id))


def has_checkpoint(record: RunRecord) -> bool:
    try:
        return record.checkpoint().exists()
    except UserError:
        return False


@pytest.fixture(scope="module")
def first(root: Path, store: Tracker) -> SweepResult:
    return run_sweep(root, store)


def test_losing_trial_is_retrained_identically_and_tested(
    first: SweepResult, root: Path, store: Tracker, epochs: list[int]
) -> None:
    number = losing_trial(first)
    before = run_of(store, first, number)
    assert not has_checkpoint(before) and not any(key.startswith("test/") for key in before.metrics)
    assert [(trial.number, trial.why) for trial in first.tested] == [(first.best.number, "winner")]
    pictures = {p.name: p.read_bytes() for p in (store.root / "results" / "part").iterdir()}
    recipe = first.recipe.read_bytes()

    result = run_sweep(root, store, test=[number])
    assert epochs == [1, 2]
    after = run_of(store, result, number)
    assert after.status == "FINISHED" and has_checkpoint(after)
    tags = {key: after.tags.get(key) for key in (TESTED, REQUESTED, RETRAINED, "vqlab.chosen_by")}
    assert list(tags.values()) == ["true", "true", "the same", None]
    assert {k: v for k, v in after.metrics.items() if k in before.metrics} == before.metrics
    for key in ("train/loss", "validation/pixel_auroc"):
        assert len(store.history(after.run_id, (key,))) == len(store.history(before.run_id, (key,)))
    assert "test/image_auroc" in after.metrics

    assert (result.best, result.test, result.trials) == (first.best, first.test, first.trials)
    assert result.recipe.read_bytes() == recipe
    files = {p.name: p.read_bytes() for p in (store.root / "results" / "part").iterdir()}
    assert files == pictures, "the results folder contains the winner"
    why = {trial.number: trial.why for trial in result.tested}
    assert why == {result.best.number: "winner", number: "on request"}
    tested = next(trial for trial in result.tested if trial.number == number)
    assert tested.validation["validation/pixel_auroc"] == result.trials[number].value
    assert tested.test["test/image_auroc"] == after.metrics["test/image_auroc"]
    assert not any("retrained" in note for note in tested.notes)
    with result.page.with_name("trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row["trial"]): row["tested"] for row in rows if row["tested"]} == why
    assert float(rows[number]["test/pixel_auroc"]) == after.metrics["test/pixel_auroc"]
    page = result.page.read_text(encoding="utf-8")
    assert f"Trial {number}: on request, not used for any choice." in page

    epochs.clear()
    modified = result.page.stat().st_mtime_ns
    repeated = run_sweep(root, store, test=[number])
    assert epochs == [] and repeated.tested == result.tested
    assert repeated.page.stat().st_mtime_ns == modified
    assert run_of(store, repeated, number) == after
    assert has_checkpoint(after), "the checkpoint of a tested trial is kept for promotion"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (7, "trial 7 of study .* must be complete .*does not exist; complete trials: 0, 1, 2"),
        ("vqvae:0", "trial vqvae:0 of study .* must be complete .*does not exist"),
        (-1, "must be given as NUMBER or RECIPE:NUMBER; got '-1'"),
    ],
)
def test_incomplete_trial_is_rejected(
    number: int | str, message: str, first: SweepResult, root: Path, store: Tracker
) -> None:
    events: list[Event] = []
    with pytest.raises(UserError, match=message):
        run_sweep(root, store, test=[losing_trial(first), number], on_event=events.append)
    assert not events


@pytest.mark.slow
def test_trial_requested_in_advance_is_not_retrained(
    plain: None, root: Path, store: Tracker, epochs: list[int]
) -> None:
    """A request that depends on the trials is reported before the test set is used."""
    with pytest.raises(
        UserError, match="trial 5 .* does not exist; complete trials: 0, 1. The sweep"
    ):
        run_sweep(root, store, trials=2, seed=1, test=[0, 1, 5])
    assert epochs == [1, 2] * 2
    result = run_sweep(root, store, trials=2, seed=1)
    assert [trial.number for trial in result.tested] == [0, 1] and len(epochs) == 4
    assert RETRAINED not in run_of(store, result, losing_trial(result)).tags


@pytest.mark.slow
def test_interrupted_test_is_resumed(
    plain: None, root: Path, store: Tracker, epochs: list[int]
) -> None:
    result = run_sweep(root, store, trials=2, seed=2)
    number = losing_trial(result)
    epochs.clear()

    def stop(event: Event) -> None:
        if isinstance(event, Progressed) and (event.done, event.total) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=f"while retraining trial {number}"):
        run_sweep(root, store, trials=2, seed=2, test=[number], on_event=stop)
    record = run_of(store, result, number)
    assert (record.status, record.tags["optuna.state"]) == ("FINISHED", "COMPLETE")
    assert TESTED not in record.tags
    result = run_sweep(root, store, trials=2, seed=2, test=[number])
    assert epochs == [1, 2], "resumed from its last epoch"
    record = run_of(store, result, number)
    assert record.tags[RETRAINED] == "the same" and record.tags[TESTED] == "true"
    assert not any(r.status == "RUNNING" for r in store.runs())


@pytest.mark.slow
def test_checkpoint_of_the_same_training_is_reused(
    plain: None, root: Path, store: Tracker, epochs: list[int]
) -> None:
    result = run_sweep(root, store, trials=2, seed=5)
    number = losing_trial(result)
    config = read_recipe(run_of(store, result, number).artifact("config.yaml"))
    run(resolve(config), store, test=False)
    epochs.clear()
    result = run_sweep(root, store, trials=2, seed=5, test=[number])
    assert not epochs and run_of(store, result, number).tags[RETRAINED] == "the same"


@pytest.mark.slow
def test_retrained_model_that_differs_is_noted(
    plain: None, root: Path, store: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_sweep(root, store, trials=2, seed=3)
    number = losing_trial(result)

    def from_elsewhere(
        context: SweepContext, mirror: Mirror, trial: FrozenTrial, record: RunRecord
    ) -> str:
        other = copy.deepcopy(trial)
        other.user_attrs["validation/pixel_auroc"] -= 0.25
        return restore_checkpoint(context, mirror, other, record)

    monkeypatch.setattr("vqlab.sweep.result.restore_checkpoint", from_elsewhere)
    result = run_sweep(root, store, trials=2, seed=3, test=[number])
    tested = next(trial for trial in result.tested if trial.number == number)
    assert f"trial {number} was retrained for its test: its validation/pix" in tested.notes[-1]
    assert "validation/pixel_auroc" in run_of(store, result, number).tags[RETRAINED]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requested", "setting", "expected"), [(None, None, 2), (1, None, 1), (2, 1, 1)]
)
def test_requested_threads_take_precedence_over_those_of_the_trial(
    requested: int | None,
    setting: int | None,
    expected: int,
    plain: None,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def swept(threads: int | None, **more: Any) -> SweepResult:
        space = make_space({"validations": 0, "scorings": 1, "space": AXES})
        recipe = tiny_recipe(root, threads=threads)
        return sweep(
            make_comparison(space, recipe), tracker, trials=2, results=tmp_path / "results", **more
        )

    def recorded_epoch(self: Trainer, epoch: int) -> dict[str, float]:
        counts.append(torch.get_num_threads())
        return original_epoch(self, epoch)

    tracker, counts = Tracker.open(tmp_path / "mlruns"), list[int]()
    before, original_epoch = torch.get_num_threads(), Trainer._epoch
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        torch.set_num_threads(2)
        result = swept(None)
        number = losing_trial(result)
        assert run_of(tracker, result, number).tags[THREADS] == "2"

        if requested:
            monkeypatch.setenv("OMP_NUM_THREADS", str(requested))
        torch.set_num_threads(requested or 1)
        monkeypatch.setattr(Trainer, "_epoch", recorded_epoch)
        swept(setting, test=[number])
        assert counts == [expected] * 2
        assert run_of(tracker, result, number).tags[THREADS] == str(expected)
    finally:
        torch.set_num_threads(before)


# Command line


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vqlab", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_command_shows_validation_and_test_values(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny_recipe(root, epochs=1)))
    Path("space.yaml").write_text(yaml.safe_dump({"validations": 0, "space": AXES, "scorings": 2}))
    words = ("sweep", "tiny.yaml", "--space", "space.yaml", "--n-trials", "2")
    assert command(monkeypatch, *words, "--test", "0", "--test", "1") == 0
    output = capsys.readouterr().out
    assert "trials scored on test: validation → test" in output
    assert "on request" in output and "winner" in output
    assert command(monkeypatch, *words, "--category", "all", "--test", "0") == 2
    assert "--test needs a single study; got 2" in capsys.readouterr().err
