"""Runs in the MLflow UI, with a server and a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from commands import call
from mlflow_server import pictures_loaded
from tiny_set import tiny_recipe

from vqlab.run import Recording, resolve, run
from vqlab.tracking import Tracker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served_store(
    mlflow_ui: str, root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory
) -> Tracker:
    """Two tested runs in a store that `vqlab ui` serves."""
    for name, codes in (("small", 8), ("large", 16)):
        tree = tiny_recipe(root)
        tree["detector"]["codebook_size"] = codes
        run(resolve(tree), store, Recording(name=name, results=tmp_path_factory.mktemp("results")))
    return store


def test_run_page_describes_the_run(page: Any, served_store: Tracker) -> None:
    record = served_store.find("small")
    page.goto(served_store.link(record.run_id), wait_until="domcontentloaded")
    page.get_by_text("Detector of visual defects in part").wait_for()
    text = page.locator("body").inner_text()
    assert "trained on 11 normal images" in text or "normal images of the dataset" in text
    assert "An image is rejected if its score exceeds" in text
    for title in ("image AUROC", "no-learning baseline"):
        page.get_by_role("table").get_by_text(title).first.wait_for()
    assert f"{record.metrics['test/image_auroc']:.3f}" in text
    pictures_loaded(page, "img[src*='get-artifact']", 1)


def test_leaderboard_link_opens_charts_and_pictures(page: Any, served_store: Tracker) -> None:
    printed = call("leaderboard", "-c", "part", "--mlruns", str(served_store.root))
    (link,) = re.findall(r"http://\S+", printed)
    page.goto(link, wait_until="domcontentloaded")
    page.get_by_text("Test figures", exact=True).wait_for()
    page.get_by_text("test/image_auroc", exact=True).first.wait_for()
    page.get_by_text("part/hole", exact=True).scroll_into_view_if_needed()
    pictures_loaded(page, "[role=cell] img", 4)  # two keys of two runs


def test_comparison_links_show_the_runs(
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
    pictures_loaded(page, "[role=cell] img", 4)
    page.goto("about:blank")
    coordinates = addresses["parallel coordinates (choose a metric there)"]
    page.goto(coordinates, wait_until="domcontentloaded")
    page.get_by_text("Comparing 2 Runs").first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    run_id = served_store.find("small").run_id
    (address,) = {
        each for each in addresses.values() if each and each.split("?")[0].endswith(run_id)
    }
    page.goto("about:blank")
    page.goto(address, wait_until="domcontentloaded")
    page.get_by_text("Detector of visual defects in part").wait_for()
