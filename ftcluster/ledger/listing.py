"""Names of runs for shell completion, which must answer in a blink: read without SQLAlchemy, changing nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_SHOWN = 200
_QUERY = "SELECT name, kind, state FROM ftcluster_runs WHERE substr(name, 1, ?) = ? ORDER BY created_at DESC LIMIT ?"


def names_in(home: Path, beginning: str = "") -> list[tuple[str, str]]:
    """Newest first: names that begin so, each with what it is; none where there is no readable ledger file."""
    file = home / "ledger.db"
    if not file.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            rows = connection.execute(_QUERY, (len(beginning), beginning, _SHOWN)).fetchall()
    except sqlite3.Error:
        return []
    return [(str(name), f"{kind}, {state}") for name, kind, state in rows]
