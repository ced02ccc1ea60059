"""Runs one function over many items on all cores, results in the order of the items.

    parent:  items -> [at most a window of them under way] -> results in order
    worker:  made once: the function (with its tokenizer), then called item by item

Workers are started by spawning: a fork of a process whose libraries run threads may hang. That costs each of them
the import of its libraries, so few items are worked on in this process. A worker ends with its parent, however that
ends, and one that dies is an error here. Owns no data.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from ftcluster.config.environment import tokenise_on_one_thread
from ftcluster.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
_LOOK = 1.0  # seconds between looks at workers, while a result is waited for
_MOST = 32  # workers; what is under way in all of them has to fit into the parent's memory


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew(Generic[Item, Result]):
    """The function, and the workers that call it; none of them: it is called here."""

    def __init__(self, make: Callable[[], Callable[[Item], Result]], executor: ProcessPoolExecutor | None, window: int):
        self._make = make
        self._here: Callable[[Item], Result] | None = None
        self._executor = executor
        self._window = window

    def map(self, items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
        """Each item with its result; an item is taken from ``items`` shortly before its work begins.

        Raises:
            DataError: a worker died. What the function raises is raised here.
        """
        if self._executor is None:
            self._here = self._here or self._make()
            yield from ((item, self._here(item)) for item in items)
            return
        under_way: deque[tuple[Item, Future[Any]]] = deque()
        try:
            for item in items:
                under_way.append((item, _submit(self._executor, item)))
                if len(under_way) >= self._window:
                    yield _finished(self._executor, *under_way.popleft())
            while under_way:
                yield _finished(self._executor, *under_way.popleft())
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process was killed, perhaps because memory ran out",
                where="data",
                remedy="look at the free memory and start again; nothing half-prepared is left behind",
            ) from error


@contextmanager
def crew(make: Callable[[], Callable[[Item], Result]], workers: int) -> Iterator[Crew[Item, Result]]:
    """Workers that each call ``make`` once, which must be picklable; fewer than two: everything happens here."""
    count = min(workers, _MOST)
    if count < 2:
        yield Crew(make, None, 1)
        return
    context = multiprocessing.get_context("spawn")
    made_of: Any = context.Queue()  # an argument as large as a tokenizer would hold up the start of the next worker
    for _ in range(count):
        made_of.put(make)
    executor = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(made_of,))
    try:
        yield Crew(make, executor, count + 4)
    finally:
        _see_to_the_dead(executor)
        executor.shutdown(wait=True, cancel_futures=True)
        made_of.close()
        made_of.cancel_join_thread()  # nobody may have come for some


def _finished(executor: ProcessPoolExecutor, item: Item, future: Future[Any]) -> tuple[Item, Any]:
    while not wait([future], timeout=_LOOK).done:
        _see_to_the_dead(executor)
    return item, future.result()


def _see_to_the_dead(executor: ProcessPoolExecutor) -> None:
    """Break a pool that has lost a worker, if it does not by itself.

    A worker that is killed while it hands in a result takes the lock for this with it, and leaves half a result, of
    which the pool waits for the rest for ever, since it could itself still write it. Without writers it is told.
    """
    workers = list((executor._processes or {}).values())
    if all(worker.is_alive() for worker in workers):
        return
    for worker in workers:
        worker.kill()
    executor._result_queue._writer.close()  # type: ignore[attr-defined]


def _submit(executor: ProcessPoolExecutor, item: Any) -> Future[Any]:
    """Submit with Ctrl-C held back: a worker started meanwhile inherits that, and leaves it to the parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return executor.submit(_work, item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_function: list[Callable[[Any], Any]] = []  # a worker's, made with its first item so that errors reach the parent
_made_of: list[Any] = []


def _begin(made_of: Any) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    tokenise_on_one_thread()
    _made_of.append(made_of)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(item: Any) -> Any:
    if not _function:
        _function.append(_made_of[0].get()())
    return _function[0](item)
