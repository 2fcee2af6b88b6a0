"""Image sources: dropped or selected folders, and the camera."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from inspection import HOSTILE, opened, wait_until_judged

from vqlab.serve.history import FOLDER, History

pytestmark = pytest.mark.slow
NAMES = [
    "parts/a.png",
    "parts/inner/\u202egnp.b.png",
    f"parts/inner/deep & 'quoted'/{HOSTILE}",
]
ESCAPED_NAMES = [name.replace("\u202e", r"\u202e") for name in NAMES]
SKIPPED = "2 files were skipped: no image file extension."


@pytest.fixture
def folder(tmp_path: Path, good_file: Path) -> Path:
    """A folder with three images in nested folders, an empty folder, and two other files."""
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(good_file, path)
    (tmp_path / "parts" / "empty").mkdir()
    (tmp_path / "parts" / "inner" / "notes.txt").write_text("no image")
    (tmp_path / "parts" / ".hidden.png").write_bytes(good_file.read_bytes())
    return tmp_path / "parts"


def drop_paths(page: Any, *paths: Path) -> None:
    """Drop files and folders of the file system, as a file manager does."""
    page.wait_for_selector(".meaning")
    box = page.locator("#drop").bounding_box()
    place = {"x": box["x"] + 9, "y": box["y"] + 9}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def names(page: Any) -> list[str]:
    return sorted(page.locator(".card .name").all_inner_texts())


def test_folder_is_dropped(browser: Any, part_server: str, folder: Path, mlruns: Path) -> None:
    with opened(browser, part_server) as page:
        drop_paths(page, folder)
        wait_until_judged(page, len(NAMES))
        assert names(page) == sorted(ESCAPED_NAMES)
        assert page.locator("#problem").inner_text() == SKIPPED
        assert page.locator("#sheet img").count() == len(NAMES)  # the thumbnails, no other markup
        drop_paths(page, folder / "empty")
        page.wait_for_selector("#problem >> text=The folder has no files.")
        assert page.locator(".card").count() == len(NAMES)
    recorded = [row["name"] for row in History(mlruns / FOLDER).rows()]
    assert sorted(recorded) == sorted(ESCAPED_NAMES)


def test_folder_is_selected(browser: Any, part_server: str, folder: Path) -> None:
    with opened(browser, part_server) as page:
        page.wait_for_selector(".meaning")
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose a folder").click()
        chooser.value.set_files(folder)
        wait_until_judged(page, len(NAMES))
        assert names(page) == sorted(ESCAPED_NAMES)
        assert page.locator("#problem").inner_text() == SKIPPED


def test_file_that_is_not_an_image_is_unreadable(
    browser: Any, part_server: str, tmp_path: Path, good_file: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "a.png").write_bytes(good_file.read_bytes())
    with opened(browser, part_server) as page:
        drop_paths(page, tmp_path / "text.png", tmp_path / "a.png")
        wait_until_judged(page, 2)
        page.locator(".card", has_text="text.png").click()
        page.wait_for_selector("#detail >> text=the image must be a PNG")
        assert page.locator(".card .badge.unreadable").count() == 1


@contextmanager
def chromium(browser: Any, answer: str) -> Iterator[Any]:
    """Start Chromium with a camera that shows a test pattern.

    answer: the user's response to the permission request; empty or `deny`.
    """
    started = browser.browser_type.launch(
        executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
        args=[
            "--no-sandbox",
            "--disable-gpu",
            "--use-fake-device-for-media-stream",
            f"--use-fake-ui-for-media-stream{answer and '='}{answer}",
        ],
    )
    try:
        yield started
    finally:
        started.close()


def test_photograph_is_judged(browser: Any, part_server: str, mlruns: Path) -> None:
    with chromium(browser, "") as camera, opened(camera, part_server) as page:
        page.wait_for_selector(".meaning")
        page.get_by_role("button", name="Use the camera").click()
        page.wait_for_selector("#shoot:focus")
        for count in ("1 photograph taken.", "2 photographs taken."):
            page.keyboard.press("Enter")
            page.wait_for_selector(f"#camera-status >> text={count}")
        page.keyboard.press("Escape")
        wait_until_judged(page, 2)
        # the camera is off
        assert page.evaluate("document.getElementById('video').srcObject") is None
        assert all(name.startswith("camera 20") for name in names(page))
        page.locator(".card").first.click()
        page.wait_for_selector("#detail .numbers")
    [first, second] = History(mlruns / FOLDER).rows()
    assert first["name"] != second["name"] and first["score"] is not None


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (True, "The camera is not allowed for this page; allow it in the browser's site settings"),
        (False, "This device has no camera; choose images instead."),
    ],
)
def test_unavailable_camera_shows_an_error(
    browser: Any, part_server: str, camera: bool, message: str
) -> None:
    with ExitStack() as stack:
        chosen = stack.enter_context(chromium(browser, "deny")) if camera else browser
        page = stack.enter_context(opened(chosen, part_server))
        page.wait_for_selector(".meaning")
        page.get_by_role("button", name="Use the camera").click()
        page.wait_for_selector("#camera-problem:not([hidden])")
        assert page.locator("#camera-problem").inner_text().startswith(message)
        assert page.locator("#shoot").is_disabled()
        page.get_by_role("button", name="Close").click()
        assert not page.locator("#camera").is_visible()


def test_file_input_captures_the_photograph_without_camera_access(
    browser: Any, part_server: str, good_file: Path
) -> None:
    """Browsers disable cameras on pages loaded over HTTP from another machine."""
    with opened(browser, part_server) as page:
        page.wait_for_selector(".meaning")
        page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Use the camera").click()
        assert chooser.value.element.get_attribute("capture") == "environment"
        chooser.value.set_files(good_file)
        wait_until_judged(page, 1)
