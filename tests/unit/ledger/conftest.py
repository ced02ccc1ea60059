"""A ledger in a fresh folder, and rows to put in."""

import itertools

import pytest

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


@pytest.fixture
def row():
    def make(name="run", kind="train", **fields):
        return RunRow(name=name, kind=kind, folder=f"runs/{name}", config={"seed": 17}, **fields)

    return make
