"""Sweeps on SQLite, Optuna and MLflow: search spaces, interruptions, invalid arguments."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
import torch
from commands import start_program
from one_study import open_study
from optuna.trial import TrialState
from tiny_set import tiny_recipe
from torch import Tensor, nn

from vqlab.config import Settings, flatten, merge, nest, read_recipe
from vqlab.data import load_dataset
from vqlab.detectors import base
from vqlab.evaluation import Report, Scored, ThresholdSettings
from vqlab.model import Model
from vqlab.run import resolve
from vqlab.sweep import (
    EpochDone,
    Event,
    Execution,
    Interrupted,
    Space,
    StudyOpened,
    SweepResult,
    TrialFinished,
    TrialStarted,
    make_comparison,
    make_space,
    read_space,
    sweep,
)
from vqlab.sweep.space.compile import plan
from vqlab.sweep.study import policy
from vqlab.sweep.study.record import record_of
from vqlab.sweep.study.retry import ask, reconcile, retry
from vqlab.sweep.study.storage import open_storage, store_errors, sweep_lock
from vqlab.sweep.trial.selection import best_thresholds, pixel_f1
from vqlab.tracking import Run, Tracker
from vqlab.types import ImageRecord, Scores, UserError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHIPPED = sorted(p for p in (EXPERIMENTS / "sweeps").glob("*.yaml") if p.stem != "all")
Tree = dict[str, Any]
pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def tree(root: Path) -> Tree:
    return tiny_recipe(root)


def space_of(objective: str = "validation/pixel_auroc", **axes: Any) -> Space:
    named = {key.replace("__", "."): value for key, value in axes.items()}
    return make_space({"objective": objective, "space": named})


# Spaces


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_bundled_spaces_are_valid_for_their_detectors(path: Path, tree: Tree) -> None:
    space = read_space(path)
    assert isinstance(space, Space)
    recipe = {**tree, "detector": {"name": path.stem}, "features": {"weights": "random"}}
    checked = plan(space, recipe)
    assert {*checked.sampled, *checked.scoring, *checked.thresholds} == set(space.axes)
    backbones = space.axes.get("features.backbone")
    if (
        backbones is not None and backbones.available is not None
    ):  # random weights are available for all
        choices = checked.space.axes["features.backbone"].choices
        assert choices == ("pixels", *backbones.available)
    assert set(checked.recipe_params()) == set(checked.sampled), (
        "the default values are outside the space"
    )


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"detector.codebok_size": {"choices": [8]}}, "did you mean detector.codebook_size"),
        ({"detector.codebook_size": {"choices": [8, -1]}}, "-1"),
        ({"training.learning_rate": {"low": 0.1, "high": 7}}, "training.learning_rate"),
        ({"training.learning_rate": {"low": 0.1, "high": 0.01}}, "low < high"),
        ({"training.learning_rate": {"low": 0.1}}, "choices"),
        ({"training.learning_rate": {"low": 0.1, "high": 0.2, "choices": [0.1]}}, "choices"),
        ({"training.learning_rate": {"low": 0.1, "high": 0.2, "log": True, "step": 0.1}}, "both"),
        ({"training.learning_rate": {"lo": 0.1, "high": 0.2}}, "did you mean"),
        ({"detector.learning": {"low": 1, "high": 2}}, "detector.learning"),
        ({"detector.codebook_size": {"low": 8, "high": 9.5}}, "9.5"),
        ({"detector.scoring": {"choices": [{"top": 0.1}]}}, "section"),
        ({"training": {"choices": [1]}}, "dotted"),
        ({"data.seed": {"choices": [0, 1]}}, "same validation"),
        ({"threshold.false_reject_rate": {"low": 0.01, "high": 0.1}}, "decision of the user"),
        ({}, "at least one"),
    ],
)
def test_invalid_space_raises(axes: Tree, message: str, tree: Tree) -> None:
    with pytest.raises(UserError, match=message):
        plan(make_space({"space": axes}), tree)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("test/image_auroc", "use validation/image_auroc"),
        ("validation/pixel_aurok", "did you mean validation/pixel_auroc"),
        ("train/loss", "validation/<metric>"),
    ],
)
def test_objective_must_be_on_validation(objective: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        space_of(objective, detector__codebook_size={"choices": [8]})


def test_axes_have_the_type_of_their_setting(tree: Tree) -> None:
    checked = plan(
        space_of(
            detector__codebook_size={"low": 8, "high": 64, "log": True},
            training__learning_rate={"low": "1e-4", "high": "1e-2", "log": True},
            detector__commitment={"low": 0, "high": 1},
            detector__scoring__terms={"choices": [["error"], ["error", "neighbours"]]},
        ),
        tree,
    )
    axes = checked.sampled | checked.scoring
    kinds = {name.rpartition(".")[2]: type(d).__name__ for name, d in axes.items()}
    assert kinds == {
        "codebook_size": "IntDistribution",
        "learning_rate": "FloatDistribution",
        "commitment": "FloatDistribution",
        "terms": "CategoricalDistribution",
    }
    recipe = checked.recipe_params()
    assert recipe["training.learning_rate"] == 1e-3 and recipe["detector.codebook_size"] == 16
    assert resolve(checked.tree_of(recipe)) == resolve(tree)


def test_thresholds_are_searched_on_a_grid_within_the_trial(tree: Tree) -> None:
    checked = plan(
        space_of(
            threshold__pixel_false_positive_rate={"low": 0.01, "high": 0.05, "step": 0.02},
            detector__codebook_size={"choices": [8, 16]},
        ),
        tree,
    )
    assert list(checked.sampled) == ["detector.codebook_size"]
    rates = [c["threshold.pixel_false_positive_rate"] for c in checked.threshold_settings()]
    assert rates == pytest.approx([0.01, 0.03, 0.05])


@pytest.mark.parametrize(
    ("validations", "epochs", "at"),
    [(3, 12, [3, 6, 9]), (3, 30, [8, 16, 24]), (1, 12, [6]), (0, 12, []), (3, 2, [1]), (3, 1, [])],
)
def test_epochs_at_which_trials_are_validated(validations: int, epochs: int, at: list[int]) -> None:
    axes = {"detector.codebook_size": {"choices": [8]}}
    every = make_space({"space": axes, "validations": validations}).validate_every(epochs)
    assert [e for e in range(1, epochs) if every and e % every == 0] == at


def test_study_name_depends_on_all_relevant_settings(tree: Tree) -> None:
    splits = load_dataset(resolve(tree).data)
    axes = {"detector__codebook_size": {"choices": [8, 16]}}

    def name(tree: Tree, **more: Any) -> str:
        return make_comparison(space_of(**{**axes, **more}), tree, "tiny").sweep_name(splits)

    expected = name(tree)
    assert expected.startswith("part-vqvae-tiny-") and expected == name(tree)
    assert expected == name(merge(tree, {"training": {"threads": 2}}))
    assert expected != name(merge(tree, {"training": {"epochs": 3}}))
    assert expected != name(tree, detector__codebook_size={"choices": [8, 32]})
    assert expected != name(tree, objective="validation/aupro")


# Components


def scored(maps: list[np.ndarray], masks: list[np.ndarray]) -> Scored:
    labels = np.array([int(mask.any()) for mask in masks])
    images = np.array([float(values.max()) for values in maps])
    records = tuple(ImageRecord(Path(f"{i}.png"), "toy", "good") for i in range(len(maps)))
    empty: Any = tuple(None for _ in maps)
    return Scored(maps, images, labels, masks, records, empty)


def test_threshold_with_the_best_pixel_f1_is_chosen() -> None:
    rng = np.random.default_rng(0)
    normals = [rng.uniform(0, 1, (16, 16)).astype(np.float32) for _ in range(4)]
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    defect = np.where(mask, 0.95, rng.uniform(0, 0.9, (16, 16))).astype(np.float32)
    both = scored([*normals, defect], [np.zeros((16, 16), bool)] * 4 + [mask])
    rates = [0.001, 0.02, 0.06, 0.3]
    combinations = [{"threshold.pixel_false_positive_rate": rate} for rate in rates]
    chosen, thresholds, f1 = best_thresholds(both, ThresholdSettings(), combinations)
    assert chosen == {"threshold.pixel_false_positive_rate": 0.06}
    expected = {}
    for rate in rates:
        flat = np.sort(np.concatenate([values.ravel() for values in normals]))
        threshold = flat[len(flat) - 1 - int(rate * len(flat))]
        hit = sum(((m > threshold) & k).sum() for m, k in zip(both.maps, both.masks, strict=True))
        flagged = sum((m > threshold).sum() for m in both.maps)
        expected[rate] = 2 * hit / (flagged + mask.sum())
    assert f1 == pytest.approx(max(expected.values())) and expected[0.06] == max(expected.values())
    assert thresholds.image == best_thresholds(both, ThresholdSettings(), combinations[:1])[1].image
    assert pixel_f1(scored(normals, [np.zeros((16, 16), bool)] * 4), 2.0) == 0.0


def storage_at(folder: Path) -> Any:
    return open_storage(f"sqlite:///{folder / 'optuna.db'}")


def line(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1) + trial.suggest_int("k", 1, 5)


def optimise(study: optuna.Study, trials: int) -> None:
    while len(study.get_trials(deepcopy=False)) < trials:
        study.sampler = policy.sampler(7, len(study.get_trials(deepcopy=False)))
        study.optimize(line, n_trials=1)


def test_resumed_study_samples_the_same_settings(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    uninterrupted = open_study(storage_at(tmp_path), "whole")
    optimise(uninterrupted, 9)
    optimise(open_study(storage_at(tmp_path), "halves"), 4)
    resumed = open_study(storage_at(tmp_path), "halves")
    optimise(resumed, 9)
    assert [t.params for t in resumed.trials] == [t.params for t in uninterrupted.trials]
    assert len({t.params["x"] for t in uninterrupted.trials}) == 9


def test_interrupted_trial_is_queued_once(tmp_path: Path) -> None:
    storage = storage_at(tmp_path)
    study = open_study(storage, "s")
    trial = ask(study)
    value = trial.suggest_float("x", 0, 1)
    assert reconcile(study, storage) == [0]
    assert reconcile(study, storage) == []
    states = [t.state for t in study.trials]
    assert states == [TrialState.FAIL, TrialState.WAITING]
    assert not retry(study, study.trials[0])
    retried = ask(study)
    assert retried.number == 1 and retried.suggest_float("x", 0, 1) == value
    assert record_of(retried).retry_of == 0


def test_trial_that_always_kills_its_process_is_abandoned(tmp_path: Path) -> None:
    storage = storage_at(tmp_path)
    study = open_study(storage, "s")
    queued = []
    for _ in range(6):
        ask(study)
        queued.append(reconcile(study, storage))
    assert queued == [[0], [1], [2], [3], [], [5]]


def test_trial_with_live_codebook_beats_a_better_one_with_dead_codebook(tmp_path: Path) -> None:
    study = open_study(storage_at(tmp_path), "s")

    def add(value: float, **attrs: str) -> None:
        study.add_trial(optuna.create_trial(value=value, user_attrs=attrs))

    def best() -> optuna.trial.FrozenTrial | None:
        return policy.best_of(policy.candidates(study.trials), maximize=True)

    assert best() is None
    add(0.9, dead_codebook="dead")
    assert best().value == 0.9  # type: ignore[union-attr]
    add(0.5)
    add(0.6)
    add(0.6)
    assert best().number == 2  # type: ignore[union-attr]
    assert policy.n_done(study.trials) == 4


def test_concurrent_sweep_is_rejected(tmp_path: Path) -> None:
    with sweep_lock(tmp_path, "s"):
        with pytest.raises(UserError, match=f"process {os.getpid()}; wait for it"):
            with sweep_lock(tmp_path, "s"):
                pass
        with sweep_lock(tmp_path, "another"):
            pass
    with sweep_lock(tmp_path, "s"):
        pass


def test_unusable_store_raises(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("this is no database, " * 100)
    with pytest.raises(UserError, match=r"optuna\.db cannot be used .*not a database"):
        storage_at(tmp_path)
    (tmp_path / "folder" / "optuna.db").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be used"):
        storage_at(tmp_path / "folder")


def test_full_disk_of_the_store_raises(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    storage = storage_at(tmp_path)
    study = open_study(storage, "s")
    engine = storage.engine

    @sqlalchemy.event.listens_for(engine, "connect")
    def no_more_pages(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA max_page_count=1")

    engine.dispose()
    with pytest.raises(UserError, match="database or disk is full.*free some space"):
        with store_errors(f"sqlite:///{path}"):
            for _ in range(100):
                ask(study).set_user_attr("padding", "x" * 500)


# Complete sweeps

VQVAE_AXES: Tree = {
    "detector.codebook_size": {"choices": [8, 16]},
    "training.learning_rate": {"low": "3e-4", "high": "3e-3", "log": True},
    "threshold.pixel_false_positive_rate": {"choices": [0.002, 0.02, 0.1]},
}


class Events(list[Event]):
    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


@pytest.fixture(scope="module")
def swept(
    tree: Tree, store: Tracker, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SweepResult, Events, Callable[[int, Events], SweepResult]]:
    results = tmp_path_factory.mktemp("results")
    space = make_space({"space": VQVAE_AXES})

    def run_again(trials: int, events: Events) -> SweepResult:
        return sweep(
            make_comparison(space, tree, "tiny"),
            store,
            trials=trials,
            on_event=events.append,
            results=results,
        )

    events = Events()
    return run_again(2, events), events, run_again


def test_sweep_writes_all_outputs(swept: Any, store: Tracker) -> None:
    result, events, _ = swept
    assert [row.state for row in result.trials] == ["COMPLETE"] * 2
    assert result.best.value == max(row.value for row in result.trials)
    assert result.validation["validation/pixel_auroc"] == result.best.value
    assert {"test/image_auroc", "test/aupro"} <= set(result.test)
    assert "test_mean_image/image_auroc" in result.baseline
    assert result.pictures is not None and list(result.pictures.glob("part_*_viz.png"))
    (opened,) = events.of(StudyOpened)
    assert (opened.done, opened.target, opened.notes) == (0, 2, ())
    assert [e.number for e in events.of(TrialStarted)] == [0, 1]
    assert "validation/pixel_auroc" in events.of(EpochDone)[0].metrics
    assert events.of(TrialFinished)[-1].best == result.best

    parent = store.find(result.parent_id)
    assert (parent.status, parent.tags["vqlab.kind"]) == ("FINISHED", "study")
    assert parent.tags["vqlab.best_run"] == result.best.run_id
    assert parent.artifact("study/study.html").exists()
    assert parent.artifact(result.recipe.name).read_bytes() == result.recipe.read_bytes()
    runs = store.runs(tags={"vqlab.kind": "trial", "vqlab.study": result.study})
    assert len(runs) == 2
    for run in runs:
        assert run.tags["mlflow.parentRunId"] == result.parent_id
        assert (run.status, run.tags["optuna.state"]) == ("FINISHED", "COMPLETE")
        tested = any(key.startswith("test/") for key in run.metrics)
        assert tested == (run.run_id == result.best.run_id)
        if tested:
            assert run.checkpoint().exists()
        else:
            with pytest.raises(UserError):
                run.checkpoint()
        assert not store.run_folder(run.run_id).exists()


def test_first_trial_has_the_settings_of_the_recipe(swept: Any, tree: Tree) -> None:
    first = swept[0].trials[0].params
    assert first["detector.codebook_size"] == 16
    assert first["training.learning_rate"] == 1e-3


def test_checkpoint_recipe_and_run_have_the_same_threshold(swept: Any, store: Tracker) -> None:
    result = swept[0]
    key = "threshold.pixel_false_positive_rate"
    chosen = result.best.params[key]
    record = store.find(result.best.run_id)
    assert float(record.tags[f"vqlab.{key}"]) == chosen
    assert "pixel F1" in record.tags["vqlab.threshold_rule"]
    model = Model.load(record.checkpoint(), "cpu")
    assert flatten(model.meta["config"])[key] == chosen
    recipe = read_recipe(result.recipe)
    config = resolve(recipe)
    assert config.threshold.pixel_false_positive_rate == chosen
    splits = load_dataset(config.data)
    images = model.score_set(splits.validation)
    rates = VQVAE_AXES[key]["choices"]
    best = best_thresholds(images, config.threshold, [{key: rate} for rate in rates])
    assert best[0][key] == chosen and best[1].pixel == model.thresholds.pixel
    same_settings = {k: v for k, v in flatten(model.meta["config"]).items() if "every" not in k}
    resolved = flatten(config.model_dump(mode="json"))
    assert {k: v for k, v in resolved.items() if "every" not in k} == same_settings


def test_repeated_sweep_does_nothing_and_more_trials_continue_it(
    swept: Any, store: Tracker
) -> None:
    result, _, run_again = swept
    before = [(r.run_id, r.metrics) for r in store.runs()]
    events = Events()
    repeated = run_again(2, events)
    assert not events.of(TrialStarted) and events.of(StudyOpened)[0].done == 2
    assert (repeated.study, repeated.best, repeated.test) == (
        result.study,
        result.best,
        result.test,
    )
    assert [(r.run_id, r.metrics) for r in store.runs()] == before
    continued = run_again(3, Events())
    assert [row.number for row in continued.trials] == [0, 1, 2]
    assert continued.trials[:2] == result.trials
    assert continued.recipe == result.recipe and "Best of 3 trials" in continued.recipe.read_text()


def test_sweep_continues_after_kill_9(tree: Tree, store: Tracker, tmp_path: Path) -> None:
    """After a process is killed in a trial, no finished trial is lost, the trial is retried once
    from its last epoch, and both stores agree."""
    script = f"""
import os, signal
from pathlib import Path
from vqlab.sweep import EpochDone, make_comparison, make_space, sweep
from vqlab.tracking import Tracker
def kill(event):
    if isinstance(event, EpochDone) and (event.number, event.epoch) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
store = Tracker.open(Path({str(store.root)!r}))
comparison = make_comparison(make_space({{"space": {VQVAE_AXES!r}}}), {tree!r})
sweep(comparison, store, trials=2, on_event=kill)
"""
    result = start_program(script, cwd=tmp_path).result()
    assert result.status == -signal.SIGKILL, result.stderr[-2000:]
    assert sorted(r.tags["vqlab.kind"] for r in store.runs() if r.status == "RUNNING") == [
        "study",
        "trial",
    ]
    events = Events()
    result = run_sweep(tree, store, 2, VQVAE_AXES, events)
    assert events.of(StudyOpened)[0].done == 1 and "trial 1" in events.of(StudyOpened)[0].notes[0]
    retried = events.of(TrialStarted)[0]
    assert retried.number == 2 and retried.resumed_at == 1
    assert [e.epoch for e in events.of(EpochDone)] == [2]
    rows = result.trials
    assert [row.state for row in rows] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [row.retry_of for row in rows] == [None, None, 1]
    assert rows[1].reason == "interrupted"
    sampled = [k for k in VQVAE_AXES if not k.startswith("threshold")]
    assert [rows[1].params[k] for k in sampled] == [rows[2].params[k] for k in sampled]
    runs = store.runs(tags={"vqlab.kind": "trial", "vqlab.study": result.study})
    states = {int(r.tags["vqlab.trial"]): (r.tags["optuna.state"], r.status) for r in runs}
    finished, failed = ("COMPLETE", "FINISHED"), ("FAIL", "FAILED")
    assert states == {0: finished, 1: failed, 2: finished}
    assert not any(r.status == "RUNNING" for r in store.runs())
    assert not any(store.run_folder(r.run_id).exists() for r in runs)


# Scripted detectors: failing, killed and poor trials


class ScriptedSettings(Settings):
    quality: float = 1.0
    act: str = ""


class Scripted(base.Detector):
    """Score |x − mean training image| times `quality`; `act` selects the failure."""

    Config = ScriptedSettings
    mean: Tensor

    def __init__(self, config: ScriptedSettings, spec: Any) -> None:
        super().__init__(config, spec)
        self.config = config
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(3, *spec.image_size))

    def prepare(self, samples: Iterable[Any]) -> None:
        images = torch.cat([sample.image for sample in samples])
        self.mean.copy_(images.mean(0))

    def loss(self, sample: Any) -> dict[str, Tensor]:
        if self.config.act == "raise":
            raise RuntimeError("a wheel came off")
        if self.config.act == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return {"loss": self.weight.square() * (torch.nan if self.config.act == "nan" else 1)}

    def score(self, sample: Any) -> Scores:
        maps = (sample.image - self.mean).abs().mean(1) * self.config.quality
        return Scores(maps, maps.amax((1, 2)))

    def health(self) -> dict[str, float]:
        if self.config.act != "dead":
            return {}
        return {"codebook/perplexity": 1.5, "codebook/dead_codes": 500, "codebook/usage": 12 / 512}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tree: Tree) -> Tree:
    monkeypatch.setitem(base._REGISTER, "scripted", Scripted)

    def tested(model: Any, config: Any, splits: Any, run: Run, results: Path) -> Any:
        run.log_metrics({"test/image_auroc": 1.0})
        return Report({}, {}), {}, results

    # The test set is scored and plotted in `swept`, which takes longer than everything else.
    monkeypatch.setattr("vqlab.sweep.result.test_model", tested)
    return {**tree, "detector": {"name": "scripted"}}


def run_sweep(
    tree: Tree, store: Tracker, trials: int, axes: Tree, events: Events | None = None
) -> SweepResult:
    return sweep(
        make_comparison(make_space({"space": axes}), tree),
        store,
        trials=trials,
        results=store.root / "results",
        on_event=(events if events is not None else Events()).append,
    )


def test_poor_trial_is_pruned(scripted: Tree, store: Tracker) -> None:
    recipe = merge(scripted, {"training": {"epochs": 4}})
    result = run_sweep(recipe, store, 9, {"detector.quality": {"low": -1.0, "high": 1.0}})
    pruned = [row for row in result.trials if row.state == "PRUNED"]
    assert pruned and all(row.params["detector.quality"] < 0 for row in pruned)
    assert all(row.number >= 5 and "worse than the median" in row.reason for row in pruned)
    assert len(result.trials) == 9 and len(pruned) <= 4
    run = store.find(str(pruned[0].run_id))
    assert (run.status, run.tags["optuna.state"]) == ("KILLED", "PRUNED")
    assert run.tags["vqlab.reason"] == pruned[0].reason
    assert "validation/pixel_auroc" in run.metrics and not run.metrics.get("test/aupro")
    page = store.find(result.parent_id).artifact("study/study.html").read_text(encoding="utf-8")
    assert ">Intermediate values</h2>" in page


@pytest.mark.parametrize(
    ("act", "message"),
    [("raise", "a wheel came off"), ("nan", "diverged"), ("full disk", "No space left")],
)
def test_failing_trial_does_not_stop_the_others(
    scripted: Tree, store: Tracker, act: str, message: str
) -> None:
    recipe = merge(scripted, nest("detector.act", act))  # makes the first trial fail
    harmless = ["", "rest", "sleep", "wait"]
    result = run_sweep(recipe, store, 1, {"detector.act": {"choices": [*harmless, act]}})
    assert [row.state for row in result.trials] == ["FAIL", "COMPLETE"]
    failed = result.trials[0]
    assert message in failed.reason and failed.value is None
    run = store.find(str(failed.run_id))
    assert (run.status, run.tags["optuna.state"]) == ("FAILED", "FAIL")
    assert message in run.tags["vqlab.reason"]


def test_sweep_stops_if_all_trials_fail(scripted: Tree, store: Tracker) -> None:
    events = Events()
    recipe = merge(scripted, nest("detector.act", "raise"))
    with pytest.raises(UserError, match="3 of its 3 trials failed.*a wheel came off"):
        run_sweep(recipe, store, 50, {"detector.quality": {"low": 0.1, "high": 1.0}}, events)
    assert len(events.of(TrialFinished)) == 3
    study = events.of(StudyOpened)[0].study
    (parent,) = store.runs(tags={"vqlab.kind": "study", "vqlab.study": study})
    assert parent.status == "FAILED" and "a wheel came off" in parent.tags["vqlab.failure"]


def test_dead_codebooks_are_pruned_without_stopping_the_sweep(
    scripted: Tree, store: Tracker
) -> None:
    recipe = merge(scripted, nest("detector.act", "dead"))
    all_dead = run_sweep(recipe, store, 2, {"detector.quality": {"low": 0.1, "high": 1.0}})
    assert [row.state for row in all_dead.trials] == ["COMPLETE"] * 2
    assert "dead codebook" in all_dead.best.reason
    some = run_sweep(scripted, store, 4, {"detector.act": {"choices": ["", "dead"]}})
    states = {(row.params["detector.act"], row.state) for row in some.trials}
    assert states == {("", "COMPLETE"), ("dead", "PRUNED")}
    dead = next(row for row in some.trials if row.state == "PRUNED")
    assert "dead codebook" in store.find(str(dead.run_id)).tags["vqlab.reason"]


def test_ctrl_c_leaves_consistent_stores_and_explains_how_to_resume(
    scripted: Tree, store: Tracker
) -> None:
    axes = {"detector.quality": {"low": 0.2, "high": 1.0}}
    recipe = merge(scripted, nest("training.seed", 1))  # not trained by an earlier test
    events = Events()

    class Stopping(Events):
        def append(self, event: Event) -> None:
            super().append(event)
            if isinstance(event, EpochDone) and event.number == 1:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="1 of 3 trials done; run the same command to resume"):
        run_sweep(recipe, store, 3, axes, Stopping())
    assert not any(r.status == "RUNNING" for r in store.runs())
    result = run_sweep(recipe, store, 3, axes, events)
    assert [r.state for r in result.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert result.trials[2].retry_of == 1 and result.trials[1].reason == "interrupted"


def test_other_data_or_space_starts_another_study_with_a_note(
    scripted: Tree, store: Tracker
) -> None:
    first = run_sweep(scripted, store, 1, {"detector.quality": {"low": 0.3, "high": 1.0}})
    events = Events()
    two = run_sweep(scripted, store, 1, {"detector.quality": {"low": 0.4, "high": 1.0}}, events)
    assert two.study != first.study
    assert first.study in events.of(StudyOpened)[0].notes[0]


def test_registered_checkpoint_is_kept_when_no_longer_best(scripted: Tree, store: Tracker) -> None:
    recipe = merge(scripted, nest("detector.quality", -1.0))
    recipe = merge(recipe, nest("data.held_out", 0.3))  # enough images for significance
    axes = {"detector.quality": {"low": -1.0, "high": 1.0}}
    first = run_sweep(recipe, store, 1, axes)
    run_id = str(first.best.run_id)
    store.registry.register(run_id, "checkpoint/model.safetensors", "part")
    more = run_sweep(recipe, store, 2, axes)
    assert more.best.run_id != run_id
    assert store.find(run_id).checkpoint().exists()


def test_sweep_requires_a_single_model(tree: Tree, store: Tracker) -> None:
    both = merge(tree, nest("data.categories", ["part", "other"]))
    with pytest.raises(UserError, match="got 2 categories"):
        run_sweep(both, store, 1, VQVAE_AXES)
    with pytest.raises(UserError, match="did you mean|known"):
        run_sweep(tree, store, 1, {"detector.nothing": {"choices": [1]}})


def test_no_trial_is_started_after_the_timeout(scripted: Tree, store: Tracker) -> None:
    axes = {"detector.quality": {"low": 0.25, "high": 1.0}}
    with pytest.raises(UserError, match="has no complete trial"):
        sweep(
            make_comparison(make_space({"space": axes}), scripted),
            store,
            trials=5,
            execution=Execution(timeout=0.0),
        )
