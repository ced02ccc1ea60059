"""``ftcluster`` whose passes may take no more than MIB MiB, from the COUNT-th of them on.

    python short_of_memory.py COUNT MIB -- words of the command line

All else is the real command. What a pass meets is a real refusal of the kernel: the process lowers its own limit while
the pass is computed, and only then, since other threads would meet it too.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow  # noqa: F401 - later it would be imported beside a pass

from ftcluster.cli import main
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.packed.engine import PackedEngine


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


if __name__ == "__main__":
    for engine in (LocalEngine, PackedEngine):  # a training uses one of them
        limit_passes(engine, int(sys.argv[1]), int(sys.argv[2]) << 20)
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :]))
