"""``ftcluster`` whose passes may take no more than MIB MiB, from the COUNT-th of them on.

    python short_of_memory.py COUNT MIB -- words of the command line
    python short_of_memory.py COUNT MIB --on-ranks [--mute] -- words of the command line

The second is short of memory on ranks 1 and up only. ``--mute``: they leave without rank 0 hearing why, as it does
with NCCL, where it would wait on its GPU.

All else is the real command. What a pass meets is a real refusal of the kernel: the process lowers its own limit while
the pass is computed, and only then, since other threads would meet it too.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.sharded.notes import Notes
from ftcluster.training import companions

LIMIT, MUTE = "TEST_LIMIT_OF_RANKS", "TEST_MUTE_RANKS"  # what ranks are told by their environment


@contextmanager
def limited(beyond: int) -> Iterator[None]:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(line.split()[1]) + beyond, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def limit_passes(engine: Any, first: int, beyond: int) -> None:
    original = engine.forward_backward
    passes = 0

    def pass_within(*arguments: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes < first:
            return original(*arguments)
        with limited(beyond):
            return original(*arguments)

    engine.forward_backward = pass_within


def command() -> int:
    import mlflow  # noqa: F401 - later it would be imported beside a pass

    from ftcluster.cli import main

    split = sys.argv.index("--")
    (first, mib, *options), words = sys.argv[1:split], sys.argv[split + 1 :]
    if "--on-ranks" in options:
        os.environ |= {
            LIMIT: f"{first} {mib}",
            MUTE: str("--mute" in options),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        companions.__name__ = Path(__file__).stem  # the module that ranks are started with: this one
    else:
        for engine in (LocalEngine, PackedEngine):  # a training uses one of them
            limit_passes(engine, int(first), int(mib) << 20)
    return main(words)


def rank() -> None:
    first, mib = os.environ[LIMIT].split()
    limit_passes(LocalEngine, int(first), int(mib) << 20)
    if os.environ[MUTE] == "True":
        Notes.fail = lambda self, error: {"rank": self._rank, "kind": type(error).__name__, "text": ""}  # type: ignore
    companions.main()


if __name__ == "__main__":
    if LIMIT in os.environ:
        rank()
    else:
        sys.exit(command())
