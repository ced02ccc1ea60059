"""Whether the tables of an SQLite store are those of the MLflow that is installed, without importing MLflow.

MLflow itself finds out when it opens a store, seconds later, and its message is long. Its migrations are files in its
package, each naming its revision and the one before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_MIGRATIONS = Path("store") / "db_migrations" / "versions"
_REVISION = re.compile(r"^(?P<which>down_revision|revision)\s*(?::[^=]*)?=\s*[\"'](?P<name>\w+)[\"']", re.MULTILINE)


@dataclass(frozen=True)
class SchemaProblem:
    """What does not fit, and what to do."""

    text: str
    remedy: str


def schema_problem(revisions: Sequence[str], database: Path) -> SchemaProblem | None:
    """None if a store at ``revisions`` is current, or nobody can tell."""
    known, newest = _migrations()
    if not newest or set(revisions) <= newest:
        return None
    if set(revisions) <= known:
        remedy = f"copy the file, then: mlflow db upgrade sqlite:///{database}"
        return SchemaProblem("its tables are of an older MLflow", remedy)
    return SchemaProblem("its tables are of a newer MLflow than the installed one", "pip install --upgrade mlflow")


@cache
def _migrations() -> tuple[frozenset[str], frozenset[str]]:
    """All revisions the installed MLflow knows, and those that none comes after."""
    spec = find_spec("mlflow")  # finds the package's folder and runs nothing of it
    folders = [Path(place) / _MIGRATIONS for place in (spec.submodule_search_locations or ())] if spec else []
    texts = [file.read_text() for folder in folders for file in folder.glob("*.py")]
    found = [(match["which"], match["name"]) for text in texts for match in _REVISION.finditer(text)]
    known = frozenset(name for which, name in found if which == "revision")
    return known, known - frozenset(name for which, name in found if which == "down_revision")
