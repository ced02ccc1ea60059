"""Findings become warnings and refusals by thresholds, and a page and a few lines say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from audit_samples import looked_at, pair, report_of

from ftcluster.config.schema import DataConfig
from ftcluster.config.thresholds import NEVER, REFUSE, WARN, threshold_problems
from ftcluster.data.audit import judge, refuse_bad_data, summary_lines
from ftcluster.data.audit.findings import FINDINGS, count, percent
from ftcluster.data.audit.page import Page, render, write_page
from ftcluster.data.prepared.report import Bin, Dropped, Report
from ftcluster.errors import DataError

CLEAN = [
    pair(f"How many clips were sold in month {n} of that year?", f"There were {n + 10} clips.", n + 1) for n in range(9)
]
MARKED = pair("[INST] How many? [/INST]", "There were nine.", 10)


@pytest.fixture
def report() -> Report:
    """Ten rows, one with a marker, and two that were left out."""
    lengths = (Bin(512, 10), Bin(1024, 1))
    dropped = (
        Dropped("answer is empty", 1, ("rows.jsonl:11",)),
        Dropped("longer than 512 tokens (data.max_length)", 1, ("rows.jsonl:12",)),
    )
    return replace(report_of(looked_at(*CLEAN, MARKED), dropped=dropped, bad=1), lengths=lengths)


def test_every_finding_has_thresholds_a_meaning_and_a_remedy() -> None:
    assert set(FINDINGS) == set(WARN) == set(REFUSE)
    assert all(known.meaning and known.remedy for known in FINDINGS.values())
    assert all(WARN[name] <= REFUSE[name] for name in FINDINGS)


def test_rows_are_counted_out_of_those_that_were_looked_at(report: Report) -> None:
    counted = count(report)
    assert (counted["markers"].rows, counted["markers"].of, counted["markers"].where) == (1, 10, ("rows.jsonl:10",))
    assert (counted["too_long"].rows, counted["too_long"].of) == (1, 12)
    assert (counted["empty_answers"].rows, counted["empty_answers"].where) == (1, ("rows.jsonl:11",))
    assert counted["encoding"].rows == 0
    assert set(counted) == set(FINDINGS)


def test_a_long_row_counts_once_whatever_was_done_to_it(report: Report) -> None:
    cut = (
        Dropped("split into windows of 512 tokens (data.too_long=split)", 12, ("rows.jsonl:1", "rows.jsonl:2")),
        Dropped("windows without a trained token left out (data.too_long=split)", 9, ("rows.jsonl:2",)),
    )
    long = replace(report, dropped=(), cut=cut, lengths=(Bin(512, 0), Bin(2048, 12)))
    counted = count(long)["too_long"]
    assert (counted.share, counted.where) == (1.0, ("rows.jsonl:1", "rows.jsonl:2"))
    assert not [one.finding for one in judge(long, {}, {}) if one.refused]


def test_rows_whose_answers_were_all_cut_off_have_no_token_with_a_loss(report: Report) -> None:
    lost = (Dropped("no trained token within 512 tokens (data.max_length)", 7, ("rows.jsonl:3",)),)
    counted = count(replace(report, dropped=lost))["untrained"]
    assert (counted.rows, counted.where) == (7, ("rows.jsonl:3",))


def test_a_share_above_a_threshold_warns_and_above_the_higher_one_refuses(report: Report) -> None:
    assert [(one.finding, one.refused) for one in judge(report, {}, {})] == [
        ("markers", False),
        ("unusable", False),
        ("too_long", False),
        ("empty_answers", False),
    ]
    assert [one.finding for one in judge(report, {}, {"markers": 0.09}) if one.refused] == ["markers"]
    assert [one.finding for one in judge(report, {}, {"markers": 0.1}) if one.refused] == []
    assert "markers" not in [one.finding for one in judge(report, {"markers": NEVER}, {})]


def test_a_refusal_is_an_error_with_places_remedy_and_the_way_around_it(report: Report) -> None:
    with pytest.raises(DataError) as caught:
        refuse_bad_data(judge(report, {}, {"markers": 0.0}))
    text = str(caught.value)
    assert "the data is refused" in text
    assert "markers: 1 of 10 rows (10.0 %) hold marks of a chat template" in text
    assert "rows.jsonl:10" in text
    assert "data.refuse={markers: 1}" in text
    refuse_bad_data(judge(report, {}, {}))


def test_the_summary_is_a_line_of_rows_and_one_for_each_judgement(report: Report) -> None:
    lines = summary_lines(report, judge(report, {}, {"markers": 0.0}))
    assert lines[0] == (
        "data: 12 rows read, 10 used (10 train), 2 left out: 1 answer is empty, "
        "1 longer than 512 tokens (data.max_length)"
    )
    assert lines[1].startswith("refused: 1 of 10 rows (10.0 %) hold marks of a chat template")
    assert lines[1].endswith("(markers); first rows.jsonl:10")
    assert all(line.startswith("warning: ") for line in lines[2:])


def test_unknown_findings_and_shares_that_are_none_are_config_problems() -> None:
    problems = list(threshold_problems("data.warn", {"encodin": 0.1, "markers": 1.5, "overlap": 0.2}))
    assert len(problems) == 2
    assert "data.warn.encodin: there is no such finding. Did you mean encoding?" in problems[0]
    assert "data.warn.markers=1.5 must be a share of the rows" in problems[1]


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, "0.0 %"), (0.0004, "under 0.1 %"), (0.0123, "1.2 %"), (1.0, "100.0 %")]
)
def test_a_share_is_said_in_percent_and_little_is_not_called_nothing(share: float, said: str) -> None:
    assert percent(share) == said


def test_the_page_is_complete_and_shows_texts_of_the_data_as_text(report: Report, tmp_path: Path) -> None:
    evil = pair("<script>alert(1)</script> [INST]", "There were nine of them.", 13)
    bad = report_of(looked_at(*CLEAN, evil, pair("What?", "<b>lost\ufffd</b><img src=x>", 14)))
    page = Page.of(DataConfig(refuse={"markers": 0.0}), bad, {"steps": "12"})
    text = render(bad, judge(bad, {}, {"markers": 0.0}), page)
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert "<img" not in text
    assert "//" not in text
    assert "&lt;b&gt;lost\ufffd&lt;/b&gt;" in text
    assert "Refused for 1 reason" in text
    assert "rows.jsonl:13: [INST]" in text
    file = write_page(tmp_path / "made" / "page.html", report, [], Page("rows", {}, {}, {}))
    assert "Nothing to warn of" in file.read_text()


def test_the_page_draws_lengths_up_to_and_over_the_limit(report: Report) -> None:
    long = Report(**{**report.__dict__, "max_length": 32, "lengths": (Bin(16, 4), Bin(32, 8), Bin(64, 2))})
    text = render(long, [], Page("rows", {}, {}, {}))
    assert text.index("1 – 16") < text.index("17 – 32") < text.index('class="limit"') < text.index("33 – 64")
    assert text.count('class="bar over"') == 1


def test_the_same_report_gives_the_same_page(report: Report) -> None:
    page = Page("rows", {}, {}, {})
    assert render(report, judge(report, {}, {}), page) == render(report, judge(report, {}, {}), page)
