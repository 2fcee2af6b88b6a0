"""Comparison of two versions, and the history: filtered, exported, opened."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from inspection import HOSTILE, drop, opened, wait_until_judged
from servers import post

from vqlab.serve.history import COLUMNS

pytestmark = pytest.mark.slow
FORMULA = '=HYPERLINK("http://127.0.0.1:9","x").png'


def test_comparison_of_two_versions(
    browser: Any, part_server: str, good_file: Path, defect_file: Path
) -> None:
    with opened(browser, part_server) as page:
        drop(page, {"a.png": good_file, "half.png": defect_file})
        assert page.locator("#other option:disabled").all_inner_texts() == ["1 (champion)"]
        page.locator("#other").select_option("2")
        page.wait_for_selector("#agreement >> text=/Versions 1 and 2 agree on \\d of 2 images/")
        wait_until_judged(page, 2)
        assert page.locator(".operating").count() == 2
        assert page.locator(".card >> nth=0 >> .badge").count() == 2
        page.locator(".card", has_text="half.png").click()
        page.wait_for_selector(".views-2 .numbers >> nth=1")
        views = page.locator(".view").all_inner_texts()
        for version, view in zip((1, 2), views, strict=True):
            answer = post(part_server, defect_file.read_bytes(), version=version).json()
            assert f"version {version}" in view
            assert f"{answer['images'][0]['score']:.4g}" in view
        assert page.locator(".view .map").count() == 2
        # The slider of one version does not affect the other one.
        page.locator("input.threshold").nth(1).focus()
        page.keyboard.press("End")
        page.wait_for_selector(".view >> nth=1 >> .badge.pass")
        assert page.locator(".view >> nth=0 >> .badge.reject").count() == 1
        page.locator("#shown").select_option("differ")
        page.wait_for_selector("#sheet >> text=half.png")
        page.locator("#version").select_option("2")  # no comparison of a version with itself
        page.wait_for_selector(".views-1")
        assert page.locator(".operating").count() == 1
        assert page.locator("#other").input_value() == ""


def test_exported_history_contains_the_judged_images(
    browser: Any, part_server: str, good_file: Path, defect_file: Path, tmp_path: Path
) -> None:
    with opened(browser, part_server) as page:
        drop(page, {FORMULA: good_file, HOSTILE: good_file, "half.png": defect_file})
        page.locator(".card", has_text="half.png").click()
        page.wait_for_selector("#detail .numbers")
        page.keyboard.press("d")
        page.wait_for_selector(".verdict-defect[aria-pressed=true]")
        page.locator("#tab-history").click()
        page.wait_for_selector("#history >> text=3 of 3 images")
        files = {}
        for kind in ("csv", "json"):
            with page.expect_download() as download:
                page.get_by_role("button", name=f"Export {kind.upper()}").click()
            assert download.value.suggested_filename == f"history.{kind}"
            files[kind] = tmp_path / f"history.{kind}"
            download.value.save_as(files[kind])
        page.locator("[name=person]").select_option("defect")
        page.wait_for_selector("#history >> text=1 of 1 image")
        with page.expect_download() as download:
            page.get_by_role("button", name="Export JSON").click()
        download.value.save_as(tmp_path / "filtered.json")
    rows = json.loads(files["json"].read_text(encoding="utf-8"))
    stored = requests.get(f"{part_server}/v1/history", timeout=10).json()["rows"]
    assert rows == stored and {row["person"] for row in rows} == {None, "defect"}
    [filtered] = json.loads((tmp_path / "filtered.json").read_text(encoding="utf-8"))
    assert filtered == next(row for row in rows if row["name"] == "half.png")
    with files["csv"].open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS and len(table) == 3
    for row, exported in zip(rows, table, strict=True):
        formula = row["name"].startswith("=")
        name = f"'{row['name']}" if formula else row["name"]
        expected = {**{k: "" if v is None else str(v) for k, v in row.items()}, "name": name}
        assert exported == expected
    assert any(row["name"].startswith("=") for row in rows)
