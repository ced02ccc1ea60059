"""``ftcluster`` in processes forked from one that has imported everything, so that many trainings take little time.

A training may be given a fuse: all its processes are killed when one of them is about to touch its checkpoints for the
n-th time: to make a folder, open, rename or remove a file. All but that is the real command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

_IMPORTED = (
    "ftcluster.cli.data_report",
    "ftcluster.demo.world",
    "ftcluster.tracking.projector",
    "ftcluster.training.launch",
    "mlflow",
    "peft",
    "transformers.models.qwen2.modeling_qwen2",
)
_TOUCHING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


class Trainings:
    """Runs one after another."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def run(self, words: Sequence[str], log: Path, *, fuse: int = 0) -> int:
        """The exit code of ``ftcluster WORDS``, negative for a signal; its output goes to ``log``."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([list(words), str(log), fuse]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


@contextmanager
def forked_trainings() -> Iterator[Trainings]:
    """What was started ends with the block."""
    words = [sys.executable, __file__]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Trainings(server)


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


def serve() -> None:
    for module in _IMPORTED:
        import_module(module)
    from ftcluster.cli import main

    for line in sys.stdin:
        words, log, fuse = json.loads(line)
        child = os.fork()
        if child == 0:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.setsid()
            if fuse:
                light(fuse, os.getpid())
                given = {"FTCLUSTER_TEST_FUSE": str(fuse), "FTCLUSTER_TEST_STARTER": str(os.getpid())}
                os.environ.update(given, PYTHONPATH=str(Path(__file__).with_name("fuse")))
            code = main(words)
            sys.stdout.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
