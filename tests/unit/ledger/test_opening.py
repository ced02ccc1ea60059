"""Opening, creating and upgrading a ledger, and what is said when that fails."""

import re
import resource
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ftcluster.errors import StoreError
from ftcluster.ledger import schema
from ftcluster.ledger.failures import failures
from ftcluster.ledger.opening import connect, database_url, place
from ftcluster.ledger.store import Ledger


def in_new_process(script, *arguments):
    words = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def test_a_new_ledger_appears_in_its_home_folder_with_everything_on_the_way_there(tmp_path):
    with Ledger.open(tmp_path / "a" / "b") as ledger:
        assert ledger.runs() == []
        assert ledger.place == str(tmp_path / "a" / "b" / "ledger.db")
    assert (tmp_path / "a" / "b" / "ledger.db").is_file()


def test_the_migrations_build_exactly_the_tables_the_code_uses(home):
    engine = connect(database_url(home))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": schema.version.name, "compare_type": True}
        )
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == schema.VERSION
    engine.dispose()


def test_the_newest_migration_is_the_version_the_code_expects():
    scripts = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    assert scripts.get_current_head() == schema.VERSION


def test_writers_are_durable_and_do_not_block_readers(home):
    engine = connect(database_url(home))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()


def test_an_up_to_date_ledger_opens_fast_and_without_the_migration_tool(home):
    Ledger.open(home).close()
    took = in_new_process(
        "import sys, time\n"
        "from ftcluster.ledger.store import Ledger\n"
        "def opened():\n"
        "    begun = time.process_time()\n"
        "    Ledger.open(sys.argv[1]).close()\n"
        "    return time.process_time() - begun\n"
        "print(min(opened() for _ in range(5)), 'alembic' in sys.modules)",
        home,
    )
    assert float(took[0]) < 0.05
    assert took[1] == "False"


def test_with_the_ledger_comes_all_of_sqlalchemy_that_mlflow_would_import_in_a_thread_beside_it():
    parts = "sorted(name for name in sys.modules if name.split('.')[:2] == ['sqlalchemy', 'orm'])"
    script = f"""
import ftcluster.ledger.store, sys
before = {parts}
import mlflow.store.tracking.sqlalchemy_store
print(len(before), *set({parts}).difference(before))
"""
    count, *missing = in_new_process(script)
    assert int(count) > 10
    assert not missing


def test_an_empty_file_is_brought_up_to_date(home):
    home.mkdir()
    (home / "ledger.db").touch()
    with Ledger.open(home) as ledger:
        assert ledger.runs() == []


def test_a_ledger_of_a_newer_ftcluster_is_refused_and_left_alone(home):
    Ledger.open(home).close()
    with sqlite3.connect(home / "ledger.db") as file:
        file.execute("UPDATE ftcluster_version SET version_num = '0999'")
    with pytest.raises(
        StoreError, match=r"schema 0999, this ftcluster knows 0001\n  -> upgrade: pip install --upgrade"
    ) as told:
        Ledger.open(home)
    assert told.value.where == str(home / "ledger.db")
    with sqlite3.connect(home / "ledger.db") as file:
        assert file.execute("SELECT version_num FROM ftcluster_version").fetchall() == [("0999",)]


def test_many_processes_can_open_a_new_ledger_at_once_and_never_get_the_same_name(home):
    script = (
        "import sys\n"
        "from ftcluster.ledger.schema import RunRow\n"
        "from ftcluster.ledger.store import Ledger\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "with Ledger.open(sys.argv[1]) as ledger:\n"
        "    print(ledger.add_with_free_name('My run', lambda name: RunRow(name, 'train', 'f', {})).name)"
    )
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(home)], stdin=pipe, stdout=pipe, text=True)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    with ThreadPoolExecutor(len(racers)) as threads:
        names = list(threads.map(lambda racer: racer.communicate("go\n")[0].strip(), racers))
    assert sorted(names) == ["my-run", "my-run-2", "my-run-3", "my-run-4"]


def test_a_url_names_the_database_and_its_password_is_never_shown():
    url = database_url("postgresql+psycopg://me:secret@host/runs")
    assert (url.host, url.password) == ("host", "secret")
    assert place(url) == "postgresql+psycopg://me:***@host/runs"


def test_a_home_can_name_a_database_elsewhere(home, tmp_path):
    home.mkdir()
    (home / "ledger.url").write_text(f"sqlite:///{tmp_path}/elsewhere.db\n")
    with Ledger.open(home) as ledger:
        assert ledger.place == f"{tmp_path}/elsewhere.db"
    assert not (home / "ledger.db").exists()
    (home / "ledger.db").touch()
    with pytest.raises(StoreError, match="there are two ledgers"):
        Ledger.open(home)
    (home / "ledger.db").unlink()
    (home / "ledger.url").write_text("mysql://me:secret@db/x")
    with pytest.raises(StoreError, match=r"cannot be kept in mysql://") as told:
        Ledger.open(home)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("kind", ["mysql", "postgresql+no_such_driver", "nonsense"])
def test_a_database_of_another_kind_is_refused_without_repeating_its_password(kind):
    said = rf"home: a ledger cannot be kept in {re.escape(kind)}://\n  -> use a folder, or postgresql\+psycopg://"
    with pytest.raises(StoreError, match=said) as told:
        Ledger.open(f"{kind}://me:secret@host/runs")
    assert "secret" not in str(told.value)


def test_a_url_that_cannot_be_read_is_refused():
    with pytest.raises(StoreError, match="a ledger cannot be kept in postgresql://"):
        Ledger.open("postgresql://host:port/runs")


def test_a_missing_driver_is_named_with_the_command_that_installs_it():
    with (
        pytest.raises(StoreError, match=r"the driver psycopg is not installed\n  -> pip install 'psycopg\[binary\]'"),
        failures("db"),
    ):
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")


def test_a_home_that_cannot_be_a_folder_is_told_with_its_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        StoreError,
        match=r"file/home/ledger\.db: cannot be used: Not a directory\n  -> make the folder writable, or set home=",
    ):
        Ledger.open(tmp_path / "file" / "home")


def test_a_file_that_is_no_database_is_told_and_left_alone(home):
    home.mkdir()
    (home / "ledger.db").write_text("a shopping list, long enough to be taken for a database header " * 20)
    with pytest.raises(StoreError, match=r"not a database\n  -> this is another kind of file; move it away"):
        Ledger.open(home)
    assert (home / "ledger.db").read_text().startswith("a shopping list")


def test_a_writer_that_does_not_let_go_is_told_after_the_patience_is_over(home, row):
    with Ledger.open(home, patience=0.05) as ledger:
        other = sqlite3.connect(home / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert ledger.runs() == []  # readers go on
        with pytest.raises(StoreError, match=r"database is locked\n  -> another process has been writing for long"):
            ledger.add(row())
        other.execute("ROLLBACK")
        assert ledger.add(row()).name == "run"
        other.close()


def test_a_full_disk_is_told_and_nothing_is_half_written(home, row):
    with Ledger.open(home) as ledger:
        ledger.add(row("first"))
    full = (
        "import sys\n"
        "import sqlalchemy as sa\n"
        "from ftcluster.errors import StoreError\n"
        "from ftcluster.ledger.schema import RunRow\n"
        "from ftcluster.ledger.store import Ledger\n"
        "@sa.event.listens_for(sa.Engine, 'connect')\n"
        "def no_more_pages(connection, _):\n"
        "    connection.execute('PRAGMA max_page_count = 1')\n"  # SQLite raises it to the present size
        "with Ledger.open(sys.argv[1]) as ledger:\n"
        "    try:\n"
        "        ledger.add(RunRow('second', 'train', 'f', {'text': 'x' * 100_000}))\n"
        "    except StoreError as error:\n"
        "        print(error)"
    )
    said = " ".join(in_new_process(full, home))
    assert "database or disk is full -> free some space on this disk" in said
    assert str(home / "ledger.db") in said
    with Ledger.open(home) as ledger:
        assert [run.name for run in ledger.runs()] == ["first"]


@contextmanager
def no_file_may_grow():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_refuses_to_write_is_told(home):
    with no_file_may_grow(), pytest.raises(StoreError, match=r"disk I/O error\n  -> check the disk, or set home="):
        Ledger.open(home)


def test_a_read_only_file_is_told(home):
    Ledger.open(home).close()
    engine = sa.create_engine(f"sqlite:///file:{home / 'ledger.db'}?mode=ro&uri=true")
    with (
        pytest.raises(StoreError, match=r"readonly database\n  -> make the file and its folder writable"),
        failures("db"),
        engine.begin() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM ftcluster_runs")
    engine.dispose()


def test_a_damaged_file_is_told(home):
    Ledger.open(home).close()
    file = home / "ledger.db"
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)  # the first page, with the schema, stays
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"malformed\n  -> the file is damaged; move it away"):
        Ledger.open(home)


def test_any_other_complaint_is_passed_on(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db'}")
    with (
        pytest.raises(StoreError, match=r"no such table: t\n  -> check that the database can be reached"),
        failures("db"),
        engine.begin() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM t")
    engine.dispose()


def test_a_wait_for_another_writer_is_not_forgotten(home, row):
    with Ledger.open(home) as ledger, ThreadPoolExecutor(1) as thread:
        other = sqlite3.connect(home / "ledger.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        adding = thread.submit(ledger.add, row())
        other.execute("COMMIT")
        assert adding.result(timeout=20).name == "run"
        assert time.monotonic() - begun < 20
        other.close()
