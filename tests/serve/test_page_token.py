"""The inspection page of a server with a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inspection import DESKTOP, drop, opened
from pydantic import SecretStr
from servers import running

from vqlab.serve import ServeSettings

pytestmark = pytest.mark.slow
TOKEN = "0123456789abcdef"
REFUSED = "401"
"""In the message that Chromium writes about a request with status 401."""


@pytest.fixture
def address(mlruns: Path) -> Iterator[str]:
    settings = ServeSettings(
        mlruns=mlruns, categories=("part",), device="cpu", token=SecretStr(TOKEN)
    )
    with running(settings) as started:
        yield started


def enter(page: Any, token: str) -> None:
    page.wait_for_selector("#access[open]")
    page.keyboard.type(token)
    page.keyboard.press("Enter")


def test_page_asks_until_the_token_is_correct(browser: Any, address: str, good_file: Path) -> None:
    with opened(browser, address, REFUSED, **DESKTOP) as page:
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.wait_for_selector("#access[open]")
        assert not page.locator("#token-problem").is_visible()
        for wrong in ("wrong-token", "päßword"):
            enter(page, wrong)
            page.wait_for_selector("#token-problem:not([hidden])")
            assert page.locator("#token").input_value() == ""
        enter(page, f" {TOKEN} ")
        drop(page, {"a.png": good_file})
        assert not page.locator("#access").is_visible()
        assert TOKEN not in page.content() and page.locator("#token").input_value() == ""
        page.reload()  # the tab keeps the token
        page.wait_for_selector(".meaning")
        assert page.evaluate("history.length") == 2  # about:blank and the page
        assert all(TOKEN not in url for url in (page.url, *urls))
        assert page.evaluate("localStorage.length") == 0 and page.context.cookies() == []
        other = page.context.new_page()  # another tab does not have it
        other.goto(address)
        other.wait_for_selector("#access[open]")


def test_cancelled_dialog_shows_a_message(browser: Any, address: str) -> None:
    with opened(browser, address, REFUSED, **DESKTOP) as page:
        page.wait_for_selector("#access[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("#problem >> text=this server requires its token; reload the page")
