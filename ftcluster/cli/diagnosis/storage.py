"""Checks of what is written to: the home folder, its disk, MLflow's store."""

from __future__ import annotations

import socket
import sqlite3
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ftcluster.cli.diagnosis.finding import Finding, State
from ftcluster.cluster.machine import existing_parent, free_disk
from ftcluster.tracking.schema import schema_problem
from ftcluster.units import format_bytes

_GIB = 2**30
_PATIENCE = 3.0  # seconds for a server to answer
_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def home_folder(home: Path) -> Iterator[Finding]:
    """Whether runs can be written, and how many."""
    parent = existing_parent(home)
    try:
        with tempfile.TemporaryFile(dir=parent):
            yield Finding("home", "ok", f"{home}{'' if home.is_dir() else ' (will be made)'}")
    except OSError as error:
        yield Finding("home", "fail", f"{home}: {error.strerror}", "set FTCLUSTER_HOME or home=FOLDER to one you own")
    free = free_disk(home)
    state: State = "fail" if free < _GIB else "warn" if free < 10 * _GIB else "ok"
    remedy = "" if state == "ok" else "free some space, or set home=FOLDER to a larger disk"
    yield Finding("disk", state, f"{format_bytes(free)} free at {parent}", remedy)


def mlflow_store(uri: str) -> Finding:
    """Whether MLflow's store answers, and an SQLite one has the tables of the MLflow installed here."""
    parts = urlsplit(uri)
    name, remedy = "MLflow", "start the server, or correct tracking.uri or MLFLOW_TRACKING_URI"
    shown = f"{parts.scheme}://{parts.hostname or ''}"
    try:
        shown += f"{f':{parts.port}' if parts.port else ''}{parts.path}"
        if parts.scheme.startswith("sqlite"):
            return _sqlite(name, Path(uri.split("///", 1)[1]))
        if parts.scheme in ("http", "https"):
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_PATIENCE):
                return Finding(name, "ok", shown)
        knock(parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme.split("+")[0], 0))
        return Finding(name, "ok", f"{shown} accepts connections")
    except (OSError, ValueError, IndexError) as error:
        return Finding(name, "fail", f"{shown}: {error}", remedy)


def knock(host: str, port: int) -> None:
    """Connect once.

    Raises:
        OSError: nobody answers.
    """
    socket.create_connection((host, port), timeout=_PATIENCE).close()


def _sqlite(name: str, file: Path) -> Finding:
    if not file.exists():
        return Finding(name, "ok", f"{file} (will be made)")
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
        try:
            runs = connection.execute("select count(*) from runs").fetchone()[0]
            revisions = [row[0] for row in connection.execute("select version_num from alembic_version")]
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding(name, "fail", f"{file}: {error}", "it is no MLflow database; move it away or set tracking.uri")
    if problem := schema_problem(revisions, file):
        return Finding(name, "fail", f"{file}: {problem.text}", problem.remedy)
    return Finding(name, "ok", f"{file}, {runs} runs")
