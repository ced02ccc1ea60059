"""Ways for ``ftcluster`` to die at a chosen point, so that no test depends on timing; all else is the real command.

Each is what ``programs.start`` has the process do before: ``before=("deaths", "die_at", ["KILL", "checkpoint", 2])``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_TOUCHING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
_SIGNALS = {
    "KILL": (signal.SIGKILL, 1),
    "INT": (signal.SIGINT, 1),
    "INT2": (signal.SIGINT, 2),
    "TERM": (signal.SIGTERM, 1),
}


def die_at(what: str, point: str, count: int) -> None:
    """Have this process signal itself when the ``count``-th call of a point is about to be made."""
    places, name = _points()[point]
    for place in places:
        _signal_at(place, name, count, *_SIGNALS[what])


def burn(fuse: int) -> None:
    """Have this process and all below it be killed when one of them touches its checkpoints for the n-th time.

    To touch is to make a folder, or to open, rename or remove a file. Ranks read of it in their variables.
    """
    here = str(Path(__file__).with_name("fuse"))
    os.environ.update(FTCLUSTER_TEST_FUSE=str(fuse), FTCLUSTER_TEST_STARTER=str(os.getpid()), PYTHONPATH=here)
    light(fuse, os.getpid())


def light(fuse: int, starter: int) -> None:
    """Have all processes below ``starter`` die at this one's ``fuse``-th touch; nothing can take this back."""
    import psutil

    touched = 0

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touched
        if event not in _TOUCHING or not isinstance(arguments[0], str) or "/checkpoints/" not in arguments[0]:
            return
        touched += 1
        if touched == fuse:
            doomed = psutil.Process(starter)
            others = [each for each in (doomed, *doomed.children(recursive=True)) if each.pid != os.getpid()]
            for other in others:
                with suppress(psutil.NoSuchProcess):
                    other.kill()
            os.kill(os.getpid(), 9)

    sys.addaudithook(look)


def die_at_write(count: int, when: str) -> None:
    """Have this process kill itself ``before`` or ``after`` its ``count``-th transaction that changes a ledger."""
    from sqlalchemy import Connection, Engine, event

    written, fatal = 0, False

    def executes(connection: Connection, _: object, statement: str, *__: object) -> None:
        if statement.startswith(("INSERT INTO ftcluster", "UPDATE ftcluster", "DELETE FROM ftcluster")):
            connection.info["changed"] = True

    def commits(connection: Connection) -> None:
        nonlocal written, fatal
        written += connection.info.pop("changed", False)
        fatal = written >= count
        if fatal and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)

    def gives_back(*_: object) -> None:
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", executes)
    event.listen(Engine, "commit", commits)
    event.listen(Engine, "checkin", gives_back)


def _points() -> dict[str, tuple[tuple[Any, ...], str]]:
    from ftcluster.engine import checkpoint
    from ftcluster.engine.local import LocalEngine
    from ftcluster.engine.packed.engine import PackedEngine
    from ftcluster.ledger.store import Ledger
    from ftcluster.tracking.spool import SpoolTracker
    from ftcluster.training.session import Session

    engines = (PackedEngine, LocalEngine)  # a training uses one of them
    return {
        "optimizer step": (engines, "step_many"),
        "held-out loss": (engines, "evaluate"),
        "metrics of a step": ((SpoolTracker,), "metrics"),
        "checkpoint": ((checkpoint.Commits,), "begin"),
        "manifest of a checkpoint": ((checkpoint,), "_write_manifest"),
        "just after a checkpoint": ((checkpoint,), "collect"),
        "export": ((Session,), "_export"),
        "publishing the result": ((checkpoint,), "publish"),
        "telling the ledger the end": ((Ledger,), "record"),
    }


def _signal_at(place: Any, name: str, count: int, number: signal.Signals, times: int) -> None:
    original: Callable[..., Any] = getattr(place, name)
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            for _ in range(times):
                if number is signal.SIGKILL:
                    os.kill(os.getpid(), number)
                signal.raise_signal(number)
        return original(*arguments, **named)

    setattr(place, name, counted)
