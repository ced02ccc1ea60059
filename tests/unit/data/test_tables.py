"""Tables from spreadsheets: what people save in Excel is read as it was meant, or named with the row it is in."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.data.files.blocks import blocks, read_rows
from ftcluster.data.files.source import LARGEST_ROW, Row
from ftcluster.errors import DataError


def _write(tmp_path: Path, content: bytes | str, name: str = "rows.csv") -> Path:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def _seen(file: Path) -> list[tuple[int, object]]:
    return [(row.line, row.values if isinstance(row, Row) else str(row).split(": ", 1)[1]) for row in read_rows(file)]


def _problem(file: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read_rows(file))
    return caught.value


# --- csv and tsv -------------------------------------------------------------------------------------------------


def test_a_cell_with_line_ends_commas_and_quotes_is_one_cell_and_rows_keep_their_line(tmp_path: Path) -> None:
    file = _write(tmp_path, 'question,answer\r\n"a\r\nb, ""c""",1\r\n\r\nd,"2\n3"\r\ne,4')
    assert _seen(file) == [
        (2, {"question": 'a\r\nb, "c"', "answer": "1"}),
        (5, {"question": "d", "answer": "2\n3"}),
        (7, {"question": "e", "answer": "4"}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_the_delimiter_is_the_one_of_the_header_whatever_the_cells_hold(
    tmp_path: Path, delimiter: str, name: str
) -> None:
    text = f'question{delimiter}answer\n"a, b; c\td; e, f"{delimiter}"x"\n'
    assert _seen(_write(tmp_path, "\ufeff" + text, name)) == [(2, {"question": "a, b; c\td; e, f", "answer": "x"})]


def test_a_table_of_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    assert _seen(_write(tmp_path, 'text\n"once, twice"\nfoo\n')) == [(2, {"text": "once, twice"}), (3, {"text": "foo"})]


def test_a_header_that_two_delimiters_cut_alike_is_refused(tmp_path: Path) -> None:
    error = _problem(_write(tmp_path, "a,b;c\n1,2;3\n"))
    assert "has as many commas and semicolons, so that its columns cannot be told apart" in str(error)
    assert error.remedy == "save it with commas, and quote the names that hold one"


def test_a_row_with_another_number_of_cells_is_named_and_empty_cells_behind_the_last_column_are_not(
    tmp_path: Path,
) -> None:
    file = _write(tmp_path, "a,b,,\n1,2,,\n1\n1,2,3,4\n1,2\n,,,\n1,2,,,,\n")
    bad = "has another number of cells than the header"
    row = {"a": "1", "b": "2"}
    assert _seen(file) == [
        (2, row),
        (3, f"{bad} (1 instead of 2)"),
        (4, f"{bad} (4 instead of 2)"),
        (5, row),
        (7, row),
    ]


def test_a_column_without_a_name_such_as_an_index_is_not_read(tmp_path: Path) -> None:
    assert _seen(_write(tmp_path, ",text\n0,once\n")) == [(2, {"text": "once"})]


def test_a_nul_character_is_named_and_reading_goes_on(tmp_path: Path) -> None:
    seen = _seen(_write(tmp_path, "a,b\nx\x00,2\n3,4\n"))
    assert seen == [(2, "has a NUL character"), (3, {"a": "3", "b": "4"})]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ('"x\ny"z,2\n', "a quote inside a cell is not doubled"),
        ('"3,4\n5,6\n', "a quote is opened here and never closed"),
        ("x" * (LARGEST_ROW + 9) + ",1\n", "its line is larger than 10 MB"),
        ('"' + ("x" * 999_999 + "\n") * 11 + '",2\n', "field larger than field limit (10000000)"),
    ],
)
def test_a_table_is_refused_where_the_ends_of_its_cells_are_anybodys_guess(
    tmp_path: Path, broken: str, problem: str
) -> None:
    error = _problem(_write(tmp_path, f"a,b\n1,2\n{broken}3,4\n"))
    assert error.message == f"is no whole table: {problem}"
    assert error.where.endswith("rows.csv:3")
    assert error.remedy.startswith("repair that row; a quote inside a cell is written twice")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("\n\n", "has no rows"),
        ("question,answer\n", "has no rows"),
        (",,\n1,2,3\n", "its header cannot be read: its first row is empty"),
        ("a,b,a\n1,2,3\n", 'has two columns "a"'),
        ('"a"b,c\n1,2\n', "its header cannot be read: ',' expected after '\"'"),
        ("a,b\rc,d\r", "its header cannot be read: new-line character seen in unquoted field"),
        ("x" * LARGEST_ROW + "xyz", "is no whole table: its line is larger than 10 MB"),
    ],
)
def test_a_table_without_a_usable_header_or_rows_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    assert problem in str(_problem(_write(tmp_path, content)))


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("gb18030", "GB18030"), ("latin-1", "WINDOWS-1252"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE")],
)
def test_another_encoding_is_named_with_the_command_that_converts_it(tmp_path: Path, encoding: str, said: str) -> None:
    text = "请帮我订一张去上海的票" if encoding == "gb18030" else "déjà vu"
    error = _problem(_write(tmp_path, f"question,answer\nhello,{text}\n".encode(encoding)))
    assert said in error.message
    assert f"iconv -f {said} -t UTF-8 rows.csv > rows.utf8.csv" in error.remedy
    assert error.where.endswith("rows.csv" if said.startswith("UTF") else "rows.csv:2")


_CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


@given(st.lists(st.tuples(_CELLS, _CELLS.filter(bool)), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_what_a_spreadsheet_writes_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], end: str
) -> None:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    file = tmp_path_factory.mktemp("table") / "rows.csv"
    lines = ["question,answer", *(f"{quoted(one)},{quoted(other)}" for one, other in cells)]
    file.write_bytes(end.join(lines).encode())
    found = [row.values for row in read_rows(file) if isinstance(row, Row)]
    assert found == [{"question": one, "answer": other} for one, other in cells]


def test_a_large_table_is_read_in_blocks(tmp_path: Path) -> None:
    file = _write(tmp_path, "text\n" + ("x" * 99 + "\n") * 10_000)
    found = list(blocks(file))
    assert [len(block.rows) for block in found] == [2000] * 5
    assert [block.line for block in found] == [2, 2002, 4002, 6002, 8002]
    assert found[-1].share == 1


# --- xlsx --------------------------------------------------------------------------------------------------------


def _workbook(tmp_path: Path, *rows: Sequence[Any], name: str = "rows.xlsx") -> Path:
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    file = tmp_path / name
    workbook.save(file)
    return file


def test_a_workbook_gives_its_rows_with_their_numbers_and_without_empty_ones(tmp_path: Path) -> None:
    file = _workbook(tmp_path, [], ["question", "answer"], ["几点了？", "Ten\nto six"], [], ["b", None], [None, "d"])
    assert _seen(file) == [
        (3, {"question": "几点了？", "answer": "Ten\nto six"}),
        (5, {"question": "b"}),
        (6, {"answer": "d"}),
    ]


def test_numbers_and_dates_become_text_and_truth_values_stay(tmp_path: Path) -> None:
    file = _workbook(
        tmp_path, ["a", "b", "c", "d", "e"], [42, 0.5, 3.0, True, datetime.date(2026, 11, 21)], ["x", "", "y"]
    )
    assert _seen(file) == [
        (2, {"a": "42", "b": "0.5", "c": "3", "d": True, "e": "2026-11-21T00:00:00"}),
        (3, {"a": "x", "c": "y"}),
    ]


def test_a_formula_without_a_stored_value_and_an_error_value_are_named_with_their_cell(tmp_path: Path) -> None:
    file = _workbook(tmp_path, ["question", "answer"], ["a", "=1+1"], ["b", "#DIV/0!"], ["c", "d"])
    assert _seen(file) == [
        (2, "a formula without a stored value (cell B2)"),
        (3, "a cell that holds an error (cell B3 has #DIV/0!)"),
        (4, {"question": "c", "answer": "d"}),
    ]


def test_a_formula_whose_value_is_stored_gives_the_value(tmp_path: Path) -> None:
    file = _workbook(tmp_path, ["question", "answer"], ["a", "=1+1"])
    _replace_in(file, "xl/worksheets/sheet1.xml", b"<v />", b"<v>2</v>")
    assert _seen(file) == [(2, {"question": "a", "answer": "2"})]


def test_merged_cells_leave_rows_incomplete_rather_than_filled_by_guessing(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    for row in (["question", "answer"], ["a", "b"], ["", "c"]):
        workbook.active.append(row)
    workbook.active.merge_cells("A2:A3")
    workbook.save(tmp_path / "rows.xlsx")
    assert _seen(tmp_path / "rows.xlsx") == [(2, {"question": "a", "answer": "b"}), (3, {"answer": "c"})]


def test_a_cell_right_of_the_header_is_named(tmp_path: Path) -> None:
    file = _workbook(tmp_path, ["text"], ["a"], ["b", "note to self"])
    assert _seen(file)[1] == (3, "has a cell right of the header's last column")


def test_of_several_sheets_with_rows_all_but_one_must_be_hidden(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    workbook.active.title = "rows"
    other = workbook.create_sheet("notes")
    workbook.create_sheet("empty")
    for sheet in (workbook["rows"], other):
        sheet.append(["text"])
        sheet.append([sheet.title])
    workbook.save(tmp_path / "rows.xlsx")
    error = _problem(tmp_path / "rows.xlsx")
    assert "has several sheets with rows: rows, notes" in str(error)
    assert error.remedy == "hide all but the one to read, or save each as a file of its own"
    other.sheet_state = "hidden"
    workbook.save(tmp_path / "rows.xlsx")
    assert _seen(tmp_path / "rows.xlsx") == [(2, {"text": "rows"})]


def test_a_workbook_without_rows_is_refused(tmp_path: Path) -> None:
    assert "has no rows" in str(_problem(_workbook(tmp_path)))
    assert "has no rows" in str(_problem(_workbook(tmp_path, ["text"])))


@pytest.mark.parametrize("content", [b"question,answer\n", b"\xd0\xcf\x11\xe0 encrypted", b""])
def test_what_is_no_workbook_is_refused(tmp_path: Path, content: bytes) -> None:
    error = _problem(_write(tmp_path, content, "rows.xlsx"))
    assert "is no Excel workbook: it is damaged, encrypted, or another kind of file" in str(error)
    assert error.remedy == "open it in Excel and save it as .xlsx without a password"


def test_a_damaged_workbook_is_refused(tmp_path: Path) -> None:
    file = _workbook(tmp_path, ["text"], ["once"])
    _replace_in(file, "xl/worksheets/sheet1.xml", b"</row>", b"</wor>")
    assert "cannot be read as a workbook: mismatched tag" in str(_problem(file))
    with zipfile.ZipFile(tmp_path / "other.xlsx", "w") as archive:
        archive.writestr("a.txt", "no workbook")
    assert "cannot be read as a workbook" in str(_problem(tmp_path / "other.xlsx"))


def test_a_zip_bomb_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    file = _workbook(tmp_path, ["text"], ["once"])
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/media/x", "w") as part:
        for _ in range(300):
            part.write(bytes(2**20))
    assert "expands to 300 MiB, more than 200 times its size, as no text does" in str(_problem(file))


def _replace_in(file: Path, part: str, old: bytes, new: bytes) -> None:
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
