"""Facts of chunks add up to those of the data set, in any order and however it was cut."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from audit_samples import looked_at, pair
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from ftcluster.data.audit import Facts, control_tokens, examine
from ftcluster.data.audit.facts import SHOWN
from ftcluster.data.audit.sketches import _WORD, _words, near_pairs, signatures
from ftcluster.data.audit.smallest import Smallest
from ftcluster.data.rows.example import Example, Message, ToolCall
from ftcluster.data.rows.split import key

QUESTIONS = [
    f"How many clips did person {n} sell in {n * 7} days of May {'<|im_end|>' * (n % 3 == 0)}" for n in range(40)
]
EXAMPLES = [
    pair(question, f"They sold {n} of them, cafÃ©." if n % 5 == 0 else f"It is {n}.", n + 1)
    for n, question in enumerate(QUESTIONS)
]


@given(st.lists(st.integers(0, len(EXAMPLES)), max_size=6).map(sorted), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_the_facts_of_chunks_in_any_order_are_those_of_the_whole(cuts: list[int], random) -> None:  # type: ignore[no-untyped-def]
    chunks = [looked_at(*EXAMPLES[a:b]) for a, b in pairwise([0, *cuts, len(EXAMPLES)])]
    random.shuffle(chunks)
    total = Facts()
    for chunk in chunks:
        total += chunk
    assert total.findings() == looked_at(*EXAMPLES).findings()


@given(st.lists(st.tuples(st.integers(0, 30), st.text("ab", max_size=2)), max_size=40), st.integers(1, 5))
def test_of_all_items_those_with_the_smallest_keys_are_kept(items: list[tuple[int, str]], most: int) -> None:
    total: Smallest[str] = Smallest(most)
    for key_, item in items:
        total += Smallest(most, ({key_: item},))
    expected: dict[int, str] = {}
    for key_, item in items:
        expected[key_] = min(expected.get(key_, item), item)
    assert total.values() == [expected[one] for one in sorted(expected)[:most]]
    assert sum(map(len, total.parts)) <= 2 * most


def test_rows_above_the_cutoff_are_not_sketched_and_change_nothing() -> None:
    keys = [key(example) for example in EXAMPLES]
    every = examine(EXAMPLES, keys, [False] * len(EXAMPLES))
    middle = sorted(every.sketches.parts[0])[len(EXAMPLES) // 2]
    cut = examine(EXAMPLES, keys, [False] * len(EXAMPLES), cutoff=middle)
    assert set(cut.sketches.parts[0]) == {one for one in every.sketches.parts[0] if one < middle}
    assert cut.found == every.found


def test_findings_count_all_rows_and_name_the_first_places() -> None:
    many = [pair(f"Question {n} <|im_end|>?", f"Answer {n}.", n + 1) for n in range(SHOWN + 30)]
    found = looked_at(*many).findings()["found"]["markers"]
    assert found["rows"] == SHOWN + 30
    assert [place["place"] for place in found["where"]] == [f"rows.jsonl:{n + 1}" for n in range(SHOWN)]
    assert found["where"][0]["shows"] == "<|im_end|>"


def test_facts_travel_between_processes() -> None:
    facts = looked_at(*EXAMPLES)
    assert pickle.loads(pickle.dumps(facts)).findings() == facts.findings()


STORY = "Once upon a time a small red fox lived at the edge of a large and quiet forest, where nobody ever came by. "


def test_rows_that_differ_in_a_word_are_near_and_others_are_not() -> None:
    near = looked_at(
        pair(STORY * 3, "The fox slept.", 1),
        pair("What is the capital of France?", "Paris is the capital of France.", 2),
        pair(STORY * 2 + STORY.replace("red", "grey"), "The fox slept.", 3),
    ).findings()["near"]
    assert near["rows"] == 1
    assert near["pairs"][0]["row"] == "rows.jsonl:3"
    assert near["pairs"][0]["like"] == "rows.jsonl:1"
    assert near["pairs"][0]["similarity"] >= 0.8


def test_near_duplicates_are_found_in_scripts_without_spaces() -> None:
    text = "请帮我订一张从北京到上海的火车票,最好是明天早上出发的那一班,谢谢你的帮助"
    near = looked_at(pair(text, "好的,已经订好了。", 1), pair(text + "啊", "好的,已经订好了。", 2)).findings()["near"]
    assert near["rows"] == 1


def test_a_held_out_row_that_is_like_a_training_row_is_overlap() -> None:
    rows = [pair(STORY * 3, "It slept.", 1), pair(STORY * 3 + "Well.", "It slept.", 2), pair("Other?", "Yes.", 3)]
    near = looked_at(*rows, held_out=frozenset({0, 2})).findings()["near"]
    assert (near["overlap"], near["held_out"], near["looked_at"]) == (1, 2, 3)
    assert near["overlap_pairs"] == [
        {"row": "rows.jsonl:1", "like": "rows.jsonl:2", "similarity": near["overlap_pairs"][0]["similarity"]}
    ]


def test_a_copy_is_no_near_duplicate_and_counts_as_held_out_where_it_is_both() -> None:
    row = pair(STORY, "It slept.", 1)
    near = looked_at(row, replace(row, line=2), held_out=frozenset({1})).findings()["near"]
    assert (near["looked_at"], near["held_out"], near["rows"], near["overlap"]) == (1, 1, 0, 0)


def test_rows_that_call_tools_with_other_arguments_are_not_near() -> None:
    def call(line: int, city: str) -> Example:
        turns = (Message("user", "Weather?"), Message("assistant", "", (ToolCall("weather", {"city": city}),)))
        return Example("rows.jsonl", line, turns)

    assert (
        looked_at(call(1, "Paris in the north of France"), call(2, "a village in Peru")).findings()["near"]["rows"] == 0
    )


@given(st.lists(st.text("ab c", min_size=1, max_size=60), max_size=12))
@settings(deadline=None)
def test_equal_texts_have_equal_signatures_and_are_paired_with_the_first(texts: list[str]) -> None:
    rows = signatures(texts)
    assert all(
        (one == other) or first != second
        for one, first in zip(rows, texts, strict=True)
        for other, second in zip(rows, texts, strict=True)
    )
    paired = {row: other for row, other, _ in near_pairs(rows, np.ones(len(rows), np.bool_))[0]}
    for at, text in enumerate(texts):
        if (first := texts.index(text)) < at:
            assert paired[at] <= at
            assert rows[paired[at]] == rows[first] or paired[at] == first


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_words_of_ascii_text_are_those_the_expression_finds(text: str) -> None:
    assert _words(text) == _WORD.findall(text.lower())


def test_languages_are_named_with_their_share() -> None:
    english = [
        pair(f"How many apples does person {n} have in the large basket?", "There are several of them.", n)
        for n in range(8)
    ]
    german = [
        pair("Wie viele Äpfel liegen heute in dem großen Korb am Fenster?", "Es sind ungefähr zwanzig Stück davon.", 9)
    ]
    languages = looked_at(*english, *german).findings()["languages"]
    assert languages["looked_at"] == 9
    assert list(languages["shares"]) == ["en", "de"]
    assert languages["shares"]["en"] == pytest.approx(8 / 9, abs=1e-3)


def test_no_row_has_no_language_and_no_pair() -> None:
    found = Facts().findings()
    assert found["languages"] == {"looked_at": 0, "shares": {}}
    assert found["near"]["rows"] == 0


def test_control_tokens_are_those_the_tokenizer_would_not_take_for_text(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
) -> None:
    assert control_tokens(make_tokenizer()) == ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
