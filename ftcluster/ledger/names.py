"""Names of runs: making one from any text, finding a free one, and the run a user's reference means."""

from __future__ import annotations

import difflib
import itertools
import re

import sqlalchemy as sa

from ftcluster.errors import UsageError
from ftcluster.ledger.schema import RunRow, run_row, runs

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LENGTH = 63
_SHOWN = 10  # names listed in a message


def slug(text: str) -> str:
    """``"My Sweep!"`` -> ``my-sweep``; ``run`` where no letter or digit is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LENGTH].rstrip("-") or "run"


def check_name(name: str) -> None:
    """Names become folders, tags and ids of jobs, so they are kept simple.

    Raises:
        UsageError: it is not ``^[a-z0-9][a-z0-9-]{0,62}$``.
    """
    if not _NAME.fullmatch(name):
        remedy = f"use a-z, 0-9 and -, at most {_LENGTH} of them, such as {slug(name)}"
        raise UsageError(f'"{name}" is not a name for a run', where="name", remedy=remedy)


def free(connection: sa.Connection, wanted: str) -> str:
    """The slug of ``wanted``, or that with -2, -3, ... if it is taken."""
    base = slug(wanted)
    taken = set(connection.scalars(sa.select(runs.c.name).where(_begins_with(base[: _LENGTH - 8]))))
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    return next(name for ending in endings if (name := base[: _LENGTH - len(ending)] + ending) not in taken)


def found(connection: sa.Connection, reference: str) -> RunRow:
    """The run with this name, MLflow run id, or the only one whose name begins like this.

    A sweep and its trials begin alike; then the sweep is meant.

    Raises:
        UsageError: there is none, or there are several.
    """
    exact = sa.or_(runs.c.name == reference, runs.c.mlflow_run_id == reference)
    if row := connection.execute(sa.select(runs).where(exact)).first():
        return run_row(row)
    begins = [run_row(row) for row in connection.execute(sa.select(runs).where(_begins_with(reference or "?")))]
    names = {row.name for row in begins}
    top = sorted((row for row in begins if row.parent not in names), key=lambda row: row.name)
    if len(top) == 1:
        return top[0]
    if top:
        listed = ", ".join(row.name for row in top[:_SHOWN]) + (", ..." if len(top) > _SHOWN else "")
        raise UsageError(f'"{reference}" could be {listed}', remedy="write more of the name")
    everything = connection.scalars(sa.select(runs.c.name)).all()
    near = difflib.get_close_matches(reference, everything, n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(near)}?" if near else "`ftcluster runs` lists what there is"
    raise UsageError(f'there is no run "{reference}"', remedy=remedy)


def _begins_with(text: str) -> sa.ColumnElement[bool]:
    return sa.func.substr(runs.c.name, 1, len(text)) == text
