"""JSON rows come with the line they start on; what cannot be read is named and does not hide what can."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import socket
from pathlib import Path

import openpyxl
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from ftcluster.config.locations import KINDS, kind_of
from ftcluster.data.files import jsonarray, jsonlines
from ftcluster.data.files.blocks import blocks, read_rows, rows
from ftcluster.data.files.places import resolve
from ftcluster.data.files.source import BLOCK_BYTES, LARGEST_ROW, BadRow, Row
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.formats import detect, to_example
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
        (b'{"a": "\xc4\xe3"}', "not UTF-8 but perhaps GB18030: iconv -f GB18030 -t UTF-8 converts the file"),
        (b'{"a": "\xe4\xbd\xa0\xe5\xa5"}', "not UTF-8 text (some of it is damaged)"),
        (b'{"a": "caf\xe9"}', "not UTF-8 but perhaps WINDOWS-1252: iconv -f WINDOWS-1252 -t UTF-8 converts the file"),
        (b'{"a": "x\x00"}', "has a NUL character"),
        (b"\x00\x00\x00", "has a NUL character"),
        (b'{"a": 1, "b": 2, "a": 3}', 'names "a" twice'),
        (b'{"a": [{"role": "user", "role": "system"}]}', 'names "role" twice'),
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


def _refused(file: Path) -> str:
    with pytest.raises(DataError) as told:
        list(read_rows(file))
    assert "one object per line, a broken row costs only itself" in told.value.remedy
    return f"{told.value.where.rpartition(':')[2]}: {told.value.message}"


def test_a_truncated_array_is_refused_with_the_line_it_breaks_off(tmp_path: Path) -> None:
    whole = '[\n  {"a": 1},\n  {"a": 2},\n  {"a": "x"}\n]'
    behind_a_row = whole[: whole.index('{"a": 2}') + len('{"a": 2}')]
    inside_a_row = whole[: whole.index('"x"') + 2]
    cut_off = "is cut off here: the closing bracket of its list is missing"
    assert _refused(_write(tmp_path, behind_a_row, "r.json")) == f"3: {cut_off}"
    assert _refused(_write(tmp_path, inside_a_row, "r.json")) == (
        "4: is cut off, or lacks a quote, in the row that starts here"
    )
    assert _refused(_write(tmp_path, "[", "r.json")) == f"1: {cut_off}"


def test_after_a_broken_element_reading_goes_on_at_the_next_one_indented_alike(tmp_path: Path) -> None:
    text = '[\n  {\n    "a": 1,\n    "b": [\n      {}\n    ] oops\n  },\n  {\n    "a": 2\n  },\n  7\n]'
    assert _seen(_write(tmp_path, text, "r.json")) == [
        (2, "not JSON (Expecting ',' delimiter on line 6)"),
        (8, 2),
        (11, "not an object but a number"),
    ]


def test_a_broken_element_on_a_shared_line_is_refused_since_the_rest_cannot_be_told_apart(tmp_path: Path) -> None:
    refused = _refused(_write(tmp_path, '[{"a": 1}, {"a" 2}, {"a": 3}]', "r.json"))
    assert refused == "1: is not JSON from here on (Expecting ':' delimiter on line 1)"


def test_text_behind_the_list_is_refused(tmp_path: Path) -> None:
    refused = _refused(_write(tmp_path, '[{"a": 1}]\n[{"a": 2}]', "r.json"))
    assert refused == "1: has more behind the end of its list"


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
    assert caught.value.remedy == f"{tmp_path} has no data file"
    with pytest.raises(DataError, match="no such data file") as caught:
        read_rows(tmp_path / "nowhere" / "a.json")
    assert f"the folder {tmp_path / 'nowhere'} does not exist either" in caught.value.remedy


def test_an_unknown_kind_of_file_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'unknown kind of data file ".txt"') as caught:
        read_rows(_write(tmp_path, "x", "rows.txt"))
    assert caught.value.remedy.startswith("known kinds: .json, .jsonl, .ndjson, .csv, .tsv, .xlsx, .parquet; ")
    with pytest.raises(DataError, match=r'unknown kind of data file ".gz"'):
        read_rows(_write(tmp_path, "x", "rows.parquet.gz"))


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


def test_deep_nesting_that_json_can_still_read_is_read(tmp_path: Path) -> None:
    row = '{"a": ' + "[" * 500 + "]" * 500 + "}"
    for name in ("rows.jsonl", "rows.json"):
        (read,) = read_rows(_write(tmp_path, row if name == "rows.jsonl" else f"[{row}]", name))
        assert isinstance(read, Row)


def test_endless_nesting_inside_a_list_does_not_hide_the_next_element(tmp_path: Path) -> None:
    text = '[\n  {"a": ' + "[" * 100_000 + '},\n  {"a": 2}\n]'
    assert _seen(_write(tmp_path, text, "r.json")) == [(2, "not JSON (a huge number or endless nesting)"), (3, 2)]


def test_a_list_under_the_name_of_json_lines_is_read_as_a_list(tmp_path: Path) -> None:
    assert _seen(_write(tmp_path, '\n[\n{"a": 1},\n{"a": 2}]\n\n', "rows.jsonl")) == [(3, 1), (4, 2)]
    assert _seen(_write(tmp_path, '[{"a": 1}, {"a": 2}]', "rows.ndjson")) == [(1, 1), (1, 2)]
    one_line = "[" + ", ".join(json.dumps({"a": number, "b": "x" * 999}) for number in range(11_000)) + "]"
    assert len(one_line) > LARGEST_ROW
    assert len(_seen(_write(tmp_path, one_line, "rows.jsonl"))) == 11_000
    assert len(_seen(_write(tmp_path, one_line, "rows.json"))) == 11_000


def test_a_first_line_that_is_a_list_of_its_own_is_a_bad_row_of_json_lines(tmp_path: Path) -> None:
    assert _seen(_write(tmp_path, '[1]\n{"a": 2}\n')) == [(1, "not an object but a list"), (2, 2)]


def test_a_file_of_blocks_has_its_rows_in_order_with_their_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"a": number, "b": "x" * 2000}) for number in range(10_000)]
    for name, text in (("r.jsonl", "\n".join(lines)), ("r.json", "[\n" + ",\n".join(lines) + "\n]")):
        found = list(blocks(_write(tmp_path, text, name)))
        assert len(text) / BLOCK_BYTES < len(found) + 1 < 2 * len(text) / BLOCK_BYTES
        assert max(len(block.lines) for block in found) < BLOCK_BYTES + 4200
        assert [block.share for block in found] == sorted(block.share for block in found)
        assert found[-1].share == 1
        first = 1 if name == "r.jsonl" else 2
        assert pickle.loads(pickle.dumps(found)) == found  # they travel to worker processes
        seen = [row for block in found for row in rows(block)]
        assert [(row.line, row.values["a"]) for row in seen if isinstance(row, Row)] == [
            (number + first, number) for number in range(10_000)
        ]


def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    values = [{"question": f'你好 {number}?\nSay "a, b; c"', "answer": "é" * number} for number in range(1, 300)]
    _write_kinds(tmp_path, values)
    files = resolve([str(tmp_path)], tmp_path / "downloads")
    assert {kind_of(file) for file in files} == set(KINDS)
    for file in files:
        found = [row for row in read_rows(file) if isinstance(row, Row)]
        assert detect(found[:50]) == "question_answer"
        examples = [example for row in found if isinstance(example := to_example(row, "question_answer", {}), Example)]
        assert [[message.content for message in example.messages] for example in examples] == [
            [row["question"], row["answer"]] for row in values
        ]


def _write_kinds(folder: Path, values: list[dict[str, str]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in values)
    _write(folder, lines, "rows.jsonl")
    _write(folder, lines, "rows.ndjson")
    _write(folder, gzip.compress(lines.encode()), "rows.jsonl.gz")
    _write(folder, json.dumps(values, indent=2, ensure_ascii=False), "rows.json")
    for name, delimiter in (("rows.csv", ";"), ("rows.tsv", "\t")):
        with (folder / name).open("w", encoding="utf-8-sig", newline="") as handle:
            writer = csv.DictWriter(handle, ["question", "answer"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(values)
    workbook = openpyxl.Workbook()
    for cells in (["question", "answer"], *(list(row.values()) for row in values)):
        workbook.active.append(cells)
    workbook.save(folder / "rows.xlsx")
    parquet.write_table(pyarrow.Table.from_pylist(values), folder / "rows.parquet")


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    st.lists(st.dictionaries(st.text("ab", min_size=1), _VALUES, max_size=3), min_size=1, max_size=8),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.integers(1, 60),
)
def test_a_list_is_cut_into_the_elements_it_has_wherever_the_window_ends(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[dict[str, object]],
    indent: int | None,
    ascii: bool,
    window: int,
) -> None:
    file = tmp_path_factory.mktemp("list") / "rows.json"
    text = json.dumps(values, indent=indent, ensure_ascii=ascii)
    file.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonarray, "_READ_BYTES", window)
        patch.setattr(jsonarray, "BLOCK_BYTES", window)
        found = list(read_rows(file))
    lines = text.split("\n")
    for row, expected in zip(found, values, strict=True):
        if isinstance(row, Row):
            assert row.values == expected
            assert lines[row.line - 1].lstrip("[, ").startswith("{")
        else:
            assert row.reason == "has a NUL character"
            assert "\\u0000" in json.dumps(expected)


@given(st.binary(max_size=200), st.integers(1, 40))
def test_whatever_the_bytes_are_lines_have_their_numbers_and_nothing_is_raised(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, block: int
) -> None:
    file = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    file.write_bytes(b'{"a": 0}\n' + garbage + b'\n{"a": 1}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonlines, "BLOCK_BYTES", block)
        found = list(read_rows(file))
    assert (found[0].line, found[-1].line) == (1, garbage.count(b"\n") + 3)
    assert isinstance(found[0], Row)
    assert isinstance(found[-1], Row)


@pytest.mark.parametrize(
    ("name", "count"),
    [("gsm8k_train.jsonl", 7473), ("alpaca_en_demo.json", 999), ("identity.json", 91), ("c4_demo.jsonl", 300)],
)
def test_every_row_of_the_public_files_is_read_with_the_line_it_is_on(real_data: Path, name: str, count: int) -> None:
    lines = (real_data / name).read_text(encoding="utf-8").split("\n")
    found = list(read_rows(real_data / name))
    assert len(found) == count
    assert all(isinstance(row, Row) and lines[row.line - 1].lstrip().startswith("{") for row in found)
