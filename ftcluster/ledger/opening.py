"""From a folder or database URL to a connection whose schema is the one this version knows.

Durability: SQLite in WAL mode with synchronous=FULL. A killed process loses nothing with NORMAL either, but
a power cut then takes back the last commits, and the ledger is what everything else is rebuilt from. A
write takes 1 to 10 ms on an SSD, depending on what else the disk does, with NORMAL 1 ms; a trial makes
about ten of them.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

# All of it here: SQLAlchemy asks a module of its ORM that another thread, in which MLflow comes, has half imported.
import sqlalchemy.orm
from sqlalchemy import event

from ftcluster.errors import StoreError
from ftcluster.ledger import schema
from ftcluster.ledger.failures import failures

FILE = "ledger.db"
ELSEWHERE = "ledger.url"
PATIENCE = 30.0  # seconds to wait for another writer
_WRITERS = 6_385_017  # any number; the key of PostgreSQL's advisory lock


def database_url(url_or_home: str | Path) -> sa.URL:
    """A database URL as it stands; anything else is the folder that holds ``ledger.db``, or the URL in ``ledger.url``.

    Raises:
        StoreError: a URL of something else than SQLite or PostgreSQL; a folder with both files.
    """
    text = str(url_or_home)
    if "://" not in text:
        home = Path(text).expanduser().absolute()
        if not (home / ELSEWHERE).is_file():
            return sa.URL.create("sqlite", database=str(home / FILE))
        if (home / FILE).exists():
            remedy = f"move {FILE} away, or {ELSEWHERE} if its runs are wanted"
            raise StoreError(f"there are two ledgers: {FILE} and that of {ELSEWHERE}", where=str(home), remedy=remedy)
        text = (home / ELSEWHERE).read_text().strip()
    try:
        url = sa.make_url(text)
        known = url.get_dialect().name in ("sqlite", "postgresql")
    except (sa.exc.ArgumentError, ValueError):
        known = False
    if not known:  # the URL itself is not repeated: it may hold a password
        remedy = "use a folder, or postgresql+psycopg://user@host/database"
        raise StoreError(f"a ledger cannot be kept in {text.partition(':')[0]}://", where="home", remedy=remedy)
    return url


def place(url: sa.URL) -> str:
    """What to call the database in messages: its path, or its URL without the password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def connect(url: sa.URL, patience: float = PATIENCE) -> sa.Engine:
    """An engine on an up-to-date ledger, which is created or upgraded if need be.

    Raises:
        StoreError: it cannot be reached or written, or was written by a newer ftcluster.
    """
    sqlite = url.get_backend_name() == "sqlite"
    with failures(place(url)):
        if sqlite and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url, connect_args={"timeout": patience} if sqlite else {})
        if sqlite:
            _configure_sqlite(engine, patience)
        event.listen(engine, "begin", _queue_writers)
        try:
            _bring_up_to_date(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


def writer(engine: sa.Engine) -> sa.Engine:
    """The same engine for transactions that write: they queue at their beginning, so what they read stays true."""
    return engine.execution_options(writes=True)


def _configure_sqlite(engine: sa.Engine, patience: float) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where _queue_writers says, not where sqlite3 guesses
        _use_wal(connection, patience)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")


def _queue_writers(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif writes:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITERS)))


def _use_wal(connection: sqlite3.Connection, patience: float) -> None:
    """Two processes creating the file at once can meet here, and SQLite does not wait at this one statement."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _bring_up_to_date(engine: sa.Engine) -> None:
    if _version(engine) == schema.VERSION:
        return
    with writer(engine).begin() as connection:
        _check_not_newer(connection)
        _upgrade(connection)


def _version(engine: sa.Engine) -> str | None:
    """One SELECT, so that opening an up-to-date ledger costs a few milliseconds and no alembic."""
    try:
        with engine.connect() as connection:
            return connection.scalar(sa.select(schema.version.c.version_num))
    except (sa.exc.OperationalError, sa.exc.ProgrammingError):
        return None  # no such table, or an error that the upgrade meets again and reports


def _check_not_newer(connection: sa.Connection) -> None:
    if not sa.inspect(connection).has_table(schema.version.name):
        return
    found = connection.scalar(sa.select(schema.version.c.version_num)) or ""
    if found > schema.VERSION:
        raise StoreError(
            f"the ledger has schema {found}, this ftcluster knows {schema.VERSION}",
            where=place(connection.engine.url),
            remedy="upgrade: pip install --upgrade ftcluster",
        )


def _upgrade(connection: sa.Connection) -> None:
    # Imported here because an up-to-date ledger, the common case, does not need it.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "ftcluster.ledger:migrations")
    command.upgrade(config, "head")
