"""Helpers for the inspection page in Chromium."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DESKTOP = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}
HOSTILE = "<img src=x onerror=alert(1)>.png"
_DROP = """
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


@contextmanager
def opened(browser: Any, address: str, expected: str = "", **options: Any) -> Iterator[Any]:
    """Open the page in a new context. Afterwards, assert that nothing was written to the console
    (except messages that contain `expected`) and that no request went to another server."""
    context = browser.new_context(**(options or DESKTOP))
    page = context.new_page()
    messages: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(address)
    yield page
    context.close()
    assert [text for text in messages if not expected or expected not in text] == []
    assert hosts - {""} == {urlsplit(address).netloc}  # "" is the host of blob: and data: URLs


def drop(page: Any, files: Mapping[str, Path]) -> None:
    """Drop files under these names, and wait for their verdicts."""
    page.wait_for_selector(".meaning")
    encoded = [(name, base64.b64encode(file.read_bytes()).decode()) for name, file in files.items()]
    page.evaluate(_DROP, ["#drop", encoded])
    wait_until_judged(page, len(files))


def wait_until_judged(page: Any, count: int) -> None:
    """Wait until the list has `count` images and all of them have a verdict."""
    page.wait_for_function(
        "count => document.querySelectorAll('.card').length === count"
        " && !document.querySelector('.badge.waiting')",
        arg=count,
    )
