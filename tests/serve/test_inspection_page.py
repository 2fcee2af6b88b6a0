"""The inspection page in a real browser, with a real server and a really trained model."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers import running

from vqlab.serve import ServeSettings
from vqlab.serve.history import FOLDER, History

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=alert(1)>.png"
DROP = """
([node, files]) => {
  const transfer = new DataTransfer();
  for (const [name, data] of files) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type: "image/png" }));
  }
  document.querySelector(node).dispatchEvent(
    new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}
"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_images_are_dropped_judged_and_stored(
    browser: Any, mlruns: Path, good_file: Path, defect_file: Path, width: int, scheme: str
) -> None:
    files = [
        (name, base64.b64encode(path.read_bytes()).decode())
        for name, path in ((HOSTILE, good_file), ("half.png", defect_file))
    ]
    with running(ServeSettings(mlruns=mlruns, categories=("part",), device="cpu")) as address:
        page = browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=width < 500
        )
        problems: list[str] = []
        hosts: set[str] = set()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(address)
        page.wait_for_selector(".meaning")
        page.evaluate(DROP, ["#drop", files])
        page.wait_for_selector(".card >> nth=1 >> text=/pass|reject/")
        cards = page.locator(".card").all_inner_texts()
        assert "half.png" in cards[0] and "reject" in cards[0]  # the highest score first
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
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
    assert problems == [] and hosts - {""} == {urlsplit(address).netloc}  # "": blob:
    feedback = History(mlruns / FOLDER).feedback("part")
    assert [(each.name, each.verdict) for each in feedback] == [("half.png", "defect")]
