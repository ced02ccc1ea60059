"""Rows come with the line they start on; what cannot be read is named and does not hide what can."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ftcluster.data.source import LARGEST_ROW, BadRow, Row, read_rows
from ftcluster.errors import DataError


def _write(tmp_path: Path, content: bytes | str, name: str = "rows.jsonl") -> Path:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def _seen(file: Path) -> list[tuple[int, object]]:
    return [
        (row.line, row.values["a"] if isinstance(row, Row) else str(row).split(": ", 1)[1]) for row in read_rows(file)
    ]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "ROWS.JSONL"])
def test_json_lines_keep_their_line_numbers_over_blank_lines_crlf_and_a_byte_order_mark(
    tmp_path: Path, name: str
) -> None:
    file = _write(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "\xe4\xbd\xa0"}\r\n{"a": 3}', name)
    assert _seen(file) == [(1, 1), (4, "你"), (5, 3)]


def test_an_array_keeps_the_line_on_which_each_element_starts(tmp_path: Path) -> None:
    file = _write(
        tmp_path, b'\xef\xbb\xbf[\r\n  {\r\n    "a": 1\r\n  },\r\n\r\n  {"a": 2}, {"a": 3}\r\n]\r\n', "r.json"
    )
    assert _seen(file) == [(2, 1), (6, 2), (6, 3)]


def test_a_json_file_that_holds_json_lines_is_read_as_such(tmp_path: Path) -> None:
    assert _seen(_write(tmp_path, '\n{"a": 1}\n{"a": 2}\n', "rows.json")) == [(2, 1), (3, 2)]


def test_a_line_separator_inside_a_string_does_not_end_the_row(tmp_path: Path) -> None:
    assert _seen(_write(tmp_path, '{"a": "x\u2028y\x85z"}\n{"a": 2}\n')) == [(1, "x\u2028y\x85z"), (2, 2)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "not JSON (Expecting ',' delimiter at column 8)"),
        (b"[1]", "not an object but a list"),
        (b"null", "not an object but null"),
        (b'"x"', "not an object but a string"),
        (b"true", "not an object but true or false"),
        (b"1.5", "not an object but a number"),
        (b'{"a": ["x\\u0000"]}', "has a NUL character"),
        (b'{"a": {"b": "\\ud83d"}}', "has half of a surrogate pair, which is no character"),
        (b'{"\\udc00": 1}', "has half of a surrogate pair, which is no character"),
        (b'{"a": "\xc4\xe3"}', "not UTF-8 text"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON (a huge number or endless nesting)"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "not JSON (a huge number or endless nesting)"),
    ],
)
def test_an_unusable_line_is_named_and_reading_goes_on(tmp_path: Path, line: bytes, reason: str) -> None:
    file = _write(tmp_path, b'{"a": 0}\n' + line + b'\n{"a": "\\ud83d\\ude00 \\u4f60"}\n')
    assert _seen(file) == [(1, 0), (2, reason), (3, "😀 你")]


def test_a_bad_row_prints_as_file_line_reason_and_detail() -> None:
    assert str(BadRow("a.jsonl", 7, "not an object but null")) == "a.jsonl:7: not an object but null"
    assert str(BadRow("a.jsonl", 7, "not JSON", "column 3")) == "a.jsonl:7: not JSON (column 3)"


def test_a_row_over_the_size_limit_is_skipped_without_losing_the_next(tmp_path: Path) -> None:
    just_fits = b'{"a": "' + b"x" * (LARGEST_ROW - 9) + b'"}'
    assert len(just_fits) == LARGEST_ROW
    file = _write(tmp_path, just_fits + b"\r\n" + b" " + just_fits + b"\n" + b"x" * 2 * LARGEST_ROW + b'\n{"a": 4}')
    kinds = [(row.line, isinstance(row, Row)) for row in read_rows(file)]
    assert kinds == [(1, True), (2, False), (3, False), (4, True)]
    assert [row.reason for row in read_rows(file) if isinstance(row, BadRow)] == ["larger than 10 MB"] * 2


def test_an_array_element_over_the_size_limit_is_skipped(tmp_path: Path) -> None:
    file = _write(tmp_path, b'[{"a": "' + b"x" * LARGEST_ROW + b'"},\n{"a": 2}]', "rows.json")
    assert _seen(file) == [(1, "larger than 10 MB"), (2, 2)]


def test_a_truncated_array_gives_its_whole_rows_and_then_says_that_it_is_cut_off(tmp_path: Path) -> None:
    whole = '[\n  {"a": 1},\n  {"a": 2},\n  {"a": "x"}\n]'
    behind_a_row = whole[: whole.index('{"a": 2}') + len('{"a": 2}')]
    inside_a_row = whole[: whole.index('"x"') + 2]
    assert _seen(_write(tmp_path, behind_a_row, "r.json")) == [
        (2, 1),
        (3, 2),
        (3, "the list is cut off here: its closing bracket is missing"),
    ]
    assert _seen(_write(tmp_path, inside_a_row, "r.json")) == [
        (2, 1),
        (3, 2),
        (4, "not JSON; the rest of the file was not read (Unterminated string starting at on line 4)"),
    ]
    assert _seen(_write(tmp_path, "[", "r.json")) == [(1, "the list is cut off here: its closing bracket is missing")]


def test_after_a_broken_element_reading_goes_on_at_the_next_one_indented_alike(tmp_path: Path) -> None:
    text = '[\n  {\n    "a": 1,\n    "b": [\n      {}\n    ] oops\n  },\n  {\n    "a": 2\n  },\n  7\n]'
    assert _seen(_write(tmp_path, text, "r.json")) == [
        (2, "not JSON (Expecting ',' delimiter on line 6)"),
        (8, 2),
        (11, "not an object but a number"),
    ]


def test_a_broken_element_on_a_shared_line_ends_the_reading_and_says_so(tmp_path: Path) -> None:
    seen = _seen(_write(tmp_path, '[{"a": 1}, {"a" 2}, {"a": 3}]', "r.json"))
    assert seen == [(1, 1), (1, "not JSON; the rest of the file was not read (Expecting ':' delimiter on line 1)")]


def test_text_behind_the_list_is_reported(tmp_path: Path) -> None:
    seen = _seen(_write(tmp_path, '[{"a": 1}]\n[{"a": 2}]', "r.json"))
    assert seen == [(1, 1), (1, "the list ends here; the rest of the file was not read")]


def test_unreadable_strings_in_an_array_are_found_too(tmp_path: Path) -> None:
    assert _seen(_write(tmp_path, '[{"a": "\\u0000"}, {"a": 2}]', "r.json")) == [(1, "has a NUL character"), (1, 2)]


def test_a_missing_file_names_near_names_in_its_folder(tmp_path: Path) -> None:
    _write(tmp_path, "{}", "gsm8k_train.jsonl")
    _write(tmp_path, "{}", "notes.txt")
    with pytest.raises(DataError, match=r"gsm8k_trian.jsonl: no such data file") as caught:
        read_rows(tmp_path / "gsm8k_trian.jsonl")
    assert caught.value.remedy == "in that folder: gsm8k_train.jsonl"


def test_a_missing_file_in_a_folder_without_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file") as caught:
        read_rows(tmp_path / "a.json")
    assert caught.value.remedy == f"{tmp_path} has no .json, .jsonl, .ndjson file"
    with pytest.raises(DataError, match="no such data file") as caught:
        read_rows(tmp_path / "nowhere" / "a.json")
    assert f"the folder {tmp_path / 'nowhere'} does not exist either" in caught.value.remedy


def test_an_unknown_kind_of_file_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'unknown kind of data file ".xlsx"') as caught:
        read_rows(_write(tmp_path, "x", "rows.xlsx"))
    assert caught.value.remedy == "known kinds: .json, .jsonl, .ndjson"


def test_a_folder_is_not_a_data_file(tmp_path: Path) -> None:
    (tmp_path / "rows.json").mkdir()
    with pytest.raises(DataError, match="is a folder, not a data file"):
        read_rows(tmp_path / "rows.json")


@pytest.mark.parametrize("content", ["", " \n\n", "\ufeff"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str, name: str) -> None:
    with pytest.raises(DataError, match="has no rows"):
        list(read_rows(_write(tmp_path, content, name)))


def test_an_empty_list_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        list(read_rows(_write(tmp_path, "[ ]", "rows.json")))


def test_an_object_around_the_list_is_refused_with_the_shape_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a list of objects nor one object per line") as caught:
        list(read_rows(_write(tmp_path, '{\n "data": [{"a": 1}]\n}', "rows.json")))
    assert "[{...}, {...}]" in caught.value.remedy


def test_utf_16_is_named_instead_of_called_broken_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is UTF-16 text"):
        read_rows(_write(tmp_path, '{"a": 1}'.encode("utf-16")))


def test_an_array_in_another_encoding_is_refused_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.json:2: is not UTF-8 text"):
        list(read_rows(_write(tmp_path, '[{"a": 1},\n{"a": "你"}]'.encode("gbk"), "rows.json")))


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("rows.jsonl")
        with pytest.raises(DataError, match=r"rows.jsonl: cannot be read: No such device or address") as caught:
            read_rows("rows.jsonl")
    assert caught.value.remedy == "check its permissions"


@pytest.mark.parametrize(
    ("name", "rows"),
    [("gsm8k_train.jsonl", 7473), ("alpaca_en_demo.json", 999), ("identity.json", 91), ("c4_demo.jsonl", 300)],
)
def test_every_row_of_the_public_files_is_read_with_the_line_it_is_on(real_data: Path, name: str, rows: int) -> None:
    lines = (real_data / name).read_text(encoding="utf-8").split("\n")
    found = list(read_rows(real_data / name))
    assert len(found) == rows
    assert all(isinstance(row, Row) and lines[row.line - 1].lstrip().startswith("{") for row in found)
