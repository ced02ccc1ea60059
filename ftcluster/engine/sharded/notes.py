"""What ranks that leave a group tell one another, in the store where they met: it outlives the group's connections.

A rank that failed notes why, before it leaves; the first such note counts. A rank whose collective failed because
another one is gone or does not come notes where it waited. Whoever has noted nothing is the one that is missing.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftcluster.errors import first_line

_FAILURE = "failure"
_WAITED = "waited-{}"
_PATIENCE = 2.0  # seconds for the others to note something: all that wait are told of the end at once
_PAUSE = 0.05


@dataclass
class Heard:
    """The first rank's failure, if any failed; where each rank waited that did, and whether one did so too long.

    A rank that gives up closes its connections, which is all that those who wait for it see.
    """

    failure: Mapping[str, Any] | None = None
    waited: dict[int, str] = field(default_factory=dict)
    too_long: bool = False

    def silent(self, size: int) -> list[int]:
        """Ranks of whom nothing was heard."""
        return [rank for rank in range(size) if rank not in self.waited]


class Notes:
    """One rank's way to read and write them. The store may be gone, or stopped, with rank 0: no call waits for it."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size

    def fail(self, error: Exception) -> Mapping[str, Any]:
        """Note this rank's failure, unless another rank was first; the failure that counts."""
        mine = {"rank": self._rank, "kind": type(error).__name__, "text": first_line(error)}
        heard = Heard(failure=mine)

        def note() -> None:
            heard.failure = json.loads(self._store.compare_set(_FAILURE, "", json.dumps(mine)))

        _in_time(note)
        return heard.failure or mine

    def wait_in_vain(self, where: str, *, too_long: bool, listen: bool) -> Heard:
        """Note where this rank waited; what the others noted, who get a few seconds to do so with ``listen``."""
        heard = Heard(waited={self._rank: where}, too_long=too_long)

        def talk() -> None:
            self._store.set(_WAITED.format(self._rank), json.dumps([where, too_long]))
            deadline = time.monotonic() + (_PATIENCE if listen else 0.0)
            while not self._hear(heard) and time.monotonic() < deadline:
                time.sleep(_PAUSE)

        _in_time(talk)
        return heard

    def _hear(self, heard: Heard) -> bool:
        """Whether all is known."""
        if self._store.check([_FAILURE]):
            heard.failure = json.loads(self._store.get(_FAILURE))
            return True
        for rank in heard.silent(self._size):
            if self._store.check([key := _WAITED.format(rank)]):
                heard.waited[rank], too_long = json.loads(self._store.get(key))
                heard.too_long |= too_long
        return not heard.silent(self._size)


def place(error: Exception) -> str:
    """The innermost line of ours that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "ftcluster" in Path(frame.filename).parts] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "unknown"


def _in_time(talk: Any) -> None:
    def quietly() -> None:
        with suppress(RuntimeError, ValueError):  # rank 0, where the store is, is gone
            talk()

    thread = threading.Thread(target=quietly, name="notes", daemon=True)
    thread.start()
    thread.join(_PATIENCE + 2.0)
