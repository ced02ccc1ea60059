"""The demo's data: distinct, reproducible, in both languages, and a task the base model has never seen."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ftcluster.demo.text import DemoData, pretraining_texts, read_texts, tool_rows, write_demo_data
from ftcluster.demo.tools import KINDS, LANGUAGES, TOOLS, ask
from ftcluster.errors import StoreError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return write_demo_data(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def texts(data: DemoData) -> list[str]:
    return [json.loads(line)["text"] for line in data.pretrain.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def talks(data: DemoData) -> list[tuple[str, dict[str, Any]]]:
    rows = [json.loads(line)["messages"] for line in data.tools.read_text(encoding="utf-8").splitlines()]
    assert all([message["role"] for message in row] == ["user", "assistant"] for row in rows)
    return [(row[0]["content"], json.loads(row[1]["content"])) for row in rows]


def _chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_ones(data: DemoData, tmp_path: Path) -> None:
    again, other = write_demo_data(tmp_path / "again"), write_demo_data(tmp_path / "other", seed=18)
    assert data.pretrain.read_bytes() == again.pretrain.read_bytes() != other.pretrain.read_bytes()
    assert data.tools.read_bytes() == again.tools.read_bytes() != other.tools.read_bytes()


def test_no_two_rows_are_the_same(texts: list[str], talks: list[tuple[str, dict[str, Any]]]) -> None:
    assert len(set(texts)) == len(texts) >= 5000
    assert len({request for request, _ in talks}) == len(talks) >= 2000


def test_every_tool_is_asked_for_equally_often_in_both_languages(talks: list[tuple[str, dict[str, Any]]]) -> None:
    shares = Counter((call["tool"], _chinese(request)) for request, call in talks)
    assert len(shares) == 10
    assert set(shares.values()) == {len(talks) // 10}


def test_every_call_has_the_arguments_of_its_tool_in_order(talks: list[tuple[str, dict[str, Any]]]) -> None:
    arguments = {tool.name: list(tool.arguments) for tool in TOOLS}
    assert all(list(call["arguments"]) == arguments[call["tool"]] for _, call in talks)


def test_copied_arguments_stand_in_the_request(talks: list[tuple[str, dict[str, Any]]]) -> None:
    copied = {"city", "restaurant", "text", "label", "minutes", "amount"}
    for request, call in talks:
        for name in copied & set(call["arguments"]):
            assert str(call["arguments"][name]).lower() in request.lower()


def test_money_is_never_converted_into_itself(talks: list[tuple[str, dict[str, Any]]]) -> None:
    calls = [call["arguments"] for _, call in talks if call["tool"] == "convert_currency"]
    assert all(arguments["from"] != arguments["to"] for arguments in calls)


def test_chinese_days_and_number_words_come_out_in_one_form() -> None:
    random = Random(3)
    days = {KINDS["day"](random, "zh") for _ in range(200)}
    assert ("周四", "Thursday") in {(day.said, day.meant) for day in days}
    assert ("两", 2) in {(count.said, count.meant) for count in (KINDS["count"](random, "zh") for _ in range(200))}


def test_every_phrasing_can_be_filled() -> None:
    for tool in TOOLS:
        for language in LANGUAGES:
            requests = {ask(tool, language, Random(seed))[0] for seed in range(300)}
            assert not any("{" in request for request in requests)
            assert all(_chinese(request) == (language == "zh") for request in requests)


def test_the_base_model_reads_both_languages_but_no_request_and_no_call(
    texts: list[str], talks: list[tuple[str, dict[str, Any]]]
) -> None:
    assert 0.2 < sum(map(_chinese, texts)) / len(texts) < 0.9
    everything = "\n".join(texts)
    assert '"tool":' not in everything
    assert '"arguments":' not in everything
    assert not any(request in everything for request, _ in talks)


def test_the_base_model_has_read_nearly_every_word_of_the_requests(
    texts: list[str], talks: list[tuple[str, dict[str, Any]]]
) -> None:
    read = set(re.findall(r"\w+", " ".join(texts).lower()))
    requests = " ".join(request for request, _ in talks if not _chinese(request))
    words = Counter(re.findall(r"\w+", requests.lower()))
    unread = sum(count for word, count in words.items() if word not in read)
    assert unread / words.total() < 0.02


def test_a_tokenizer_can_be_trained_on_all_text_of_both_files(
    data: DemoData, texts: list[str], talks: list[tuple[str, dict[str, Any]]]
) -> None:
    everything = list(read_texts(data))
    assert everything[: len(texts)] == texts
    assert everything[len(texts) :: 2] == [request for request, _ in talks]


def test_fewer_rows_are_a_prefix_of_more_text_and_still_distinct_requests() -> None:
    assert pretraining_texts(50, seed=1) == pretraining_texts(80, seed=1)[:50]
    rows = tool_rows(30, seed=1)
    assert len({row[0]["content"] for row in rows}) == 30


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StoreError, match=r"demo's data cannot be written.*\n.*free space") as caught:
        write_demo_data(blocked / "demo")
    assert caught.value.where == str(blocked / "demo")
