"""Parquet files give the rows that were put in, and damaged ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from ftcluster.data.files.blocks import blocks, read_rows
from ftcluster.data.files.source import BadRow, Row
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.formats import to_example
from ftcluster.errors import DataError


def _write(tmp_path: Path, rows: list[dict[str, Any]], name: str = "rows.parquet", **options: Any) -> Path:
    file = tmp_path / name
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file


def test_rows_have_their_numbers_over_batches_and_row_groups(tmp_path: Path) -> None:
    file = _write(tmp_path, [{"text": f"row {number}"} for number in range(1, 5001)], row_group_size=700)
    assert [(row.line, row.values["text"]) for row in read_rows(file) if isinstance(row, Row)] == [
        (number, f"row {number}") for number in range(1, 5001)
    ]
    assert [round(block.share, 1) for block in blocks(file)] == [0.4, 0.8, 1.0]


def test_large_rows_come_in_small_blocks(tmp_path: Path) -> None:
    file = _write(tmp_path, [{"text": f"{number}" * 500_000} for number in range(10, 60)])
    assert max(len(block.rows) for block in blocks(file)) <= 5


def test_turns_are_lists_of_dicts_without_the_fields_that_only_other_rows_have(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": null}'}}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "b", "name": "f"},
        {"role": "assistant", "content": "c"},
    ]
    (row,) = read_rows(_write(tmp_path, [{"messages": turns}]))
    assert isinstance(row, Row)
    assert row.values["messages"][0] == {"role": "user", "content": "a"}
    assert row.values["messages"][1] == {"role": "assistant", "tool_calls": [call]}
    example = to_example(row, "messages", {})
    assert isinstance(example, Example)
    assert [message.role for message in example.messages] == ["user", "assistant", "tool", "assistant"]
    assert example.messages[1].tool_calls[0].arguments == {"x": None}


def test_files_of_one_folder_may_differ_in_their_columns_and_a_column_that_is_no_text_is_named(tmp_path: Path) -> None:
    first = _write(tmp_path, [{"question": "a", "answer": "b"}], "1.parquet")
    second = _write(tmp_path, [{"id": 1, "answer": 3, "question": "c"}], "2.parquet")
    rows = [row for file in (first, second) for row in read_rows(file)]
    one, other = (to_example(row, "question_answer", {}) for row in rows if isinstance(row, Row))
    assert isinstance(one, Example)
    assert isinstance(other, BadRow)
    assert str(other) == f"{second}:1: answer is not text (it is int)"


def test_text_that_is_no_utf_8_is_named_and_reading_goes_on(tmp_path: Path) -> None:
    broken = pyarrow.array([b"a", b"\xff\xfe", b"c"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "rows.parquet")
    rows = list(read_rows(tmp_path / "rows.parquet"))
    assert [row.values["text"] if isinstance(row, Row) else str(row) for row in rows] == [
        "a",
        f"{tmp_path}/rows.parquet:2: not UTF-8 text",
        "c",
    ]


def test_a_nul_character_is_named(tmp_path: Path) -> None:
    (row,) = read_rows(_write(tmp_path, [{"text": "a\x00"}]))
    assert isinstance(row, BadRow)
    assert row.reason == "has a NUL character"


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="has no rows"):
        list(read_rows(tmp_path / "rows.parquet"))


def test_a_truncated_or_damaged_file_is_refused(tmp_path: Path) -> None:
    file = _write(tmp_path, [{"text": f"row {number}" * 9} for number in range(5000)], compression="gzip")
    whole = file.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"{}", whole[:1000] + bytes(5000) + whole[6000:]):
        file.write_bytes(content)
        with pytest.raises(DataError, match="is damaged or no Parquet file") as caught:
            list(read_rows(file))
        assert caught.value.remedy == "copy or download it again"


def test_a_small_file_that_repeats_a_large_text_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path,
) -> None:
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 5_000, pyarrow.int32()), ["word " * 100_000])
    file = tmp_path / "bomb.parquet"
    parquet.write_table(pyarrow.table({"text": text}), file)
    before = pyarrow.default_memory_pool().max_memory()
    with pytest.raises(DataError, match="expands to more than 200 times its size") as caught:
        list(read_rows(file))
    assert caught.value.remedy == "look at what it holds; if it is all right, save its rows as .jsonl"
    assert pyarrow.default_memory_pool().max_memory() - before < 400 * 2**20
