"""Sortable tables of self-contained pages, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vqlab.html_page import SORT, Cell, page, table


def test_click_or_key_sorts_a_table(browser: Any, tmp_path: Path) -> None:
    rows = [
        ["b", Cell("10 %", 0.1)],
        ["<i>c</i>", Cell("–", None)],
        ["a", Cell("9 %", 0.09)],
        ["d", Cell("–9 %", -0.09)],
    ]
    table_html = table(["name", "value"], rows, "sortable", foot=[["mean", "3 %"]])
    file = tmp_path / "page.html"
    file.write_text(page("t", table_html, script=SORT), encoding="utf-8")
    tab = browser.new_page()
    problems: list[str] = []
    tab.on("console", lambda message: problems.append(message.text))
    tab.goto(file.as_uri())

    def names() -> list[str]:
        texts: list[str] = tab.locator("tbody tr td:first-child").all_inner_texts()
        return texts

    tab.click("th >> text=value")
    assert names() == ["d", "a", "b", "c"], "numeric order with empty cells last"
    tab.click("th >> text=value")
    assert names() == ["b", "a", "d", "c"]
    assert tab.get_attribute("th >> text=value", "aria-sort") == "descending"
    tab.focus("th >> text=name")
    tab.keyboard.press("Enter")
    assert names() == ["a", "b", "c", "d"]
    assert tab.locator("th[aria-sort]").count() == 1
    assert tab.locator("tfoot").inner_text().split() == ["mean", "3", "%"]
    assert problems == []
    tab.close()


def test_other_scripts_do_not_run(browser: Any, tmp_path: Path) -> None:
    for script in ("", SORT):
        file = tmp_path / "page.html"
        body = '<p id="p">before</p><script>p.textContent="run"</script>'
        file.write_text(page("t", body, script=script), encoding="utf-8")
        tab = browser.new_page()
        tab.goto(file.as_uri())
        assert tab.inner_text("#p") == "before"
        tab.close()
