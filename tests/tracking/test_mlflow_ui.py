"""What a stranger sees of runs in the MLflow UI: a real server and a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import free_port, serving
from tiny_set import tiny_recipe
from typer.testing import CliRunner

from vqlab.cli import load_commands
from vqlab.run import resolve, run
from vqlab.tracking import Tracker, ui_command

pytestmark = pytest.mark.slow
PATIENCE = 60_000
"""Milliseconds."""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a profile that has never seen MLflow."""
    context = browser.new_context(viewport={"width": 2200, "height": 2000})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def served_store(
    browser: Any, root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tracker]:
    """Two tested runs, in a store that the server of `vqlab ui` shows."""
    for name, codes in (("small", 8), ("large", 16)):
        tree = tiny_recipe(root)
        tree["detector"]["codebook_size"] = codes
        run(resolve(tree), store, name=name, results=tmp_path_factory.mktemp("results"))
    port = free_port()
    arguments, environment = ui_command(store.root, port=port)
    with (
        serving(arguments, environment, port, store.root / "log") as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("VQLAB_UI", address)
        yield store


def call(*words: str) -> str:
    result = CliRunner().invoke(load_commands(), list(words))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def visible_pictures(page: Any, selector: str, count: int) -> None:
    page.wait_for_function(
        "([selector, count]) => [...document.querySelectorAll(selector)]"
        ".filter(each => each.complete && each.naturalWidth > 100).length >= count",
        arg=[selector, count],
    )


def test_the_page_of_a_run_describes_it(page: Any, served_store: Tracker) -> None:
    record = served_store.find("small")
    page.goto(served_store.link(record.run_id), wait_until="domcontentloaded")
    page.get_by_text("Detector of visual defects in part").wait_for()
    text = page.locator("body").inner_text()
    assert "trained on 11 normal images" in text or "normal images of the dataset" in text
    assert "An image is rejected if its score exceeds" in text
    for title in ("image AUROC", "no-learning baseline"):
        page.get_by_role("table").get_by_text(title).first.wait_for()
    assert f"{record.metrics['test/image_auroc']:.3f}" in text
    visible_pictures(page, "img[src*='get-artifact']", 1)


def test_the_link_of_the_leaderboard_opens_charts_and_pictures(
    page: Any, served_store: Tracker
) -> None:
    printed = call("leaderboard", "-c", "part", "--mlruns", str(served_store.root))
    (link,) = re.findall(r"http://\S+", printed)
    page.goto(link, wait_until="domcontentloaded")
    page.get_by_text("Test figures", exact=True).wait_for()
    page.get_by_text("test/image_auroc", exact=True).first.wait_for()
    page.get_by_text("part/hole", exact=True).scroll_into_view_if_needed()
    visible_pictures(page, "[role=cell] img", 4)  # of two runs under two keys


def test_the_links_of_a_comparison_show_its_runs(
    page: Any, served_store: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("compare", "small", "large", "--mlruns", str(served_store.root), "-o", "compare.html")
    page.goto((tmp_path / "compare.html").as_uri())
    addresses = {
        each.inner_text(): each.get_attribute("href")
        for each in page.locator("a[href^=http]").all()
    }
    page.goto(addresses["charts and pictures of these runs"], wait_until="domcontentloaded")
    page.get_by_text("Test metrics", exact=True).wait_for()
    page.get_by_text("part/hole", exact=True).scroll_into_view_if_needed()
    visible_pictures(page, "[role=cell] img", 4)
    page.goto("about:blank")
    page.goto(addresses["parallel coordinates"], wait_until="domcontentloaded")
    page.get_by_text("Comparing 2 Runs").first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    run_id = served_store.find("small").run_id
    (address,) = {
        each for each in addresses.values() if each and each.split("?")[0].endswith(run_id)
    }
    page.goto("about:blank")
    page.goto(address, wait_until="domcontentloaded")
    page.get_by_text("Detector of visual defects in part").wait_for()
