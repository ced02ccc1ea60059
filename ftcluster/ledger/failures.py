"""What a database says when it cannot, told with the place and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from ftcluster.errors import StoreError

_MOVE = "or set home=FOLDER to keep runs and ledger elsewhere"
_REMEDIES = {
    "disk is full": f"free some space on this disk and try again, {_MOVE}",
    "disk i/o error": f"check the disk, {_MOVE}; a network folder is not safe for SQLite",
    "readonly database": f"make the file and its folder writable, {_MOVE}",
    "unable to open": f"make the folder writable, {_MOVE}",
    "is locked": "another process has been writing for long; wait for it or end it, then try again",
    "not a database": f"this is another kind of file; move it away, {_MOVE}",
    "malformed": "the file is damaged; move it away and put back a copy",
}


@contextmanager
def failures(place: str) -> Iterator[None]:
    """Turn errors of the database, its driver or its folder into ``StoreError``s that name ``place``."""
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = f"pip install '{error.name}[binary]'" if error.name == "psycopg" else f"pip install {error.name}"
        raise StoreError(f"the driver {error.name} is not installed", where=place, remedy=remedy) from error
    except OSError as error:
        remedy = f"make the folder writable, {_MOVE}"
        raise StoreError(f"cannot be used: {error.strerror or error}", where=place, remedy=remedy) from error
    except sa.exc.DBAPIError as error:
        said = str(error.orig).strip()
        found = (remedy for sign, remedy in _REMEDIES.items() if sign in said.lower())
        remedy = next(found, "check that the database can be reached and that you may write to it")
        raise StoreError(f"the ledger cannot be used: {said}", where=place, remedy=remedy) from error
