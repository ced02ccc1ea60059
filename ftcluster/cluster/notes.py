"""Notes that processes connected to one Ray cluster leave for each other, kept by the cluster itself.

A note counts as long as its owner goes on renewing it. Whether it does, each reader tells by its own clock from the
changes it sees, so clocks of machines need not agree, and nothing has to be cleared after a process that was killed:
whoever has not seen it change for long enough removes it. Owns no meaning of what is noted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_SPACE = b"ftcluster"
_ANSWER = 5.0  # seconds for the cluster's head
_ALIVE = 20.0  # seconds without a change after which a note does not count
_GONE = 120.0  # and after which it is removed
_BEAT = "beat"


class Notes:
    """Those about one topic, one of them this process's own under ``key``."""

    def __init__(self, topic: str, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._topic, self.key, self._clock = f"{topic}/", key, clock
        self._beat = 0
        self._seen: dict[str, tuple[bytes, float]] = {}  # the newest of each, and when it was new

    def exchange(self, mine: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Renew this process's note; all that count, by their keys, this one among them.

        Raises:
            TimeoutError: the cluster's head does not answer.
        """
        self._beat += 1
        with _asking() as head:
            note = json.dumps({**mine, _BEAT: self._beat}).encode()
            head.internal_kv_put(f"{self._topic}{self.key}".encode(), note, True, _SPACE, _ANSWER)
            return {key: _read(note) for key, note in _all(head, self._topic).items() if self._counts(head, key, note)}

    def _counts(self, head: Any, key: str, note: bytes) -> bool:
        now = self._clock()
        before, since = self._seen.get(key, (b"", now))
        if before != note:
            before, since = self._seen[key] = (note, now)
        if now - since > _GONE:
            head.internal_kv_del(f"{self._topic}{key}".encode(), False, _SPACE, _ANSWER)
        return now - since <= _ALIVE

    def leave(self) -> None:
        """Take this process's note back.

        Raises:
            TimeoutError: the cluster's head does not answer.
        """
        with _asking() as head:
            head.internal_kv_del(f"{self._topic}{self.key}".encode(), False, _SPACE, _ANSWER)


def renewed(topic: str, within: float) -> dict[str, dict[str, Any]]:
    """The notes about a topic that change within so many seconds, by their keys; nobody waits where there are none.

    Raises:
        TimeoutError: the cluster's head does not answer.
    """
    with _asking() as head:
        before = _all(head, f"{topic}/")
        if before:
            time.sleep(within)
        return {key: _read(note) for key, note in _all(head, f"{topic}/").items() if before.get(key) != note}


@contextmanager
def _asking() -> Iterator[Any]:
    """The head of the connected cluster."""
    import ray
    from ray._private.worker import global_worker
    from ray.util.client import ray as client

    if client.is_connected():
        raise TimeoutError("nothing is known of notes through a Ray client")
    try:
        yield global_worker.gcs_client
    except ray.exceptions.RayError as error:
        raise TimeoutError(str(error)) from error


def _all(head: Any, topic: str) -> dict[str, bytes]:
    found = {}
    for key in head.internal_kv_keys(topic.encode(), _SPACE, _ANSWER):
        if (note := head.internal_kv_get(key, _SPACE, _ANSWER)) is not None:
            found[key.decode().removeprefix(topic)] = note
    return found


def _read(note: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(note)
    del found[_BEAT]
    return found
