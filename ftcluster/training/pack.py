"""Trials that train together: their loops run side by side, what they ask is carried out in shared passes.

    turn:  every trial has one request open -> updates first, in one step -> micro-batches, packed into passes of at
           most ``budget`` tokens -> answers -> every loop runs on to its next request, or ends

A trial has one request open at a time, so a pass never holds two optimizer steps of one trial. What goes wrong inside
a loop ends that loop alone, with the exception as its result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ftcluster.engine.shortage import StepUndone, is_shortage, let_go
from ftcluster.errors import TrialError
from ftcluster.training.requests import MicroBatch, Request, Update, Work, carry_out

Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")


@dataclass
class _Member(Generic[Name, Result]):
    name: Name
    work: Work[Result]
    request: Request


class Pack(Generic[Name, Result]):
    """Loops that may share passes, of at most ``budget`` tokens in a lane; a larger micro-batch has its lane alone."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._members: list[_Member[Name, Result]] = []

    def __len__(self) -> int:
        return len(self._members)

    def add(self, name: Name, work: Work[Result]) -> Result | Exception | None:
        """Let a loop run to its first request; its result, if it ends without one."""
        try:
            self._members.append(_Member(name, work, next(work)))
        except StopIteration as end:
            result: Result = end.value
            return result
        except Exception as error:
            return error
        return None

    def turn(self) -> Iterator[tuple[Name, Result | Exception]]:
        """Carry out what every loop asks for; yields the loops that ended, with their results."""
        answers: list[tuple[_Member[Name, Result], Any]] = []
        for group in self._groups():
            answers += zip(group, self._carried_out([member.request for member in group]), strict=True)
        for member, answer in answers:
            ended: Result | Exception
            try:
                if isinstance(answer, Exception):
                    member.request = member.work.throw(answer)
                else:
                    member.request = member.work.send(answer)
                continue
            except StopIteration as end:
                ended = end.value
            except Exception as error:
                ended = error
            self._members.remove(member)
            yield member.name, ended

    def _groups(self) -> Iterator[list[_Member[Name, Result]]]:
        """Members whose requests are carried out together."""
        engines = {id(member.request.engine): member.request.engine for member in self._members}
        for engine in engines.values():
            mine = [member for member in self._members if member.request.engine is engine]
            if updates := [member for member in mine if isinstance(member.request, Update)]:
                yield updates
            group: list[_Member[Name, Result]] = []
            held: Counter[int] = Counter()
            for member in mine:
                if isinstance(member.request, MicroBatch):
                    lane, size = engine.lanes.get(member.request.slot, 0), len(member.request.batch.tokens_T)
                    if held[lane] and held[lane] + size > self._budget:
                        yield group
                        group, held = [], Counter()
                    group.append(member)
                    held[lane] += size
            if group:
                yield group

    def _carried_out(self, requests: Sequence[Request]) -> list[Any]:
        """An answer or an exception for each; a shared pass that changed nothing is tried again trial by trial."""
        try:
            return list(carry_out(requests))
        except TrialError as error:
            self._ended_badly(requests, error)
            return [error for _ in requests]
        except Exception as error:
            self._ended_badly(requests, error)
            if len(requests) == 1:
                return [error]
        return [answer for request in requests for answer in self._carried_out([request])]

    def _ended_badly(self, requests: Sequence[Request], error: Exception) -> None:
        """Let go of what the error holds; after a shared pass without enough memory, those that follow are smaller."""
        let_go(error)
        tokens = sum(len(request.batch.tokens_T) for request in requests if isinstance(request, MicroBatch))
        if len(requests) > 1 and (isinstance(error, StepUndone) or is_shortage(error)):
            self._budget = min(self._budget, tokens // 2)
