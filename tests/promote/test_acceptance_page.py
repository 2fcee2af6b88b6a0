"""The acceptance report in a browser: it fits a phone, is self-contained, and has no errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vqlab.promote import promote
from vqlab.promote.reproduce import score_images
from vqlab.run import Outcome
from vqlab.tracking import Tracker

pytestmark = pytest.mark.slow
A4 = 688
"""Width of a page of A4 between its margins in CSS pixels."""
SIZES = {"desktop": (1280, 900), "phone": (360, 740)}


@pytest.fixture
def report(
    browser: Any, tested: Outcome, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    file = promote(tracker, "part", ref="tested", output=tmp_path).report
    assert file is not None
    return file


def test_sizes_and_colours(browser: Any, report: Path) -> None:
    for size in SIZES.values():
        for scheme in ("light", "dark"):
            viewport = dict(zip(("width", "height"), size, strict=True))
            context = browser.new_context(viewport=viewport, color_scheme=scheme)
            page = context.new_page()
            problems: list[str] = []
            requests: list[str] = []
            page.on("console", lambda message, problems=problems: problems.append(message.text))
            page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            page.on("request", lambda request, urls=requests: urls.append(request.url))
            page.goto(report.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
            assert not problems
            loaded = [url for url in requests if not url.startswith("data:")]
            assert loaded == [report.as_uri()]
            context.close()


def test_page_with_injected_markup_sends_no_request(browser: Any, report: Path) -> None:
    """The content security policy holds even if a name is not escaped."""
    text = report.read_text().replace(
        "</body>", '<img src="http://127.0.0.1:9/x"><script>document.title="run"</script></body>'
    )
    report.write_text(text)
    page = browser.new_page()
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.failure))
    page.goto(report.as_uri())
    page.wait_for_timeout(300)
    assert page.title() != "run"
    assert all("csp" in str(reason) or "BLOCKED" in str(reason) for reason in failed)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_print_is_white_without_clipped_tables(browser: Any, report: Path, scheme: str) -> None:
    page = browser.new_page(viewport={"width": A4, "height": 1000}, color_scheme=scheme)
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= A4
    clipped = (
        "[...document.querySelectorAll('.wide, pre')].filter(n => n.scrollWidth > n.clientWidth)"
    )
    assert page.evaluate(f"{clipped}.map(n => n.outerHTML)") == []
    colours = (
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    assert page.evaluate(colours) == ["rgb(31, 41, 51)", "rgb(255, 255, 255)"]
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.gates thead')).display") != "none"
    )
    assert page.pdf().startswith(b"%PDF")
    page.close()
