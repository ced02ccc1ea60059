"""Who was champion before: the history of an alias, and why a crash cannot make it lie.

Pure: owns the order of writes as data, talks to nobody (``store`` does). An alias and its history are two
records of MLflow that cannot be written together. So the alias, one row replaced in one transaction, is the
truth, and the history is read in its light:

    written    [1, 2, 3]     the alias points at 2
    read       [1, 2]        what lies behind the alias's version was about to happen, or was rolled back

A promotion writes ``read + [new]`` and then moves the alias; a rollback writes ``read`` and then moves the alias
one back. Killed between the two writes, the alias still stands where it stood and the history still reads the
same. The last occurrence of the alias's version counts, so a version may be champion more than once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

LONGEST = 200  # champions remembered; MLflow keeps 100,000 characters of a tag


def read_history(written: Sequence[str], current: str | None) -> list[str]:
    """The champions up to and including ``current``.

    Where the alias points at a version that was never written, somebody moved it by other means: who
    preceded it is not known.
    """
    if current is None:
        return []
    for end in range(len(written), 0, -1):
        if written[end - 1] == current:
            return list(written[:end])
    return [current]


def after_promotion(history: Sequence[str], version: str) -> list[str]:
    """What to write before the alias moves to ``version``; a champion does not follow itself."""
    return [*history, version][-LONGEST:] if list(history[-1:]) != [version] else list(history)


def encode_history(history: Sequence[str]) -> str:
    """As the text of a tag."""
    return json.dumps(list(history))


def decode_history(text: str | None) -> list[str]:
    """From the text of a tag; a missing or damaged one is an empty history."""
    try:
        versions = json.loads(text or "[]")
    except ValueError:
        return []
    return [str(version) for version in versions] if isinstance(versions, list) else []
