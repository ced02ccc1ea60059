"""Rows are shown as preparation makes them, one by one and without anything being written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from ftcluster.data.prepared.prepare import prepare
from ftcluster.data.prepared.preview import Shown, Stretch, Wanted, preview
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.data.rows.split import SPLITS, Split
from ftcluster.errors import UsageError

Write = Callable[..., str]
ROWS = [{"question": f"Q{number}", "answer": f"A{number}"} for number in range(40)]
OPENING = "<|im_start|>user\nQ{}<|im_end|>\n<|im_start|>assistant\n"


def _settings(file: str, **options: object) -> DataSettings:
    return DataSettings(train=(file,), validation_fraction=0.2, test_fraction=0.2, **options)  # type: ignore[arg-type]


def _texts(row: Shown) -> list[tuple[str, bool]]:
    return [(stretch.text, stretch.trained) for document in row.documents for stretch in document]


def test_a_row_is_its_place_its_counts_and_its_text(write_rows: Write, chatml: PreTrainedTokenizerFast) -> None:
    file = write_rows(ROWS[:1])
    settings = DataSettings(train=(file,), validation_fraction=0, test_fraction=0)
    (row,) = preview(settings, chatml, Wanted())
    assert (row.file, row.line, row.split, row.number, row.format) == (file, 1, "train", 1, "question_answer")
    assert row.documents == (
        (
            Stretch("<|im_start|>", False, True),
            Stretch("user\nQ0", False),
            Stretch("<|im_end|>", False, True),
            Stretch("\n", False),
            Stretch("<|im_start|>", False, True),
            Stretch("assistant\n", False),
            Stretch("A0", True),
            Stretch("<|im_end|>", True, True),
        ),
    )
    assert (row.dropped, row.cuts, row.trained_tokens) == ("", (), 3)
    assert row.tokens == len(chatml.encode(OPENING.format(0) + "A0<|im_end|>"))


@pytest.mark.parametrize("split", SPLITS)
def test_the_rows_shown_of_a_side_are_those_prepared_for_it(
    write_rows: Write, chatml: PreTrainedTokenizerFast, tmp_path: Path, split: Split
) -> None:
    settings = _settings(write_rows(ROWS))
    documents = getattr(prepare(settings, chatml, "chatml", tmp_path / "store"), split)
    shown = list(preview(settings, chatml, Wanted(split, count=1000)))
    assert len(shown) == len(documents) > 3
    for index, row in enumerate(shown):
        tokens, trained = documents.get(index)
        assert "".join(text for text, _ in _texts(row)) == chatml.decode(tokens)
        assert (row.tokens, row.trained_tokens, row.number) == (len(tokens), int(np.count_nonzero(trained)), index + 1)


def test_only_as_many_rows_are_read_as_are_shown(
    write_rows: Write, chatml: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    first = write_rows(ROWS)
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(b"\xff\xfe")
    settings = DataSettings(train=(first, str(broken)))
    assert len(list(preview(settings, chatml, Wanted(count=2)))) == 2


def test_rows_that_are_left_out_say_why(write_rows: Write, chatml: PreTrainedTokenizerFast) -> None:
    rows = [{"question": "Q", "answer": ""}, {"question": "Q", "answer": "A" * 600}, *ROWS[:3]]
    settings = DataSettings(train=(write_rows(rows),), validation_fraction=0, test_fraction=0)
    empty, long, used = preview(settings, chatml, Wanted())
    assert (empty.split, empty.line, empty.dropped, empty.documents) == ("", 1, "answer is empty", ())
    assert long.dropped == "longer than 512 tokens (data.max_length)"
    assert long.tokens > 512
    assert (used.line, used.dropped) == (3, "")


def test_a_long_row_is_shown_as_it_is_cut(write_rows: Write, chatml: PreTrainedTokenizerFast) -> None:
    file = write_rows([{"question": "Q", "answer": "xyz" * 30}])
    settings = DataSettings(train=(file,), validation_fraction=0, test_fraction=0, max_length=40, too_long="split")
    (row,) = preview(settings, chatml, Wanted())
    assert len(row.documents) == 3
    assert "split into windows of 40 tokens" in row.cuts[0]


def test_one_row_is_found_by_its_file_and_line_on_whatever_side(
    write_rows: Write, chatml: PreTrainedTokenizerFast
) -> None:
    file = write_rows(ROWS)
    for place in (f"{file}:17", "rows.jsonl:17", "./rows.jsonl:17"):
        (row,) = preview(_settings(file), chatml, Wanted.row(place, "train"))
        assert (row.line, _texts(row)[-2]) == (17, ("A16", True))


def test_one_row_is_found_by_its_number_on_its_side(write_rows: Write, chatml: PreTrainedTokenizerFast) -> None:
    settings = _settings(write_rows(ROWS))
    every = list(preview(settings, chatml, Wanted("test", count=1000)))
    assert list(preview(settings, chatml, Wanted.row("2", "test"))) == [every[1]]


@pytest.mark.parametrize("text", ["x", "rows.jsonl", "rows.jsonl:", "rows.jsonl:x", ":3", "0", "-1", ""])
def test_what_is_no_row_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no row") as caught:
        Wanted.row(text, "train")
    assert caught.value.remedy == "write FILE:LINE, or a number from 1 on"


@pytest.mark.parametrize(
    ("wanted", "where"),
    [(Wanted.row("rows.jsonl:99", "train"), "rows.jsonl:99"), (Wanted.row("999", "test"), "row 999 of test")],
)
def test_a_row_that_is_not_there_is_an_error(
    write_rows: Write, chatml: PreTrainedTokenizerFast, wanted: Wanted, where: str
) -> None:
    with pytest.raises(UsageError, match="there is no such row") as caught:
        list(preview(_settings(write_rows(ROWS)), chatml, wanted))
    assert caught.value.where == where


def test_tools_written_as_text_are_told(write_rows: Write, chatml: PreTrainedTokenizerFast) -> None:
    call = {"function": {"name": "weather", "arguments": json.dumps({"city": "Lyon"})}}
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    settings = DataSettings(train=(write_rows([{"messages": messages}]),), validation_fraction=0, test_fraction=0)
    (row,) = preview(settings, chatml, Wanted())
    assert row.cuts == ("tools and calls written as text, as the chat template knows none",)
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Lyon"}}\n</tool_call>' in _texts(row)[-2][0]


def test_spaces_inside_tokens_are_shown_where_they_are(write_rows: Write, metaspace: PreTrainedTokenizerFast) -> None:
    file = write_rows([{"question": "How many clips", "answer": "The answer"}])
    settings = DataSettings(train=(file,), validation_fraction=0, test_fraction=0)
    (row,) = preview(settings, metaspace, Wanted())
    assert "".join(text for text, trained in _texts(row) if trained).strip() == "The answer</s>"
