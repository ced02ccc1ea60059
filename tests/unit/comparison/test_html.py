"""The page as text; what a browser makes of it is tested in ``tests/integration/test_report_browser.py``."""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest
from comparison_samples import ATTACK, contender, sample

from ftcluster.comparison.html import page, write_report


@pytest.fixture(scope="module")
def text() -> str:
    return page(sample())


def own(text: str) -> str:
    """The page without plotly's code."""
    return re.sub(r'<script nonce=\S+ type="text/plain" id="plotly">.*?</script>', "", text)


def test_nothing_is_loaded_from_anywhere(text: str) -> None:
    assert not re.search(r"<(script|img|iframe|link)[^>]+(src|href)=[\"']?(https?:)?//", own(text))
    assert "default-src 'none'" in text


def test_what_users_wrote_is_text_and_never_markup(text: str) -> None:
    assert ATTACK not in text
    assert "&lt;script&gt;window.hacked" in text


def test_only_scripts_with_the_nonce_may_run(text: str) -> None:
    (nonce,) = re.findall(r"script-src 'nonce-(\w+)'", text)
    scripts = re.findall(r"<script[^>]*>", own(text))
    assert scripts
    assert all(f'nonce="{nonce}"' in script for script in scripts)
    assert not re.search(r"<[^>]+ on\w+=", own(text).split("</header>")[0])


def test_plotly_is_there_once(text: str) -> None:
    (packed,) = re.findall(r'<script[^>]*id="plotly">(.*?)</script>', text)
    assert gzip.decompress(b64decode(packed)).startswith(b"/**\n* plotly.js v")


def test_data_cannot_end_its_script_element() -> None:
    odd = replace(contender(0, score=0.5), name="</script><b>")
    found = page(replace(sample(), contenders=(odd, contender(1, score=0.4))))
    (data,) = re.findall(r'<script[^>]*id="figures">(.*?)</script>', found, re.DOTALL)
    assert "curve eval/loss" in json.loads(data)


def test_chinese_stands_in_the_page_as_it_is(text: str) -> None:
    assert '<html lang="en">' in text
    assert '<meta charset="utf-8">' in text
    assert "查一下Paris第 1 天" not in text  # that prompt was replaced by the attack
    assert "查一下Oslo第 5 天的天气" in text


def test_sentences_trials_facts_and_verdicts_are_in_it(text: str) -> None:
    for part in (
        "demo-004 ranks first of 8 runs",
        "rank 6 of 8 at rung 1",
        "not distinguishable",
        "0123456789abcdef",
        "optim.batch_size",
    ):
        assert part in text


def test_the_same_comparison_gives_the_same_page(text: str) -> None:
    assert page(sample()) == text


def test_a_page_without_answers_or_results_leaves_their_parts_out() -> None:
    bare = replace(sample(answers=False), contenders=(contender(0), contender(1)), base=None)
    found = own(page(bare))
    assert 'id="answers"' not in found
    assert 'id="parameters"' not in found
    assert "nothing to rank" in found


def test_the_folder_of_the_report_is_made(tmp_path: Path) -> None:
    assert write_report(sample(), tmp_path / "a" / "b.html").stat().st_size > 1_000_000
