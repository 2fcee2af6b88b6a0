"""Accessibility of the page: axe-core finds no violations, and everything works with the
keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inspection import DESKTOP, HOSTILE, PHONE, drop, opened, wait_until_judged

from vqlab.serve.history import FOLDER, History

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("options", [DESKTOP, PHONE])
def test_axe_finds_no_violations(
    browser: Any, part_server: str, good_file: Path, defect_file: Path, options: dict[str, Any]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    violations = {}

    def check(view: str) -> None:
        results = axe.run(page)
        assert results.response["passes"]
        if results.violations_count:
            violations[view] = results.generate_report()

    with opened(browser, part_server, **options) as page:
        page.wait_for_selector(".meaning")
        check("start")
        drop(page, {HOSTILE: good_file, "half.png": defect_file})
        check("contact sheet")
        page.locator(".card").first.click()
        page.wait_for_selector("#detail .numbers")
        page.keyboard.press("u")
        page.wait_for_selector(".verdict-unsure[aria-pressed=true]")
        check("detail")
        page.locator("#other").select_option("2")
        page.wait_for_selector(".views-2 .numbers >> nth=1")
        wait_until_judged(page, 2)
        check("two versions")
        page.locator("#tab-history").click()
        page.wait_for_selector("#history >> text=half.png")
        check("history")
        page.locator("#tab-inspect").click()
        page.get_by_role("button", name="Use the camera").click()
        page.wait_for_selector("#camera-problem:not([hidden])")
        check("camera")
        page.get_by_role("button", name="Close").click()
        page.evaluate("document.getElementById('access').showModal()")
        check("token")
    assert violations == {}


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until the element has the focus, which must be visible."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement?.matches(selector)", selector):
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none", selector
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def test_keyboard_operation(
    browser: Any, part_server: str, mlruns: Path, good_file: Path, defect_file: Path
) -> None:
    with opened(browser, part_server) as page:
        page.wait_for_selector(".meaning")
        tab_to(page, ".skip")
        with page.expect_file_chooser() as chooser:
            tab_to(page, "#choose-images")
            page.keyboard.press("Enter")
        chooser.value.set_files([good_file, defect_file])
        wait_until_judged(page, 2)

        tab_to(page, ".threshold-field")
        page.keyboard.press("Control+A")
        page.keyboard.type("1e9")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card >> nth=0 >> text=pass")
        tab_to(page, ".operating button")  # Reset
        page.keyboard.press("Enter")
        page.wait_for_selector(".card >> nth=0 >> text=reject")
        tab_to(page, "input.threshold")
        page.keyboard.press("Home")
        page.wait_for_selector(".card >> nth=1 >> text=reject")

        tab_to(page, "#sort")
        page.keyboard.press("ArrowDown")  # lowest score first
        page.wait_for_selector(".card >> nth=1 >> text=half.png")
        tab_to(page, "#sheet")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#detail-title >> text=000.png")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#detail-title >> text=half.png")
        page.wait_for_selector("#detail .numbers")
        tab_to(page, ".verdict-defect")
        page.keyboard.press("Enter")
        page.wait_for_selector(".verdict-defect[aria-pressed=true]")
        tab_to(page, "#opacity")
        page.keyboard.press("End")
        assert page.locator(".map").evaluate("map => map.style.opacity") == "1"
        tab_to(page, "#with-regions")
        page.keyboard.press("Space")
        assert page.locator(".outlines").evaluate("node => node.style.visibility") == "hidden"

        tab_to(page, "#tab-inspect")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#tab-history:focus")
        page.wait_for_selector("#history >> text=half.png")
        tab_to(page, "#history [name=name]")
        page.keyboard.type("half")
        page.keyboard.press("Enter")
        page.wait_for_selector("#history >> text=1 of 1 image")
    feedback = History(mlruns / FOLDER).feedback("part")
    assert [(each.name, each.verdict) for each in feedback] == [("half.png", "defect")]
