"""From a sweep that was played through several times to what it takes: time with its range, GPU-hours, money."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ftcluster.config.schema import BudgetConfig
from ftcluster.sweep.forecast.probe import Timing
from ftcluster.sweep.forecast.simulation import Played

_ERROR = 0.1  # of a timing, at least
_HOUR = 3600.0


@dataclass(frozen=True)
class Expected:
    """What a sweep takes, with the times as they were measured; ``seconds`` from its start to its end."""

    seconds: float
    low: float
    high: float
    first_report: float
    hosts: int  # at once
    utilisation: float
    host_hours: float  # that hosts are up
    gpu_hours: float
    money: float | None  # None: there is no price
    ended_by: str = ""  # the budget that ends it, if one does


def expect(
    played: Sequence[Played], budget: BudgetConfig, price: float, joining: float, errors: tuple[float, float]
) -> Expected:
    """``played`` from the shortest to the longest, of which the middle one is told; ``price`` of a GPU or rank hour.

    ``joining`` seconds pass before the first host starts, and times may be off by the factors ``errors``.
    """
    middle = played[len(played) // 2]

    def hours(until: float) -> float:
        return (until + joining) / _HOUR

    def gpu_hours(until: float) -> float:
        return sum(shape.resources.gpus * shape.resources.ranks * held for shape, held in middle.held(until)) / _HOUR

    def money(until: float) -> float:
        held = ((shape.resources, seconds) for shape, seconds in middle.held(until))
        return sum((each.gpus or 1.0) * each.ranks * price * seconds for each, seconds in held) / _HOUR

    limits = {
        "budget.hours": (budget.hours, hours),
        "budget.gpu_hours": (budget.gpu_hours, gpu_hours),
        "budget.money": (budget.money, money),
    }
    ends = {name: moment(spent, limit, middle.seconds) for name, (limit, spent) in limits.items() if limit}
    first = min(ends, key=lambda name: ends[name], default="")
    cut = bool(first) and ends[first] < middle.seconds
    until = ends[first] if cut else middle.seconds
    return Expected(
        seconds=until + joining,
        low=min(until, played[0].seconds * errors[0]) + joining,
        high=(until if cut else played[-1].seconds * errors[1]) + joining,
        first_report=middle.first_report + joining,
        hosts=middle.most,
        utilisation=middle.utilisation,
        host_hours=sum(held for _, held in middle.held(until)) / _HOUR,
        gpu_hours=gpu_hours(until),
        money=money(until) if price else None,
        ended_by=first if cut else "",
    )


def moment(spent: Callable[[float], float], limit: float, end: float) -> float:
    """When as much is spent as may be; infinite where that is not before the end. ``spent`` grows with time."""
    if spent(end) <= limit:
        return math.inf
    low, high = 0.0, end
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) > limit else (middle, high)
    return high


def error(timings: Iterable[Timing]) -> tuple[float, float]:
    """By which factors times may be off: as far apart as hosts were when they did the same, and at least a tenth."""
    low, high = 1 - _ERROR, 1 + _ERROR
    for timing in timings:
        low, high = min(low, min(timing.steps) / timing.step), max(high, max(timing.steps) / timing.step)
    return low, high
