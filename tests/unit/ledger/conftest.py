"""A ledger in a fresh folder or database, and rows to put in."""

import itertools

import pytest
from postgres_server import new_database, running_postgres

from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def ledger(home):
    """Its clock ticks one second per reading, from 1000."""
    ticks = itertools.count(1000)
    with Ledger.open(home, clock=lambda: float(next(ticks))) as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres():
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def either(request, tmp_path):
    """Where a ledger is to be: a home, or a database of its own."""
    if request.param == "sqlite":
        return tmp_path / "home"
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def row():
    def make(name="run", kind="train", **fields):
        return RunRow(name=name, kind=kind, folder=f"runs/{name}", config={"seed": 17}, **fields)

    return make
