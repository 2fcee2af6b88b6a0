"""The inspection page in a browser, with a server and a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inspection import DESKTOP, HOSTILE, PHONE, drop, opened
from PIL import Image

from vqlab.serve.history import FOLDER, History

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("options", [DESKTOP, PHONE])
def test_dropped_images_are_judged_and_stored(
    browser: Any,
    part_server: str,
    mlruns: Path,
    good_file: Path,
    defect_file: Path,
    options: dict[str, Any],
) -> None:
    with opened(browser, part_server, **options) as page:
        drop(page, {HOSTILE: good_file, "half.png": defect_file})
        cards = page.locator(".card").all_inner_texts()
        assert "half.png" in cards[0] and "reject" in cards[0]  # sorted by descending score
        assert HOSTILE in cards[1]

        slider, meaning = page.locator("input[type=range]").first, page.locator(".meaning")
        before = meaning.inner_text()
        slider.focus()
        page.keyboard.press("End")
        page.wait_for_selector(".card >> nth=0 >> text=pass")
        page.keyboard.press("Home")
        page.wait_for_selector(".card >> nth=1 >> text=reject")
        assert "about 100 would be rejected" in meaning.inner_text() != before
        page.get_by_role("button", name="Reset").click()
        assert meaning.inner_text() == before

        page.locator(".card").first.click()
        page.wait_for_selector("#detail .numbers")
        page.keyboard.press("d")
        page.wait_for_selector(".verdict-defect[aria-pressed=true]")
        page.wait_for_selector("#detail >> text=a test image (defect)")
        page.locator("#tab-history").click()
        page.wait_for_selector("#history >> text=half.png")
        width = options["viewport"]["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    feedback = History(mlruns / FOLDER).feedback("part")
    assert [(each.name, each.verdict) for each in feedback] == [("half.png", "defect")]


@pytest.mark.parametrize("options", [DESKTOP, PHONE])
def test_note_on_the_shape_is_shown(
    browser: Any, part_server: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    Image.new("RGB", (96, 32)).save(tmp_path / "wide.png")
    with opened(browser, part_server, **options) as page:
        drop(page, {"wide.png": tmp_path / "wide.png"})
        page.locator(".card").first.click()
        page.wait_for_selector("#detail .note")
        note = page.locator("#detail .note").first.inner_text()
        assert note.startswith(
            "Note: it is 96x32 pixels, an aspect ratio of 3, but training images"
        )
        width = options["viewport"]["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
