"""What a study shows: pictures that hold its numbers, a page that needs no network, a table."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial
from PIL import Image

from vqlab.plots import trials as plots
from vqlab.plots.slices import Setting, parallel_figure, slices_figure
from vqlab.plots.trials import Goal, Trial, best, front, limits
from vqlab.run import short_names
from vqlab.sweep.pictures import draw_study, importances
from vqlab.sweep.shown import Shown, plain
from vqlab.sweep.study import DEAD, REASON, RECIPE, RETRY_OF, RUN_ID

AUROC, SECONDS = "validation/pixel_auroc", "seconds_per_image"
TERMS = ['["error", "context"]', '["error"]']


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def settings(trial: optuna.Trial, prefix: str = "") -> float:
    """Draws four settings; only the learning rate matters."""
    rate = trial.suggest_float(f"{prefix}training.learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_categorical(f"{prefix}detector.pattern.codebook_size", [128, 64])
    trial.suggest_categorical(f"{prefix}detector.concept.codebook_size", [8, 16])
    trial.suggest_categorical(f"{prefix}detector.scoring.terms", TERMS)
    return 0.95 - 0.1 * (math.log10(rate) + 3) ** 2


def one(trial: optuna.Trial) -> float:
    """A study of one recipe: pruned and failed trials, a search within each."""
    trial.set_user_attr(RUN_ID, f"run{trial.number:03d}")
    value = settings(trial)
    for epoch in (1, 2, 3):
        trial.report(value - 0.1 / epoch, epoch)
    if trial.number in (3, 5):
        trial.set_user_attr(REASON, "behind the median, of <b>earlier</b> trials")
        raise optuna.TrialPruned
    if trial.number == 7:
        raise ZeroDivisionError
    trial.set_user_attr("scoring", {"detector.scoring.code_smoothing": 0.01 * (1 + trial.number)})
    trial.set_user_attr("thresholds", {"threshold.pixel_false_positive_rate": 0.01})
    trial.set_user_attr("validation", {AUROC: value, "validation/aupro": value - 0.05})
    return value


def several(trial: optuna.Trial) -> tuple[float, float]:
    """Two recipes, two objectives, a constraint that trial 4 breaks."""
    recipe = trial.suggest_categorical(RECIPE, ["vqvae", "vqflow"])
    value = settings(trial, f"{recipe}.")
    blocks = trial.suggest_int(f"{recipe}.detector.blocks", 1, 8) if recipe == "vqflow" else 2
    trial.set_constraint("latency", 1.0 if trial.number == 4 else -1.0)
    return value, 0.01 * blocks + 0.1 * (0.95 - value)


def swept(
    objective: Callable[[optuna.Trial], Any],
    trials: int,
    directions: tuple[str, ...] = ("maximize",),
) -> optuna.Study:
    study = optuna.create_study(
        study_name="cable-test", directions=directions, sampler=RandomSampler(seed=0)
    )
    study.optimize(objective, trials, catch=(ZeroDivisionError,))
    return study


def of(*values: float, **more: Any) -> optuna.Study:
    """A study of finished trials with these values and one setting."""
    study = optuna.create_study(study_name="few", direction="maximize")
    for place, value in enumerate(values):
        study.add_trial(
            create_trial(
                value=value,
                params={"a.x": place / 10},
                distributions={"a.x": FloatDistribution(0, 1)},
                **more,
            )
        )
    return study


def drawn(paths: list[Path]) -> set[str]:
    return {path.name for path in paths}


def look(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[optuna.Study, Path, list[Path]]:
    folder = tmp_path_factory.mktemp("one")
    study = swept(one, 24)
    tested = {study.best_trial.number: {"test/pixel_auroc": 0.9123, "test/aupro": 0.8}}
    return study, folder, draw_study(study, [AUROC], folder / "new", tested)


def test_all_pictures_of_a_study_are_drawn(shown: tuple[optuna.Study, Path, list[Path]]) -> None:
    _, folder, paths = shown
    names = "history importances parallel slices intermediate validation_and_test".split()
    assert drawn(paths) == {f"{n}.png" for n in names} | {"trials.csv", "study.html"}
    assert all(path.parent == folder / "new" for path in paths)
    for path in paths:
        if path.suffix == ".png":
            pixels = look(path)
            assert pixels.shape[0] > 200 and pixels.shape[1] > 400
            coloured = pixels.max(2).astype(int) - pixels.min(2) > 60
            assert coloured.sum() > 100, path.name  # more than text and frames


def test_the_page_needs_no_network_and_holds_the_numbers(
    shown: tuple[optuna.Study, Path, list[Path]],
) -> None:
    study, folder, _ = shown
    text = (folder / "new" / "study.html").read_text(encoding="utf-8")
    own = re.sub(r"<script>/\*\*\s*\* plotly\.js.*?</script>", "", text, flags=re.S)
    assert len(own) < len(text) / 4  # plotly.js is in it, once
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)\s*=", own)
    assert "http:" not in own and "https:" not in own
    charts = own.count("Plotly.newPlot(")
    assert charts >= 6 and own.count('"showSendToCloud": false') == charts
    for heading in ("Optimisation history", "PED-ANOVA", "Parallel", "Slices", "Intermediate"):
        assert heading in own
    assert "Pareto" not in own
    assert f"trial {study.best_trial.number}, {study.best_value:.6g}" in own
    table = own.partition("<tbody>")[2]
    for trial in study.trials:
        assert trial.state.name in table
        if trial.value is not None and trial.state == TrialState.COMPLETE:
            assert f"<td>{trial.value:.6g}</td>" in table
    assert "error+context" in table and "&lt;b&gt;earlier&lt;/b&gt;" in table
    assert f'<tr class="best"><td>{study.best_trial.number}</td>' in table
    assert "0.9123" in own.partition("Validation and test</h2>")[2]


def test_the_table_holds_every_trial_with_all_digits(
    shown: tuple[optuna.Study, Path, list[Path]],
) -> None:
    study, folder, _ = shown
    with (folder / "new" / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(study.trials) == 24
    for trial, row in zip(study.trials, rows, strict=True):
        assert (int(row["trial"]), row["state"]) == (trial.number, trial.state.name)
        assert row["run_id"] == f"run{trial.number:03d}"
        rate = row["training.learning_rate"]
        assert float(rate) == trial.params["training.learning_rate"]
        assert json.loads(row["detector.scoring.terms"]) in (["error", "context"], ["error"])
        if trial.state == TrialState.COMPLETE:
            assert float(row[AUROC]) == trial.value
            assert float(row["detector.scoring.code_smoothing"]) == 0.01 * (1 + trial.number)
            assert float(row["threshold.pixel_false_positive_rate"]) == 0.01
        else:
            assert row[AUROC] == ""
    assert rows[3]["reason"] == "behind the median, of <b>earlier</b> trials"


def test_importances_name_the_setting_that_matters() -> None:
    ((name, shares),) = importances(Shown(swept(one, 60), [AUROC])).items()
    assert max(shares, key=shares.__getitem__) == "learning_rate"
    assert sum(shares.values()) == pytest.approx(1)
    assert "pattern.codebook_size" in shares  # two words where one is ambiguous
    assert "code_smoothing" not in shares  # not drawn, but the best of each trial
    assert name == f"{AUROC} · best 6 of 57 trials"
    ((name, _),) = importances(Shown(swept(one, 24), [AUROC])).items()
    assert name.endswith("best 3 of 21 trials: too few for more than a hint")
    assert importances(Shown(of(0.5, 0.5, 0.5, 0.5, 0.5), [AUROC])) == {}


def test_several_recipes_and_objectives(tmp_path: Path) -> None:
    study = swept(several, 20, ("maximize", "minimize"))
    tested = {0: {"pixel_auroc": 0.9}}
    written = drawn(draw_study(study, [AUROC, SECONDS], tmp_path, tested))
    assert {"pareto.png", "history.png", "slices.png", "parallel.png"} <= written
    assert "validation_and_test.png" in written and "intermediate.png" not in written
    shown = Shown(study, [AUROC, SECONDS])
    assert shown.recipes == ["vqflow", "vqvae"]
    assert "blocks" in [s.name for s in shown.settings["vqflow"]]
    assert "blocks" not in [s.name for s in shown.settings["vqvae"]]
    groups = list(importances(shown))
    assert [name.split(" · ")[:2] for name in groups] == [
        ["vqflow", AUROC], ["vqvae", AUROC], ["vqflow", SECONDS], ["vqvae", SECONDS]
    ]  # fmt: skip
    ours = [trial.number for trial in front(shown.trials, shown.goals)]
    assert ours == sorted(trial.number for trial in study.best_trials)  # Optuna's own
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert f"Pareto front: trials {', '.join(map(str, ours))}." in page
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["recipe"] for row in rows} == {"vqvae", "vqflow"}
    assert float(rows[0]["training.learning_rate"]) > 0
    for trial, row in zip(study.trials, rows, strict=True):
        assert [float(row[AUROC]), float(row[SECONDS])] == trial.values


@pytest.mark.parametrize(
    ("values", "pictures"),
    [
        ((), set()),
        ((0.5,), {"history"}),
        ((0.5, 0.6), {"history", "parallel", "slices"}),
        ((0.5, 0.5, 0.5, 0.5, 0.5), {"history", "parallel", "slices"}),
        ((0.5, math.inf, -math.inf), {"history"}),
        ((math.inf,), set()),
        ((1e-300, 0.0, -1e300), {"history", "parallel", "slices"}),
    ],
)
def test_what_says_nothing_is_left_out(
    tmp_path: Path, values: tuple[float, ...], pictures: set[str]
) -> None:
    written = drawn(draw_study(of(*values), [AUROC], tmp_path, {0: {"test/other": 1.0}}))
    assert written == {f"{name}.png" for name in pictures} | {"trials.csv", "study.html"}
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + len(values)


def test_a_study_without_a_complete_trial(tmp_path: Path) -> None:
    study = of(0.5, 0.6)
    assert "slices.png" in drawn(draw_study(study, [AUROC], tmp_path))
    study = optuna.create_study(direction="minimize")
    for state in (TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING):
        study.add_trial(create_trial(state=state))
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.4}))
    written = drawn(draw_study(study, [AUROC], tmp_path))
    assert written == {"intermediate.png", "trials.csv", "study.html"}
    assert not (tmp_path / "slices.png").exists()  # what an earlier call drew is gone
    assert "1 pruned" in (tmp_path / "study.html").read_text(encoding="utf-8")


def test_odd_trials_do_no_harm(tmp_path: Path) -> None:
    study = of(0.6, 0.7)
    study.add_trial(
        create_trial(
            value=0.9,
            intermediate_values={1: math.nan, 2: math.inf, 3: 0.5},
            user_attrs={
                DEAD: "dead codebook", RETRY_OF: 1, "reused": "trial 0", "seconds_saved": 1.5,
                "validation": {AUROC: None},
                "scoring": {"detector.scoring.terms": ["error"], "s.y": None},
                "thresholds": "none",
            },
        )
    )  # fmt: skip
    study.add_trial(
        create_trial(
            value=0.8,
            params={"a.x": 0.5, "b.x": "[not json", "n": None},
            distributions={
                "a.x": FloatDistribution(0, 1),
                "b.x": CategoricalDistribution(["[not json", "[]"]),
                "n": CategoricalDistribution([None, True, 2]),
            },
            user_attrs={"scoring": {"detector.scoring.terms": ["error", "x"], "s.y": 3}},
        )
    )
    tested = {2: {"test/pixel_auroc": math.nan}, 3: {"test/aupro": 0.3}, 99: {}}
    draw_study(study, [AUROC], tmp_path, tested)
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[2]
    assert (row["retry_of"], row["reason"]) == ("1", "dead codebook")
    assert (row["reused"], row["seconds_saved"]) == ("trial 0", "1.5")
    shown = Shown(study, [AUROC])
    winner = best(shown.trials, shown.goals[0], 0)
    assert winner is not None and winner.number == 3  # the better one's codebook is dead
    with pytest.raises(ValueError, match="must have as many names"):
        draw_study(study, [AUROC, SECONDS], tmp_path)


def test_the_same_study_gives_the_same_files(tmp_path: Path) -> None:
    study = swept(one, 4)
    for name in ("a", "b"):
        draw_study(study, [AUROC], tmp_path / name)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_figures_carry_their_data() -> None:
    goals = [Goal("good", True), Goal("slow", False)]
    trials = [
        Trial(
            0, "COMPLETE", (0.8, 2.0), settings={"rate": 0.1, "kind": "a"}, curve={1: 0.5, 2: 0.8}
        ),
        Trial(1, "PRUNED", curve={1: 0.3}),
        Trial(2, "COMPLETE", (0.9, 3.0), settings={"rate": 0.01, "kind": "b"}, curve={1: 0.6}),
        Trial(3, "COMPLETE", (0.7, 9.0), settings={"rate": 1.0, "kind": "a"}),
        Trial(4, "FAIL"),
    ]
    settings = {"": [Setting("rate", 0.01, 1.0, log=True), Setting("kind", choices=("a", "b"))]}
    figure = plots.history_figure("s", goals, trials)
    assert figure is not None
    first, second = figure.axes
    assert first.collections[0].get_offsets().tolist() == [[0, 0.8], [2, 0.9], [3, 0.7]]
    assert [line.get_ydata().tolist() for line in first.lines if len(line.get_ydata()) > 1] == [
        [0.8, 0.9, 0.9, 0.9]
    ]
    assert second.get_title(loc="right") == "best: trial 0, 2"
    figure = parallel_figure("s", goals, trials, settings)
    assert figure is not None
    (axes,) = figure.axes
    lines = [line.get_ydata().tolist() for line in axes.lines]
    assert len(lines) == 3  # the best good comes last, on top
    assert lines[-1][:2] == [0.0, 0.75] and lines[0][:2] == [1.0, 0.25]
    assert {"rate", "kind", "a", "b", "0.01", "0.1", "1"} <= {t.get_text() for t in axes.texts}
    figure = slices_figure("s", goals, trials, settings)
    assert figure is not None and len(figure.axes) == 4
    assert figure.axes[0].collections[0].get_offsets().tolist() == [[0.5, 0.8], [0, 0.9], [1, 0.7]]
    assert figure.axes[0].get_title() == "rate"
    figure = plots.curves_figure("s", goals[0], trials)
    assert figure is not None
    drawn = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert drawn == [[[1, 0.5], [2, 0.8]], [[1, 0.3]], [[1, 0.3]], [[1, 0.6]]]
    figure = plots.pareto_figure("s", goals, trials)
    assert figure is not None
    (axes,) = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[2.0, 0.8], [3.0, 0.9]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (goals[1].label, goals[0].label)
    assert [text.get_text() for text in axes.texts] == ["0", "2"]
    figure = plots.agreement_figure("s", {"aupro": [(7, 0.9, 0.85)]})
    assert figure is not None
    (axes,) = figure.axes
    assert axes.texts[0].get_text() == "7: 0.900 → 0.850"
    low, high = axes.get_xlim()
    assert axes.get_ylim() == (low, high) and high - low == pytest.approx(0.1)
    figure = plots.importances_figure("s", "PED-ANOVA", "share", {"g": {"rate": 0.8, "kind": 0.2}})
    assert figure is not None and "PED-ANOVA" in figure.get_suptitle()
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.8, 0.2]


def test_short_names_and_words() -> None:
    assert short_names(["a.b.size", "a.c.size", "d.rate", "rate2"]) == {
        "a.b.size": "b.size", "a.c.size": "c.size", "d.rate": "rate", "rate2": "rate2",
    }  # fmt: skip
    assert short_names(["x.b.size", "y.b.size", "size"]) == {
        "x.b.size": "x.b.size", "y.b.size": "y.b.size", "size": "size",
    }  # fmt: skip
    assert [plain(v) for v in ('["error", "context"]', [4, 8], True, None, 2, "mixture", "[")] == [
        "error+context", "4+8", "True", "none", 2, "mixture", "[",
    ]  # fmt: skip


def test_far_worse_values_do_not_squash_the_others() -> None:
    values = [0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.1]
    low, high = limits(values, Goal("auroc", maximize=True))
    assert 0.7 < low < 0.9 and 0.96 < high < 1
    low, high = limits([-v for v in values], Goal("loss", maximize=False))
    assert -1 < low < -0.96 and -0.9 < high < -0.7
    assert limits(values[-3:], Goal("auroc", maximize=True))[0] < 0.1  # few: all are shown


def test_no_trial_of_the_front_is_beaten() -> None:
    goals = [Goal("good", True), Goal("slow", False)]
    values = [(0.9, 5.0), (0.8, 1.0), (0.7, 2.0), (0.9, 4.0), (0.95, 9.0)]
    trials = [Trial(n, "COMPLETE", v, eligible=n != 4) for n, v in enumerate(values)]
    assert [trial.number for trial in front(trials, goals)] == [1, 3]
    assert front([], goals) == []
