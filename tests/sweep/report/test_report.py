"""The report of a study: a self-contained page, and a table with all digits."""

from __future__ import annotations

import csv
import html
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from vqlab.metrics import Difference, Interval
from vqlab.run import short_names
from vqlab.sweep import TrialKey
from vqlab.sweep.report import ReportContext, write_report
from vqlab.sweep.report.importance import importances
from vqlab.sweep.report.study_data import Goal, StudyData, TrialData, pareto_front, plain
from vqlab.sweep.study.record import note, stored
from vqlab.sweep.study.studies import Studies

AUROC, SECONDS = "validation/pixel_auroc", "seconds_per_image"
TERMS = ['["error", "context"]', '["error"]']


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def settings(trial: optuna.Trial) -> float:
    """Sample four settings; only the learning rate matters."""
    rate = trial.suggest_float("training.learning_rate", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("detector.pattern.codebook_size", [128, 64])
    trial.suggest_categorical("detector.concept.codebook_size", [8, 16])
    trial.suggest_categorical("detector.scoring.terms", TERMS)
    return 0.95 - 0.1 * (math.log10(rate) + 3) ** 2


def varied_trial(trial: optuna.Trial) -> float:
    """Return a study of one recipe with pruned and failed trials and a search within each trial."""
    note(trial, run_id=f"run{trial.number:03d}")
    note(trial, as_in_recipe=trial.number == 0)
    value = settings(trial)
    for epoch in (1, 2, 3):
        trial.report(value - 0.1 / epoch, epoch)
    if trial.number in (3, 5):
        note(trial, reason="behind the median, of <b>earlier</b> trials")
        raise optuna.TrialPruned
    if trial.number == 7:
        raise ZeroDivisionError
    trial.set_user_attr("scoring", {"detector.scoring.code_smoothing": 0.01 * (1 + trial.number)})
    trial.set_user_attr("thresholds", {"threshold.pixel_false_positive_rate": 0.01})
    trial.set_user_attr("validation", {AUROC: value, "validation/aupro": value - 0.05})
    return value


def compared(trials: int) -> Studies:
    """Return two recipes, two objectives, and a constraint that vqvae:2 violates."""
    studies = {
        recipe: optuna.create_study(
            directions=["maximize", "minimize"], sampler=RandomSampler(seed=seed)
        )
        for seed, recipe in enumerate(("vqvae", "vqflow"))
    }
    for _ in range(trials // 2):
        for recipe, study in studies.items():
            study.enqueue_trial({}, user_attrs=stored(recipe=recipe))
            trial = study.ask()
            value = settings(trial)
            blocks = trial.suggest_int("detector.blocks", 1, 8) if recipe == "vqflow" else 2
            broken = (recipe, trial.number) == ("vqvae", 2)
            trial.set_constraint("latency", 1.0 if broken else -1.0)
            study.tell(trial, (value, 0.01 * blocks + 0.1 * (0.95 - value)))
    return Studies("cable-both", studies)


def swept(objective: Callable[[optuna.Trial], Any], trials: int) -> optuna.Study:
    study = optuna.create_study(
        study_name="cable-test", direction="maximize", sampler=RandomSampler(seed=0)
    )
    study.optimize(objective, trials, catch=(ZeroDivisionError,))
    return study


def as_studies(study: optuna.Study) -> Studies:
    return Studies(study.study_name, {"": study})


def of(*values: float, **more: Any) -> optuna.Study:
    """Return a study of finished trials with these values and one setting."""
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


def text_without_plotly(page: Path) -> str:
    """Return the page without plotly.js."""
    text = page.read_text(encoding="utf-8")
    without_plotly = re.sub(r"<script>/\*\*\s*\* plotly\.js.*?</script>", "", text, flags=re.S)
    assert len(without_plotly) < len(text) / 4  # plotly.js is included once
    return without_plotly


def headings(page: Path) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", text_without_plotly(page))


PICTURE = b"\x89PNG no picture"
NAME = "<script>alert(1)</script> & [cable]"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[optuna.Study, Path]:
    folder = tmp_path_factory.mktemp("one")
    study = swept(varied_trial, 24)
    number = study.best_trial.number
    metrics = {"test/pixel_auroc": 0.9123, "test/aupro": 0.8, "test/false_reject_rate": 0.1}
    metrics |= {"test/pixel_auroc_low": 0.9012, "test/pixel_auroc_high": 0.9234}
    context = ReportContext(
        dataset=NAME,
        tested={TrialKey("", number): metrics},
        purposes={TrialKey("", number): "winner"},
        baseline={"test_mean_image/pixel_auroc": 0.7001},
        reason=f"Trial {number} keeps the recipe's own settings.",
        notes=["a <i>note</i>"],
        run_link=lambda run_id: f"http://127.0.0.1:5000/#/runs/{run_id}?a=1&b=2",
        links={"all trials": "http://127.0.0.1:5000/#/table"},
        pictures={"cable/<b>": PICTURE},
    )
    paths = write_report(as_studies(study), [AUROC], folder / "new", context)
    assert [path.name for path in paths] == ["trials.csv", "study.html"]
    assert {path.name for path in (folder / "new").iterdir()} == {"trials.csv", "study.html"}
    return study, folder / "new"


def test_page_is_self_contained_and_shows_the_values(report: tuple[optuna.Study, Path]) -> None:
    study, folder = report
    page = text_without_plotly(folder / "study.html")
    assert not re.search(r"<(script|link|iframe)[^>]*(src|href)\s*=", page)
    assert re.findall(r"src=\"(.{14})", page) == ["data:image/png"]
    charts = page.count("Plotly.newPlot(")
    assert charts >= 7 and page.count('"showSendToCloud": false') == charts
    assert headings(folder / "study.html") == [
        "Test metrics, with 95 % intervals", "Test pictures of the best trial",
        "Optimization history",
        "Importance of settings (PED-ANOVA)", "Parallel coordinates", "Slices",
        "Intermediate values", "Validation and test", "Timeline", "Trials",
    ]  # fmt: skip
    assert f"trial {study.best_trial.number}, {study.best_value:.6g}" in page
    table = page.partition("<tbody>")[2]
    for trial in study.trials:
        assert trial.state.name in table
        if trial.value is not None and trial.state == TrialState.COMPLETE:
            assert f"<td>{trial.value:.6g}</td>" in table
    assert "error+context" in table and "&lt;b&gt;earlier&lt;/b&gt;" in table
    assert f'<tr class="best"><td>{study.best_trial.number}</td>' in table
    assert "0.9123" in page.partition("Validation and test</h2>")[2]


def test_page_describes_the_data_and_the_decision(report: tuple[optuna.Study, Path]) -> None:
    study, folder = report
    page = text_without_plotly(folder / "study.html")
    assert "<script>alert" not in page and html.escape(NAME) in page
    assert "a &lt;i&gt;note&lt;/i&gt;" in page and "keeps the recipe&#x27;s own settings" in page
    assert f"Objective: {AUROC} (higher is better)." in page
    assert "0.9123 [0.901, 0.923]" in page
    assert "<th>mean_image (baseline)</th>" in page and "<td>0.7001</td>" in page
    assert "<td>false_reject_rate ↓</td>" in page and "<td>pixel_auroc</td>" in page
    assert "<figcaption>cable/&lt;b&gt;</figcaption>" in page
    number = study.best_trial.number
    link = f"http://127.0.0.1:5000/#/runs/run{number:03d}?a=1&amp;b=2"
    assert f'<a href="{link}">run{number:03d}</a>' in page
    assert "pruned, last reported value" in page
    assert "the recipe's own settings" in page  # trial 0, in the history


def test_page_supports_phones_and_dark_mode(report: tuple[optuna.Study, Path]) -> None:
    page = text_without_plotly(report[1] / "study.html")
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in page
    assert "prefers-color-scheme:dark" in page and "overflow-x:auto" in page


def test_table_has_every_trial_with_all_digits(report: tuple[optuna.Study, Path]) -> None:
    study, folder = report
    with (folder / "trials.csv").open(encoding="utf-8") as file:
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


def test_importances_rank_the_relevant_setting_first() -> None:
    ((name, shares),) = importances(StudyData(as_studies(swept(varied_trial, 60)), [AUROC])).items()
    assert max(shares, key=shares.__getitem__) == "learning_rate"
    assert sum(shares.values()) == pytest.approx(1)
    assert "pattern.codebook_size" in shares  # two words where one is ambiguous
    assert "code_smoothing" not in shares  # not sampled, but the best within each trial
    assert name == f"{AUROC} · best 6 of 57 trials"
    ((name, _),) = importances(StudyData(as_studies(swept(varied_trial, 24)), [AUROC])).items()
    assert name.endswith("best 3 of 21 trials: too few to be reliable")
    assert importances(StudyData(as_studies(of(0.5, 0.5, 0.5, 0.5, 0.5)), [AUROC])) == {}


def test_several_recipes_and_objectives(tmp_path: Path) -> None:
    studies = compared(20)
    context = ReportContext(tested={TrialKey("vqvae", 0): {"pixel_auroc": 0.9}})
    write_report(studies, [AUROC, SECONDS], tmp_path, context)
    page = tmp_path / "study.html"
    assert {"Pareto front", "Slices", "Validation and test"} <= set(headings(page))
    assert "Intermediate values" not in headings(page)
    data = StudyData(studies, [AUROC, SECONDS])
    assert data.recipes == ["vqflow", "vqvae"]
    assert "blocks" in data.varied["vqflow"]
    assert "blocks" not in data.varied["vqvae"]
    groups = list(importances(data))
    assert [name.split(" · ")[:2] for name in groups] == [
        ["vqflow", AUROC], ["vqvae", AUROC], ["vqflow", SECONDS], ["vqvae", SECONDS]
    ]  # fmt: skip
    combined = optuna.create_study(directions=["maximize", "minimize"])
    combined.add_trials(
        create_trial(values=trial.values, constraints=trial.constraints)
        for trial in studies.trials()
    )
    assert {t.values for t in data.best} == {tuple(t.values) for t in combined.best_trials}
    front = [trial.key for trial in data.best]
    assert len({key.recipe for key in front}) == 2
    text = page.read_text(encoding="utf-8")
    assert f"Pareto front: trials {', '.join(map(str, front))}." in text
    assert f"{SECONDS} (lower is better)" in text
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["recipe"] for row in rows} == {"vqvae", "vqflow"}
    assert float(rows[0]["training.learning_rate"]) > 0
    for trial, row in zip(studies.trials(), rows, strict=True):
        assert row["trial"] == str(trial.number)
        assert [float(row[AUROC]), float(row[SECONDS])] == trial.values


HISTORY, MANY = {"Optimization history"}, {"Parallel coordinates", "Slices"}


@pytest.mark.parametrize(
    ("values", "charts"),
    [
        ((), set()),
        ((0.5,), HISTORY),
        ((0.5, 0.6), HISTORY | MANY),
        ((0.5, 0.5, 0.5, 0.5, 0.5), HISTORY | MANY),
        ((0.5, math.inf, -math.inf), HISTORY),
        ((math.inf,), set()),
        ((1e-300, 0.0, -1e300), HISTORY | MANY),
    ],
)
def test_empty_charts_are_omitted(
    tmp_path: Path, values: tuple[float, ...], charts: set[str]
) -> None:
    context = ReportContext(tested={TrialKey("", 0): {}})
    write_report(as_studies(of(*values)), [AUROC], tmp_path, context)
    assert set(headings(tmp_path / "study.html")) - {"Timeline", "Trials"} == charts
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + len(values)


def test_study_without_a_complete_trial(tmp_path: Path) -> None:
    study = optuna.create_study(direction="minimize")
    for state in (TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING):
        study.add_trial(create_trial(state=state))
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.4}))
    write_report(as_studies(study), [AUROC], tmp_path, ReportContext())
    assert "Intermediate values" in headings(tmp_path / "study.html")
    assert "Slices" not in headings(tmp_path / "study.html")
    assert "1 pruned" in (tmp_path / "study.html").read_text(encoding="utf-8")


def test_unusual_trials(tmp_path: Path) -> None:
    study = of(0.6, 0.7)
    study.add_trial(
        create_trial(
            value=0.9,
            intermediate_values={1: math.nan, 2: math.inf, 3: 0.5},
            user_attrs={
                "dead_codebook": "dead codebook", "retry_of": 1,
                "reused": "trial 0", "seconds_saved": 1.5,
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
    metrics = {2: {"test/pixel_auroc": math.nan}, 3: {"test/aupro": 0.3}, 99: {}}
    tested = {TrialKey("", number): values for number, values in metrics.items()}
    write_report(as_studies(study), [AUROC], tmp_path, ReportContext(tested=tested))
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[2]
    assert (row["retry_of"], row["reason"]) == ("1", "dead codebook")
    assert (row["reused"], row["seconds_saved"]) == ("trial 0", "1.5")
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "Trial 2 has 0.9, but may not win: dead codebook." in page
    (winner,) = StudyData(as_studies(study), [AUROC]).best
    assert winner.key.number == 3  # the better trial has a dead codebook
    with pytest.raises(ValueError, match="must have as many names"):
        write_report(as_studies(study), [AUROC, SECONDS], tmp_path, ReportContext())


def test_names_and_values_are_escaped(tmp_path: Path) -> None:
    script = "</script><script>alert(1)</script>"
    study = optuna.create_study(study_name=script, direction="maximize")
    for place, choice in enumerate([script, "b", script, "b", "b"]):
        params = {f"a.{script}": choice}
        distributions = {name: CategoricalDistribution([script, "b"]) for name in params}
        attrs = stored(recipe=script, run_id=script, reason=script)
        study.add_trial(
            create_trial(
                value=place, params=params, distributions=distributions, user_attrs=attrs,
                intermediate_values={1: 0.5},
            )
        )  # fmt: skip
    key = TrialKey(script, 1)
    context = ReportContext(
        tested={key: {script: 0.5}}, purposes={key: script}, reason=script,
        pictures={script: PICTURE},
        run_link=lambda run_id: f'"><b>{run_id}', links={script: f'"><b>{script}'},
    )  # fmt: skip
    write_report(Studies(script, {script: study}), [AUROC], tmp_path, context)
    page = text_without_plotly(tmp_path / "study.html")
    assert "<script>alert" not in page and "<b>" not in page
    assert len(re.findall("<script", page)) == len(re.findall("</script>", page))
    assert html.escape(script) in page


def test_files_are_reproducible(tmp_path: Path) -> None:
    study = swept(varied_trial, 4)
    for name in ("a", "b"):
        write_report(as_studies(study), [AUROC], tmp_path / name, ReportContext())
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


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


def test_pareto_front_has_no_dominated_trial() -> None:
    goals = [Goal("good", True), Goal("slow", False)]
    values = [(0.9, 5.0), (0.8, 1.0), (0.7, 2.0), (0.9, 4.0), (0.95, 9.0)]
    trials = [
        TrialData(TrialKey("", n), "COMPLETE", v, eligible=n != 4) for n, v in enumerate(values)
    ]
    assert [trial.key.number for trial in pareto_front(trials, goals)] == [1, 3]
    assert pareto_front([], goals) == []


def test_differences_from_the_recipe_are_shown_with_intervals(tmp_path: Path) -> None:
    study = swept(varied_trial, 4)
    differences = {
        TrialKey("", 1): Difference(0.0123, Interval(0.0012, 0.0345), 0.01),
        TrialKey("", 2): Difference(-0.02, Interval(-0.06, 0.01), 0.4),
        TrialKey("", 3): Difference(0.3, None, None, "too few images"),
    }
    context = ReportContext(differences=differences)
    write_report(as_studies(study), [AUROC], tmp_path, context)
    page = text_without_plotly(tmp_path / "study.html")
    heading = "Difference from the recipe&#x27;s own trial"
    assert heading in headings(tmp_path / "study.html")
    chart = page.partition(f"{heading}</h2>")[2].partition("<h2")[0]
    rows = re.findall(r'"y":\["(trial \d)"\]', chart)
    assert rows == ["trial 2", "trial 1"], "sorted, without the trial that has no interval"
    assert "0.0222" in chart and "0.0111" in chart, "interval bounds relative to the value"
    grey, coloured = re.findall(r'"color":"(#\w+)","size":8', chart)
    assert grey != coloured
