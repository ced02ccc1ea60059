"""The data report's page in a real browser: it shows what the data holds as text, and reaches out to nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from audit_samples import looked_at, pair, report_of
from playwright.sync_api import sync_playwright
from screenshots import QUIET

from ftcluster.data.audit import judge
from ftcluster.data.audit.page import Page, write_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ATTACK = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>\ufffd"


def test_the_page_opens_without_a_complaint_a_request_or_a_script(tmp_path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    report = report_of(looked_at(pair("What?", ATTACK), pair("[INST] Who?", "I am {{name}}.", 2)))
    judgements = judge(report, {}, {"markers": 0.0})
    file = write_page(tmp_path / "data.html", report, judgements, Page(ATTACK, {}, {}, {"steps": ATTACK}))
    complaints: list[str] = []
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        title, shown = page.title(), page.inner_text("h1")
        page.get_by_text("where (1)").first.click()
        browser.close()
    assert "taken" not in title.split("–")[1]
    assert shown.startswith("<img src=x")
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
