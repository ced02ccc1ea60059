"""The bookmark: trusted only where it fits the store and the spool it is used with."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ftcluster.tracking.bookmark import BOOKMARK, Bookmark, count_pending, read_bookmark
from ftcluster.tracking.records import SPOOL, read_lines
from ftcluster.tracking.spool import SpoolTracker

URI = "http://127.0.0.1:5000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with three records."""
    with closing(SpoolTracker(tmp_path)) as tracker:
        for step in range(3):
            tracker.metrics({"loss": 1.0}, step)
    return tmp_path


def test_a_saved_bookmark_is_read_back(folder: Path) -> None:
    end_of_first = next(read_lines(folder / SPOOL)).end
    Bookmark(URI, "abc", end_of_first).save(folder)

    assert read_bookmark(folder, URI) == Bookmark(URI, "abc", end_of_first)
    assert count_pending(folder, URI) == 2
    assert not list(folder.glob("*.tmp"))


def test_for_another_store_everything_is_pending(folder: Path) -> None:
    Bookmark(URI, "abc", (folder / SPOOL).stat().st_size).save(folder)

    assert count_pending(folder, URI) == 0
    assert read_bookmark(folder, "http://127.0.0.1:6000") is None
    assert count_pending(folder, "http://127.0.0.1:6000") == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uri": 1, "other": 2}', "null"])
def test_a_damaged_bookmark_counts_as_none(folder: Path, text: str) -> None:
    (folder / BOOKMARK).write_text(text)

    assert read_bookmark(folder, URI) is None
    assert count_pending(folder, URI) == 3


@pytest.mark.parametrize("offset", [10**9, 5])
def test_an_offset_that_does_not_fit_the_spool_starts_over(folder: Path, offset: int) -> None:
    Bookmark(URI, "abc", offset).save(folder)

    assert read_bookmark(folder, URI) == Bookmark(URI, "abc", 0)
    assert count_pending(folder, URI) == 3


def test_a_run_that_recorded_nothing_has_nothing_pending(tmp_path: Path) -> None:
    assert count_pending(tmp_path, URI) == 0
