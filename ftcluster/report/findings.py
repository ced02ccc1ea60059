"""What a report says, as values: nothing here reads a file or draws anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcluster.comparison.findings import Comparison, Contender, Curve
from ftcluster.contracts.trial import RunState
from ftcluster.report.influence import Influence
from ftcluster.sweep.prediction import Prediction
from ftcluster.sweep.spending import Spent
from ftcluster.sweep.timeline import Span

PAGE = "report.html"  # in the sweep's folder


@dataclass(frozen=True)
class Setting:
    """Trials that differ in their seed alone, and their mean at the last step they have in common."""

    parameters: Mapping[str, Any]  # without the seed
    trials: tuple[Contender, ...]  # by number
    judged: tuple[Contender, ...]  # those that got furthest, whose values are meant here
    mean: float | None
    low: float | None = None  # of the mean's 95 % interval, where there are several values
    high: float | None = None

    @property
    def name(self) -> str:
        return self.trials[0].name


@dataclass(frozen=True)
class Rung:
    """What the trials are compared at: the last step at which all that ever reported have a value."""

    step: int  # of most of them
    values: Mapping[str, float]  # by trial, finite ones


@dataclass(frozen=True)
class Host:
    """A host, from its first trial to its last. Times are unix seconds."""

    name: str
    ranks: int
    gpus: float  # of all its ranks
    began: float
    ended: float
    busy: float  # seconds in which it had a trial


@dataclass(frozen=True)
class Usage:
    """What the sweep took of the cluster; without a timeline everything is 0."""

    spans: tuple[Span, ...] = ()
    hosts: tuple[Host, ...] = ()
    most: int = 0  # hosts at once
    available: float = 0.0  # host-seconds: as many hosts as ever were at once, from the first trial to the last
    price: float = 0.0  # of a GPU-hour, or of a rank's hour on hosts without GPUs; 0: not known
    spent: Spent = field(
        default_factory=Spent
    )  # what the driver counted, also while hosts had nothing to do; where a budget asks for it

    @property
    def busy(self) -> float:
        return sum(host.busy for host in self.hosts)

    @property
    def utilisation(self) -> float | None:
        return self.busy / self.available if self.available else None

    @property
    def host_hours(self) -> float:
        return sum(host.ended - host.began for host in self.hosts) / 3600

    @property
    def gpu_hours(self) -> float:
        held = sum((host.ended - host.began) * host.gpus for host in self.hosts) / 3600
        return self.spent.gpu_hours or held

    @property
    def money(self) -> float | None:
        if self.spent.money:
            return self.spent.money
        ranks = sum((host.ended - host.began) * host.ranks for host in self.hosts) / 3600
        return (self.gpu_hours or ranks) * self.price if self.price else None


@dataclass(frozen=True)
class Foretold:
    """What was foretold of a sweep that has ended, and what it took, counted in the same way."""

    prediction: Prediction
    seconds: float
    host_hours: float
    disk: int  # bytes


@dataclass(frozen=True)
class Alike:
    """Trials that ended for one reason; ``reason`` is what the first of them was told."""

    reason: str
    trials: tuple[str, ...]


@dataclass(frozen=True)
class SweepReport:
    """``comparison`` has the trials in order; nothing in it was measured on test rows."""

    comparison: Comparison
    state: RunState
    reason: str
    settings: tuple[Setting, ...]  # in order
    rung: Rung
    influence: Influence
    tokens: Mapping[str, Curve]  # (tokens read, metric) at each rung, by trial; empty where steps say the same
    pruned: tuple[Alike, ...]
    failed: tuple[Alike, ...]
    steps: int  # trained by all trials together
    steps_whole: int  # without early stopping; 0: not known
    usage: Usage
    keys: tuple[str, ...]  # of the parameters whose effect is asked for: neither seed nor name
    also: Mapping[str, str]  # further objectives -> minimize | maximize
    foretold: Foretold | None = None

    @property
    def title(self) -> str:
        return self.comparison.title

    @property
    def repeated(self) -> bool:
        """Whether any setting was trained with more than one seed."""
        return any(len(setting.trials) > 1 for setting in self.settings)

    def count(self, *states: RunState) -> int:
        return sum(contender.state in states for contender in self.comparison.contenders)
