"""Work is spread over processes in order; errors come home, deaths are told, and nobody outlives the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from ftcluster.data.prepared.workers import cores, crew
from ftcluster.errors import DataError

pytestmark = pytest.mark.slow  # each starts processes


class Doing:
    """What a worker does with a number."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, number: int) -> tuple[int, int]:
        if number == -1:
            raise DataError("this row", where="a.jsonl:7", remedy="repair it")
        if number == -2:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02 * (number % 3))
        return number, os.getpid()


def make(folder: str) -> Doing:
    return Doing(folder)


def fail() -> Callable[[int], int]:
    raise DataError("no tokenizer here")


def test_results_come_in_the_order_of_the_items_from_several_processes() -> None:
    with crew(partial(make, "x"), 2) as staff:
        found = [(item, result) for item, result in staff.map(iter(range(30)))]
    assert [item for item, _ in found] == [result[0] for _, result in found] == list(range(30))
    pids = {result[1] for _, result in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


class Dying:
    """Is killed so many seconds after it began to make, and then to hand in, a result that takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, number: int) -> bytes:
        if number == 0:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return bytes(200_000_000 if number == 0 else 1)


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.2, 0.3])
def test_a_worker_killed_while_it_hands_in_its_result_is_told_too(seconds: float) -> None:
    with pytest.raises(DataError, match="a worker process was killed"), crew(partial(Dying, seconds), 2) as staff:
        for _ in staff.map(range(1_000_000)):
            pass


def test_one_worker_is_this_process() -> None:
    with crew(partial(make, "x"), 1) as staff:
        assert [result for _, result in staff.map([3, 4])] == [(3, os.getpid()), (4, os.getpid())]


def test_items_are_taken_only_shortly_before_their_work_begins() -> None:
    taken: list[int] = []

    def items() -> object:
        for number in range(100):
            taken.append(number)
            yield number

    with crew(partial(make, "x"), 2) as staff:
        next(staff.map(items()))  # type: ignore[arg-type]
        assert len(taken) <= 8


def test_an_error_of_a_worker_is_raised_here_as_it_is() -> None:
    with crew(partial(make, "x"), 2) as staff, pytest.raises(DataError, match=r"a\.jsonl:7: this row") as caught:
        list(staff.map([1, -1, 2]))
    assert caught.value.remedy == "repair it"


def test_a_worker_that_cannot_begin_says_why() -> None:
    with crew(fail, 2) as staff, pytest.raises(DataError, match="no tokenizer here"):
        list(staff.map([1]))


def test_a_worker_that_is_killed_is_a_clear_error() -> None:
    with crew(partial(make, "x"), 2) as staff, pytest.raises(DataError, match="a worker process was killed") as caught:
        list(staff.map([1, 2, -2, 4, 5]))
    assert "free memory" in caught.value.remedy


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "from functools import partial\n"
        "from ftcluster.data.prepared.workers import crew\n"
        "def work(n):\n    import time, os; os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)\n"
        "def make():\n    return work\n"
        "if __name__ == '__main__':\n"
        "    with crew(make, 2) as staff:\n        list(staff.map([1, 2]))\n"
    )
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(psutil.pid_exists(pid) for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_ctrl_c_is_the_parents_business(tmp_path: Path) -> None:
    """A terminal sends it to every process of the group; workers must not print tracebacks of their own."""
    program = tmp_path / "parent.py"
    program.write_text(
        "from ftcluster.data.prepared.workers import crew\n"
        "def work(n):\n    import time, os; os.write(1, b'working\\n'); time.sleep(0.5); return n\n"
        "def make():\n    return work\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        with crew(make, 2) as staff:\n            list(staff.map(range(100)))\n"
        "    except KeyboardInterrupt:\n        print('stopped', flush=True)\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, str(program)], stdout=pipe, stderr=pipe, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"working\n"
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=30)
    assert out.endswith(b"stopped\n")
    assert err == b""


def test_as_many_workers_as_there_are_cores_to_use() -> None:
    assert cores() == len(os.sched_getaffinity(0))
