"""What a trial's loop asks of its engine, as values: carried out alone, or together with what other trials ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import Engine

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """What came of a request: a micro-batch's ``LossSums``, an update's gradient norm before clipping."""

    value: Any
    seconds: float  # of the work, or this trial's share of work that several shared


@dataclass(frozen=True)
class MicroBatch:
    """A forward and backward pass; its share of a shared one is that of its tokens."""

    engine: Engine
    slot: int
    batch: Batch
    normaliser: float  # weight of the trial's whole global batch
    clock: tuple[int, int]  # step, micro-batch


@dataclass(frozen=True)
class Update:
    """An optimizer step."""

    engine: Engine
    slot: int
    lr: float


Request = MicroBatch | Update
Work = Generator[Request, Any, Result]  # yields requests, is sent their answers, returns a result


def alone(work: Work[Result], clock: Callable[[], float] = time.perf_counter) -> Result:
    """Carry out a trial's requests one by one, to its end; what goes wrong in one is raised where it was asked."""
    answer: Any = None
    failed: BaseException | None = None
    while True:
        try:
            request = work.throw(failed) if failed else work.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result
        try:
            answer, failed = carry_out([request], clock)[0], None
        except BaseException as error:  # Ctrl-C too: the loop has to close what it holds
            failed = error


def carry_out(requests: Sequence[Request], clock: Callable[[], float] = time.perf_counter) -> list[Answer]:
    """Requests of different trials on one engine: all micro-batches in one pass, all updates in one step."""
    micros = [request for request in requests if isinstance(request, MicroBatch)]
    updates = [request for request in requests if isinstance(request, Update)]
    answers: dict[int, Answer] = {}
    if micros:
        started = clock()
        sums = micros[0].engine.forward_backward(
            micros[0].batch if len(micros) == 1 else Batch.joined([micro.batch for micro in micros]),
            {micro.slot: micro.normaliser for micro in micros},
            {micro.slot: micro.clock for micro in micros},
        )
        seconds, tokens = clock() - started, sum(len(micro.batch.tokens_T) for micro in micros)
        for micro in micros:
            answers[micro.slot] = Answer(sums[micro.slot], seconds * len(micro.batch.tokens_T) / tokens)
    if updates:
        started = clock()
        norms = updates[0].engine.step_many({update.slot: update.lr for update in updates})
        seconds = clock() - started
        answers |= {update.slot: Answer(norms[update.slot], seconds / len(updates)) for update in updates}
    return [answers[request.slot] for request in requests]
