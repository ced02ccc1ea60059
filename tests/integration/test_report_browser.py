"""The comparison's page in a real browser: it works, and nothing in it reaches out or runs that should not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import opened, running_browser
from comparison_samples import ATTACK, sample
from playwright.sync_api import Browser, Page

from ftcluster.comparison.html import write_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(sample(), tmp_path_factory.mktemp("report") / "comparison.html").as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address) as report:
        yield report


def column(page: Page, name: str) -> list[str]:
    """The texts of a column of the trials table, from the top."""
    return page.evaluate(
        """(name) => {
            const table = document.getElementById("runs");
            const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
            return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent.trim());
        }""",
        name,
    )


def test_clicking_a_heading_sorts_by_number_and_again_reverses(page: Page) -> None:
    heading = page.locator("#runs thead th", has_text="lr")
    heading.click()
    rates = [float(text) for text in column(page, "lr")]
    assert rates == sorted(rates)
    heading.click()
    assert [float(text) for text in column(page, "lr")] == rates[::-1]
    assert heading.get_attribute("aria-sort") == "descending"


def test_what_is_unknown_stays_last_in_either_order(page: Page) -> None:
    heading = page.locator("#runs thead th", has_text="eval/loss")
    for _ in range(2):
        heading.click()
        assert column(page, "eval/loss")[-1] == "–"


def test_headings_can_be_used_from_the_keyboard(page: Page) -> None:
    page.locator("#runs thead th", has_text="step").focus()
    page.keyboard.press("Enter")
    assert column(page, "step")[0] == "37"


def test_each_tab_shows_its_part_alone_and_draws_its_figures(page: Page) -> None:
    for part in ("curves", "parameters", "answers", "facts", "trials"):
        page.click(f"#tab-{part}")
        shown = page.locator("section[role=tabpanel]:visible")
        assert [panel.get_attribute("id") for panel in shown.all()] == [part]
        for plot in page.locator(f"#{part} .plot").all():
            box = plot.locator(".main-svg").first.bounding_box()
            assert box is not None
            assert box["width"] > 200


def test_arrow_keys_move_between_tabs(page: Page) -> None:
    page.focus("#tab-trials")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#tab-facts", "aria-selected") == "true"


def test_a_figure_has_a_line_per_run_and_says_what_it_shows(page: Page) -> None:
    page.click("#tab-curves")
    plot = page.locator(".plot[data-figure='curve eval/loss']")
    assert plot.locator(".scatterlayer .trace").count() == 7
    assert "demo-004" in (plot.locator(".legend").text_content() or "")


def test_markup_in_prompts_and_answers_is_shown_and_not_run(page: Page) -> None:
    page.click("#tab-answers")
    assert page.locator(".prompt", has_text=ATTACK).count() == 1
    assert page.locator("pre", has_text=ATTACK).count() >= 1
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


def test_views_show_the_prompts_they_count(page: Page) -> None:
    page.click("#tab-answers")
    assert page.locator(".question:visible").count() == 60
    page.click("[data-view=wrong]")
    told = int(page.locator("[data-view=wrong] b").text_content() or "")
    assert page.locator(".question:visible").count() == told < 60


def test_chinese_is_shown_and_its_mistakes_are_marked_by_the_character(page: Page) -> None:
    page.click("#tab-answers")
    wrong = page.locator(".answer.wrong mark", has_text="每")
    assert wrong.first.text_content() == "每"


def test_the_theme_can_be_switched_and_figures_follow(page: Page) -> None:
    def colours() -> list[str]:
        script = "[getComputedStyle(document.body).backgroundColor, document.querySelector('.xtick text').style.fill]"
        return page.evaluate(script)

    light = colours()
    page.click("#theme")
    assert all(before != after for before, after in zip(light, colours(), strict=True))


def test_the_system_theme_is_followed(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


def test_a_narrow_screen_needs_no_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    for part in ("trials", "curves", "parameters", "answers", "facts"):
        page.click(f"#tab-{part}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, part


def test_paper_gets_every_part_and_the_screen_is_as_before(page: Page) -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("section[role=tabpanel]:visible").count() == 5
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("section[role=tabpanel]:visible").count() == 1


def test_without_scripts_everything_can_be_read(browser: Browser, address: str) -> None:
    plain = browser.new_page(java_script_enabled=False)
    plain.goto(address)
    assert plain.locator("section[role=tabpanel]:visible").count() == 5
    assert plain.locator("nav:visible").count() == 0
    plain.close()


def test_the_page_prints_to_pdf(page: Page, tmp_path: Path) -> None:
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
