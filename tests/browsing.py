"""A real browser for tests of pages, and a page in it that reports what it complains about and asks for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from screenshots import QUIET


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium; a test skips where there is none."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield running
        running.close()


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """An open page. Whatever a test does with it: no complaint of the browser, no request but the file's own."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [address]
