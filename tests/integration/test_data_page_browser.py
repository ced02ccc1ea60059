"""The data report's page in a real browser: it shows what the data holds as text, and reaches out to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_samples import looked_at, pair, report_of
from browsing import opened, running_browser

from ftcluster.data.audit import judge
from ftcluster.data.audit.page import Page, write_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ATTACK = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>\ufffd"


def test_the_page_opens_without_a_complaint_a_request_or_a_script(tmp_path: Path) -> None:
    report = report_of(looked_at(pair("What?", ATTACK), pair("[INST] Who?", "I am {{name}}.", 2)))
    judgements = judge(report, {}, {"markers": 0.0})
    file = write_page(tmp_path / "data.html", report, judgements, Page(ATTACK, {}, {}, {"steps": ATTACK}))
    with running_browser() as browser, opened(browser, file.as_uri()) as shown:
        title, heading = shown.title(), shown.inner_text("h1")
        shown.get_by_text("where (1)").first.click()
    assert "taken" not in title.split("–")[1]
    assert heading.startswith("<img src=x")
