"""``ftcluster`` in processes forked from one that has imported everything, so that many of them take little time.

Each is a process and a session of its own with the words, variables, folder and output that it is given; from there on
it runs what the command runs. What to do in it before, ``before``, is a function of a module beside the tests.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

_IMPORTED = (
    "ftcluster.cli.data_report",
    "ftcluster.cli.sweep",
    "ftcluster.demo.world",
    "ftcluster.report.write",
    "ftcluster.sweep.driver",
    "ftcluster.tracking.projector",
    "ftcluster.training.launch",
    "mlflow.store.tracking.sqlalchemy_store",
    "peft",
    "transformers.models.qwen2.modeling_qwen2",
)
_LARGEST = 1 << 17  # bytes of a request


class Program:
    """One of them: what ``subprocess.Popen`` tells of a process."""

    def __init__(self, status: int) -> None:
        self._status = os.fdopen(status)
        self.returncode: int | None = None
        self.pid = int(self._status.readline())
        _running.append(self)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("ftcluster", timeout or 0.0)
        return code

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_running: list[Program] = []


def end_all() -> None:
    """Kill what still runs; a test that failed may have left something."""
    while _running:
        program = _running.pop()
        program.kill()
        program.wait()


Before = tuple[str, str, Sequence[object]]


def start(
    words: Sequence[str], log: Path, *, variables: Mapping[str, str] | None = None, before: Before | None = None
) -> Program:
    """``ftcluster WORDS`` in the folder of ``log``, which takes what it says.

    ``before`` names a file beside this one without its ending, a function in it, and its arguments.
    """
    request = {
        "words": list(words),
        "log": str(log),
        "variables": dict(os.environ if variables is None else variables),
        "before": before,
    }
    log.write_bytes(b"")
    readable, writable = os.pipe()
    try:
        socket.send_fds(_starter(), [json.dumps(request).encode()], [writable])
    finally:
        os.close(writable)
    return Program(readable)


def finish(program: Program | subprocess.Popen[bytes], log: Path, expected: int = 0) -> str:
    """Wait for its end and return what it said."""
    code = program.wait(300)
    text = log.read_text()
    assert code == expected, text[-3000:]
    return text


def call(words: Sequence[str], log: Path, expected: int = 0) -> str:
    """``ftcluster WORDS`` from its beginning to its end; what it said."""
    return finish(start(words, log), log, expected)


def wait_for(what: Callable[[], bool], program: Program | subprocess.Popen[bytes], log: Path) -> None:
    """Until something is so, while the program runs."""
    deadline = time.monotonic() + 240
    while not what():
        assert program.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)


@cache
def _starter() -> socket.socket:
    """The way to the process that forks; it ends when this one does, or closes it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


@dataclass(frozen=True)
class _Request:
    words: list[str]
    log: str
    variables: dict[str, str]
    before: Before | None


def _serve(connection: socket.socket) -> int:
    """Fork for each request; returns in what was forked, with its exit code, and at the end."""
    for module in _IMPORTED:
        import_module(module)
    assert threading.active_count() == 1, "a process with threads must not fork"
    gc.collect()
    gc.freeze()  # what is imported is shared for good, and not copied by the first that looks for garbage
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST, 1)
        if not message:
            return 0
        if os.fork() == 0:
            connection.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _wait_for_another(_Request(**json.loads(message)), descriptors[0])
        os.close(descriptors[0])


def _wait_for_another(request: _Request, status: int) -> int:
    """The parent of what is asked for: tells its number and its exit code."""
    child = os.fork()
    if child == 0:
        os.close(status)
        return _be(request)
    os.write(status, f"{child}\n".encode())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(status, f"{code}\n".encode())
    os._exit(0)


def _be(request: _Request) -> int:
    from ftcluster.cli import main

    os.setsid()
    os.environ.clear()
    os.environ.update(request.variables)
    os.chdir(Path(request.log).parent)
    output = os.open(request.log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.argv = ["ftcluster", *request.words]
    if request.before:
        module, function, arguments = request.before
        getattr(import_module(module), function)(*arguments)
    return main(request.words)


if __name__ == "__main__":
    sys.exit(_serve(socket.socket(fileno=int(sys.argv[1]))))
