"""The first view of a sweep in the MLflow UI, with a server and a browser with a new profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow_server import pictures_loaded
from tiny_set import tiny_recipe

from vqlab.run import TEST_METRICS
from vqlab.sweep import SweepResult, make_comparison, make_space, sweep
from vqlab.tracking import Tracker

pytestmark = pytest.mark.slow
SPACE = {
    "space": {
        "detector.codebook_size": {"choices": [8, 16]},
        "detector.commitment": {"low": 0.1, "high": 1.0},
        "threshold.pixel_false_positive_rate": {"low": 0.01, "high": 0.05},
    },
    "validations": 2,
}


@pytest.fixture(scope="module")
def result(
    mlflow_ui: str, root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory
) -> SweepResult:
    """A small sweep, shown by `vqlab ui` at a port other than the default."""
    results = tmp_path_factory.mktemp("results")
    swept = sweep(
        make_comparison(make_space(SPACE), tiny_recipe(root)),
        store,
        trials=2,
        test=[0, 1],
        results=results,
    )
    assert swept.link.startswith(mlflow_ui) and swept.charts_link.startswith(mlflow_ui)
    return swept


def in_model_training_mode(page: Any) -> bool:
    page.get_by_role("link", name="Models", exact=True).wait_for()
    return page.get_by_text("Prompts", exact=True).count() == 0


def test_first_link_shows_the_trials_as_a_table(page: Any, result: SweepResult) -> None:
    page.goto(result.link, wait_until="domcontentloaded")
    columns = [
        *(f"tags.`{tag}`" for tag in ("vqlab.trial", "optuna.state")),
        *(f"metrics.`{key}`" for key in ("objective", *TEST_METRICS)),
        "params.`detector.codebook_size`",
        "params.`detector.commitment`",
        "params.`chosen.threshold.pixel_false_positive_rate`",
        "duration",
    ]
    cells = {}
    for column in columns:
        cell = page.locator(f'[role=gridcell][col-id="{column}"]')
        cell.first.wait_for()
        cells[column] = [text.strip() for text in cell.all_inner_texts()]
    assert all(len(texts) == 2 for texts in cells.values()), cells
    assert not [column for column, texts in cells.items() if set(texts) & {"", "-"}], cells
    values = [float(text) for text in cells["metrics.`objective`"]]
    assert values == sorted(values, reverse=True)
    assert int(cells["tags.`vqlab.trial`"][0]) == result.best.number
    names = page.get_by_role("link", name="· vqvae").all_inner_texts()
    assert [name[:6] for name in names] == [f"{i}".zfill(3) + " K=" for i in order(cells)]
    assert in_model_training_mode(page)


def order(cells: dict[str, list[str]]) -> list[int]:
    return [int(text) for text in cells["tags.`vqlab.trial`"]]


def test_second_link_shows_charts_and_pictures(page: Any, result: SweepResult) -> None:
    page.goto(result.charts_link, wait_until="domcontentloaded")
    page.get_by_text("Test pictures", exact=True).wait_for()
    headings = page.get_by_role("button", expanded=True).all_inner_texts()
    assert [" ".join(heading.split()) for heading in headings if "(" in heading] == [
        "Objective (2) Add chart",
        "Test pictures (1) Add chart",
        "Codebook perplexity (1) Add chart",
        "Objective by setting (3) Add chart",
    ]
    for title in ("validation/pixel_auroc", "objective", "codebook/perplexity"):
        page.get_by_text(title, exact=True).first.wait_for()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .trace').length >= 8")
    page.get_by_text("part/hole", exact=True).wait_for()
    assert page.get_by_text("part/good", exact=True).count() == 1
    page.get_by_text("part/good", exact=True).scroll_into_view_if_needed()
    pictures_loaded(page, "[role=cell] img", 4)  # two keys of two runs
    assert in_model_training_mode(page)


def test_descriptions_show_the_best_trial_with_links_and_picture(
    page: Any, result: SweepResult, store: Tracker
) -> None:
    # the run of the study, and the experiment
    for address in (store.link(result.parent_id), result.link):
        address = result.link.partition("/#/")[0] + "/#/" + address.partition("/#/")[2]
        page.goto("about:blank")
        page.goto(address, wait_until="domcontentloaded")
        page.get_by_role("link", name="charts and test pictures").wait_for()
        assert f"{result.best.value:.4f}" in page.content()
        pictures_loaded(page, "img[src*=best]", 1)
    with page.context.expect_page() as opened:  # the UI opens links of a description in a new tab
        page.get_by_role("link", name="charts and test pictures").click()
    opened.value.get_by_text("Test pictures", exact=True).wait_for()
    assert in_model_training_mode(opened.value)


def test_links_to_the_best_run_and_its_experiment_views_open(
    page: Any, result: SweepResult, store: Tracker
) -> None:
    page.goto(result.best_link, wait_until="domcontentloaded")
    page.get_by_text("objective", exact=True).first.wait_for()
    assert in_model_training_mode(page)
    page.goto("about:blank")
    address = result.link.replace(f"{result.study.rpartition('-')[2]}-table", "tested-runs-charts")
    page.goto(address.replace("=TABLE", "=CHART"), wait_until="domcontentloaded")
    page.get_by_text("Test figures", exact=True).wait_for()
    page.get_by_text("test/image_auroc", exact=True).first.wait_for()
