"""Files that are compressed, damaged, of another kind than their name says, or written to while they are read."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pytest

from ftcluster.data.files.blocks import blocks, read_rows
from ftcluster.data.files.source import BadRow, Row
from ftcluster.errors import DataError

LINES = "".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(500)).encode()


def _zst(content: bytes) -> bytes:
    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


def _problem(file: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read_rows(file))
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


Write = Callable[[str, bytes], Path]


# --- compressed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [gzip.compress, _zst], ids=["gz", "zst"])
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "csv", "tsv"])
def test_every_kind_of_text_may_be_compressed(file: Write, kind: str, compress: Callable[[bytes], bytes]) -> None:
    rows = [f"row {number}" for number in range(500)]
    texts = {
        "json": json.dumps([{"text": row} for row in rows]),
        "csv": "text\n" + "\n".join(rows),
        "tsv": "text\n" + "\n".join(rows),
    }
    suffix = "gz" if compress is gzip.compress else "zst"
    path = file(f"rows.{kind}.{suffix}", compress(texts.get(kind, LINES.decode()).encode()))
    found = list(read_rows(path))
    assert [row.values["text"] for row in found if isinstance(row, Row)] == rows
    assert list(blocks(path))[-1].share == 1


@pytest.mark.parametrize("compress", [gzip.compress, _zst], ids=["gz", "zst"])
def test_files_put_together_are_read_to_the_end(file: Write, compress: Callable[[bytes], bytes]) -> None:
    suffix = "gz" if compress is gzip.compress else "zst"
    path = file(f"rows.jsonl.{suffix}", compress(LINES[: len(LINES) // 2]) + compress(LINES[len(LINES) // 2 :]))
    assert len(list(read_rows(path))) == 500


@pytest.mark.parametrize("compress", [gzip.compress, _zst], ids=["gz", "zst"])
def test_a_compressed_file_that_is_cut_off_or_damaged_is_refused(
    file: Write, compress: Callable[[bytes], bytes]
) -> None:
    whole = compress(os.urandom(300_000).hex().encode())
    suffix = "gz" if compress is gzip.compress else "zst"
    middle = len(whole) // 2
    broken = [whole[:middle], whole[:-3], LINES]
    if suffix == "gz":  # which has a checksum always, as a Zstandard file has from most programs
        broken.append(whole[:middle] + b"\xff" * 50 + whole[middle + 50 :])
    for content in broken:
        error = _problem(file(f"rows.jsonl.{suffix}", content))
        assert "is damaged or cut off" in error.message
        assert error.remedy == "copy or download it again"


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_bomb_is_refused_without_being_held_in_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.jsonl.{suffix}"
    zeros = bytes(30 * 2**20)
    path.write_bytes((_zst(zeros) if suffix == "zst" else gzip.compress(zeros)) * 10)
    script = (
        "import resource, sys\n"
        "from ftcluster.data.files.blocks import read_rows\n"
        "from ftcluster.errors import DataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    list(read_rows(sys.argv[1]))\n"
        "except DataError as error:\n    print(error.message)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    said, grown = ran.stdout.splitlines()
    assert said == f"expands to more than 200 times its {path.stat().st_size} bytes, as no text does"
    assert int(grown) < 150  # MiB


# --- of another kind than the name says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind", "remedy"),
    [
        (gzip.compress(LINES), "a gzip file", "end its name in .gz"),
        (_zst(LINES), "a Zstandard file", "end its name in .zst"),
        (b"PK\x03\x04...", "a zip archive or an Excel file", "end its name in .xlsx, or unpack it"),
        (b"PAR1...", "a Parquet file", "end its name in .parquet"),
        (b"\xd0\xcf\x11\xe0...", "an old Excel file", "end its name in .xls; save it as .xlsx"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_file_under_the_name_of_another_kind_is_recognised(
    file: Write, name: str, content: bytes, kind: str, remedy: str
) -> None:
    error = _problem(file(name, content))
    assert (error.message, error.remedy) == (f"is not text but {kind}", remedy)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz"])
def test_a_wide_encoding_is_named_instead_of_called_broken_json(
    file: Write, name: str, encoding: str, said: str
) -> None:
    content = LINES.decode().encode(encoding)
    error = _problem(file(name, gzip.compress(content) if name.endswith("gz") else content))
    assert error.message == f"is {said} text"
    assert error.remedy.startswith(f"save it as UTF-8, for example: iconv -f {said} -t UTF-8 {name} > rows.utf8.json")


@pytest.mark.parametrize(("encoding", "said"), [("gb18030", "GB18030"), ("latin-1", "WINDOWS-1252")])
def test_a_list_in_another_encoding_is_refused_with_the_line_and_the_command_that_converts_it(
    file: Write, encoding: str, said: str
) -> None:
    text = "请帮我订一张去上海的票" if encoding == "gb18030" else "déjà vu"
    content = f'[\n{{"a": 1}},\n{{"a": "{text}"}}]'.encode(encoding)
    error = _problem(file("rows.json", content))
    assert error.message == f"is not UTF-8 text; it looks like {said}"
    assert error.where.endswith("rows.json:3")
    assert f"iconv -f {said} -t UTF-8 rows.json > rows.utf8.json" in error.remedy


def test_a_list_with_one_damaged_character_is_not_taken_for_another_encoding(file: Write) -> None:
    error = _problem(file("rows.json", '[{"a": "请帮我"},\n{"a": "订一张'.encode() + b'\xe7\xa5"}]'))
    assert error.message == "is not UTF-8 text; it looks like damaged UTF-8"
    assert (error.where[-11:], error.remedy) == ("rows.json:2", "repair that line")


def test_the_command_that_converts_a_file_does_so(file: Write, tmp_path: Path) -> None:
    if not shutil.which("iconv"):
        pytest.skip("no iconv here")
    text = '{"text": "请帮我订一张去上海的票"}\n'
    error = _problem(file("rows.jsonl", text.encode("utf-16")))
    command = error.remedy.split("for example: ")[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert [row.values["text"] for row in read_rows(tmp_path / "rows.utf8.jsonl") if isinstance(row, Row)] == [
        "请帮我订一张去上海的票"
    ]


def test_a_file_of_nul_bytes_as_a_crash_leaves_it_is_named(file: Write) -> None:
    (row,) = read_rows(file("rows.jsonl", bytes(5000)))
    assert isinstance(row, BadRow)
    assert row.reason == "has a NUL character"


# --- written to while it is read ---------------------------------------------------------------------------------


def _half_read(path: Path) -> Iterator[Row | BadRow]:
    found = read_rows(path)
    assert isinstance(next(found), Row)
    return found


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("change", ["grows", "shrinks", "is replaced", "is deleted"])
def test_a_file_that_changes_while_it_is_read_is_refused(file: Write, name: str, change: str) -> None:
    rows = [json.dumps({"text": "x" * 5000}).encode()] * 2000  # more than is read at a time
    content = b"[" + b",\n".join(rows) + b"]" if name == "rows.json" else b"\n".join(rows)
    path = file(name, content)
    found = _half_read(path)
    if change == "grows":
        with path.open("ab") as handle:
            handle.write(LINES)
    elif change == "shrinks":
        os.truncate(path, 5000)
    elif change == "is replaced":
        other = path.with_name("other")
        other.write_bytes(content)
        other.rename(path)
    else:
        path.unlink()
    with pytest.raises(DataError, match="was written to while it was read") as caught:
        list(found)
    assert caught.value.remedy == "wait until it is complete, or copy it and name the copy"
