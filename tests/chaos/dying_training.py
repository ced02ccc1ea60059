"""``ftcluster`` with a signal that it sends itself at a chosen point; everything else is the real command.

    python dying_training.py KILL|INT|INT2 "POINT" COUNT -- words of the command line

The signal comes when the COUNT-th call of the point is about to be made, so no test depends on timing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ftcluster.cli import main
from ftcluster.engine import checkpoint
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.session import Session

ENGINES = (PackedEngine, LocalEngine)  # a training uses one of them
POINTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "optimizer step": (ENGINES, "step_many"),
    "held-out loss": (ENGINES, "evaluate"),
    "metrics of a step": ((SpoolTracker,), "metrics"),
    "checkpoint": ((checkpoint,), "commit"),
    "manifest of a checkpoint": ((checkpoint,), "_write_manifest"),
    "just after a checkpoint": ((checkpoint,), "collect"),
    "export": ((Session,), "_export"),
    "publishing the result": ((checkpoint,), "publish"),
    "telling the ledger the end": ((Ledger,), "record"),
}
SIGNALS: dict[str, tuple[signal.Signals, int]] = {
    "KILL": (signal.SIGKILL, 1),
    "INT": (signal.SIGINT, 1),
    "INT2": (signal.SIGINT, 2),
}


def die_at(place: Any, name: str, count: int, number: signal.Signals, times: int) -> None:
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


if __name__ == "__main__":
    what, point, count = sys.argv[1:4]
    places, name = POINTS[point]
    for place in places:
        die_at(place, name, int(count), *SIGNALS[what])
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :]))
