"""A PostgreSQL server for tests, on a socket of its own and without a network; it is not the machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

_numbers = count(1)


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of its first database, for as long as the block lasts; a test skips where there is no PostgreSQL."""
    pytest.importorskip("psycopg")
    tools = _tools()
    # Not below the folder of a test: it must be open to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="ftcluster-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def call(*words: str) -> None:
        done = subprocess.run([*as_user, *words], capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr

    data, log = str(folder / "data"), str(folder / "log")
    try:
        call(str(tools / "initdb"), "-D", data, "-U", "ftcluster", "-A", "trust", "--no-sync")
        settings = f"-F -c listen_addresses='' -c unix_socket_directories={folder}"
        call(str(tools / "pg_ctl"), "start", "-w", "-D", data, "-l", log, "-o", settings)
        try:
            yield f"postgresql+psycopg://ftcluster@/postgres?host={folder}"
        finally:
            call(str(tools / "pg_ctl"), "stop", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(folder)


def new_database(server: str) -> str:
    """The URL of an empty database on a server."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


def _tools() -> Path:
    newest: Sequence[Path] = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = shutil.which("postgres") if not newest else str(newest[-1])
    if found is None or (os.geteuid() == 0 and shutil.which("setpriv") is None):
        pytest.skip("no PostgreSQL server on this machine")
    return Path(found).parent
