"""How far a run has been delivered, and to which MLflow run: ``<run folder>/mlflow.json``.

Owns that file, nothing else. It is replaced as a whole and only after a delivery succeeded. Losing it is
harmless: the MLflow run is found again by its tags and everything is delivered once more, which changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ftcluster.tracking.records import SPOOL, read_lines

BOOKMARK = "mlflow.json"


@dataclass(frozen=True)
class Bookmark:
    """``uri`` is the store (without its user), ``offset`` the number of spool bytes delivered to it."""

    uri: str
    run_id: str
    offset: int = 0

    def save(self, folder: Path) -> None:
        """Replace the run's bookmark in one step."""
        draft = folder / f"{BOOKMARK}.tmp"
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        draft.replace(folder / BOOKMARK)


def read_bookmark(folder: Path, uri: str) -> Bookmark | None:
    """The run's bookmark for this store; None where there is none, or only one for another store.

    An offset that is not the start of a line of today's spool counts as 0: a power cut may have shortened
    the spool to what was last flushed.
    """
    found = _stored(folder)
    if found is None or found.uri != uri:
        return None
    return found if _starts_a_line(folder / SPOOL, found.offset) else Bookmark(uri, found.run_id)


def known_run_id(folder: Path) -> str:
    """The id of the run in the store that its bookmark is for; empty where there is none."""
    found = _stored(folder)
    return found.run_id if found else ""


def _stored(folder: Path) -> Bookmark | None:
    try:
        return Bookmark(**json.loads((folder / BOOKMARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _starts_a_line(spool: Path, offset: int) -> bool:
    if offset == 0:
        return True
    try:
        with spool.open("rb") as stream:
            stream.seek(offset - 1)
            return stream.read(1) == b"\n"
    except OSError:
        return False


def count_pending(folder: Path, uri: str) -> int:
    """Records of any kind in the spool that were not delivered to this store yet."""
    bookmark = read_bookmark(folder, uri)
    start = bookmark.offset if bookmark else 0
    return sum(1 for _ in read_lines(folder / SPOOL, start))
