"""A sweep before it starts: which trials fit, what a probe of each kind says, and the sweep played through with that.

What is not known beforehand is told as a range: steps were timed on few hosts, and which trials go on is made up. That
nothing fails, that nobody else uses the nodes, and that no trial is stopped by a threshold or for want of patience, is
taken for granted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from ftcluster.cluster.placement import NodeRoom
from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.config.catalog import flat
from ftcluster.config.compose import resolve_home
from ftcluster.errors import ConfigError
from ftcluster.sweep.bundles import swept_keys
from ftcluster.sweep.forecast.disk import Disk, disk_of
from ftcluster.sweep.forecast.expected import Expected, error, expect
from ftcluster.sweep.forecast.fitting import Fit, Misfit, Room, cards_of, fits_of, fitted, looked_at, misfits, room_of
from ftcluster.sweep.forecast.imagined import Imagined, Kind, Lengths, differing, imagine
from ftcluster.sweep.forecast.probe import Prober, Timing
from ftcluster.sweep.forecast.simulation import Entrant, Played, Simulation
from ftcluster.sweep.forecast.timings import Tell, Timings, timed
from ftcluster.sweep.hosts import Shape
from ftcluster.sweep.judging import Verdict, judge
from ftcluster.sweep.opening import shape_of
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.prediction import PROBE, Prediction
from ftcluster.sweep.spending import price_of
from ftcluster.training.session import Plan

_TIMES = 9  # that a sweep is played through with other made-up results, at most
_PLAYED = 5000  # trials that are played in all, so that a large sweep is played less often


@dataclass(frozen=True)
class KindForecast:
    """Trials that are alike. ``probed``: they were timed themselves, and did not borrow the times of others."""

    values: Mapping[str, Any]  # in which kinds differ
    trials: int
    need: int  # bytes on each GPU; 0: not known
    ranks: int
    places: int  # for trials on a host
    steps: int  # of a whole training
    timing: Timing
    probed: bool
    problem: str = ""


@dataclass(frozen=True)
class Forecast:
    """All of it."""

    plan: SweepPlan  # without trials that do not fit
    room: Room
    kinds: tuple[KindForecast, ...]
    misfits: tuple[Misfit, ...]
    expected: Expected
    disk: Disk
    played: Played
    start_up: float  # seconds, of the slowest kind of host
    learns: bool  # the sampler goes by results, so the trials are a sample

    @property
    def prediction(self) -> Prediction:
        """What it comes to, to be held against what happens."""
        made = self.expected
        return Prediction(PROBE, made.seconds, made.low, made.high, self.played.host_hours, self.disk.folder)


@dataclass
class Planner:
    """Makes one; ``joining`` is what it took to come to the cluster, in seconds."""

    plan: SweepPlan
    cluster: Cluster
    joining: float = 0.0
    tell: Tell = lambda *_: None
    _lengths: Lengths = field(default_factory=Lengths)
    _shapes: dict[Kind, Shape] = field(default_factory=dict)

    def forecast(self) -> Forecast:
        """Probes take some seconds for each kind of trial.

        Raises:
            ConfigError: trials that are too large are refused, or there are none.
            TrialError: no probe could be trained.
            UsageError: no host comes up.
        """
        self.tell("memory", 0, 1)
        resources = shape_of(self.cluster, self.plan.base, self._swept).resources
        cards = cards_of(resources)
        room = room_of(self.plan.base, resources, cards)
        fits = fits_of(looked_at(self.plan), self._lengths, room)
        wrong = misfits(self.plan, fits, room)
        self.plan = fitted(self.plan, wrong)
        if not (trials := imagine(self.plan)):
            raise ConfigError(["the values of no trial fit each other."], where="space", remedy="--dry-run shows it")
        fits |= fits_of(trials, self._lengths, room)
        timings = self._timed(trials, fits)
        kinds = self._kinds(trials, fits, timings)
        played = [self._played(trials, timings, seed) for seed in range(self._times)]
        played.sort(key=lambda each: each.seconds)
        budget = self.plan.spec.budget
        price = price_of(budget.price, cards[0].name if cards else "")
        expected = expect(played, budget, price, self.joining, error(timings.of.values()))
        disk = disk_of(self.plan, trials)
        learns = self.plan.spec.sampler.name not in ("grid", "random", "qmc")
        middle = played[len(played) // 2]
        return Forecast(
            self.plan, room, kinds, tuple(wrong), expected, disk, middle, max(timings.start_up.values()), learns
        )

    @property
    def _times(self) -> int:
        return max(1, min(_TIMES, _PLAYED // max(self.plan.trials, 1)))

    @cached_property
    def _swept(self) -> frozenset[str]:
        return swept_keys(self.plan.spec)

    def _shape(self, trial: Imagined) -> Shape:
        if trial.kind not in self._shapes:
            self._shapes[trial.kind] = shape_of(self.cluster, trial.config, self._swept)
        return self._shapes[trial.kind]

    @property
    def _most(self) -> int:
        return min(self.plan.trials, self.plan.base.cluster.max_trials or self.plan.trials)

    # Times ---------------------------------------------------------------------------------------------------------

    def _timed(self, trials: Sequence[Imagined], fits: Mapping[Kind, tuple[Imagined, Fit]]) -> Timings:
        """Kinds of one shape lie in the order of their memory, so that those that are not probed have neighbours."""
        first = {trial.kind: trial for trial in reversed(trials)}
        needs = {kind: found.need for kind, (_, found) in fits.items()}
        by_shape: dict[Shape, list[Imagined]] = {}
        for trial in sorted(first.values(), key=lambda trial: needs.get(trial.kind, 0)):
            by_shape.setdefault(self._shape(trial), []).append(trial)
        with Prober(self.cluster, resolve_home(self.plan.base)) as prober:
            return timed(by_shape, prober, self._lengths, self._most, self.tell)

    def _kinds(
        self,
        trials: Sequence[Imagined],
        fits: Mapping[Kind, tuple[Imagined, Fit]],
        timings: Timings,
    ) -> tuple[KindForecast, ...]:
        counts = Counter(trials[number % len(trials)].kind for number in range(self.plan.trials))
        first = {trial.kind: trial for trial in reversed(trials)}
        keys = differing(list(counts))
        made = []
        for kind, count in counts.items():
            config = first[kind].config
            values, shape = flat(config), self._shape(first[kind])
            made.append(
                KindForecast(
                    {key: values[key] for key in keys},
                    count,
                    fits[kind][1].need if kind in fits else 0,
                    shape.resources.ranks,
                    shape.places,
                    self._lengths.plan(first[kind]).total,
                    timings.of[kind],
                    kind in timings.probed,
                    timings.problems.get(kind, ""),
                )
            )
        return tuple(made)

    # The sweep -----------------------------------------------------------------------------------------------------

    def _played(self, trials: Sequence[Imagined], timings: Timings, seed: int) -> Played:
        plan, spec = self.plan, self.plan.spec
        # How good a value is nobody knows yet, so that no threshold is met.
        spec = replace(spec, pruner=replace(spec.pruner, threshold=""))

        def decide(values: Mapping[int, Mapping[int, float]]) -> Verdict:
            return judge(spec, plan.trials, plan.rungs, values, set())

        entrants = []
        for number in range(plan.trials):
            trial = trials[number % len(trials)]
            seconds = partial(self._stretch, self._lengths.plan(trial), timings.of[trial.kind])
            entrants.append(Entrant(plan.trial_name(number), self._shape(trial), seconds))
        nodes: list[NodeRoom] = self.cluster.suitable(entrants[0].shape.resources)
        value = made_up(spec.direction, seed)
        return Simulation(entrants, decide, value, nodes, start_up=timings.start_up, most=self._most).play()

    def _stretch(self, steps: Plan, timing: Timing, rung: int, beside: int) -> float:
        """Seconds of a trial up to a rung."""
        begin = self.plan.until(rung - 1, steps.total) if rung else 0
        end = self.plan.until(rung, steps.total)
        evaluations, saves = (times_within(begin, end, every) for every in (steps.evaluate_every, steps.save_every))
        return timing.stretch(end - begin, evaluations, saves, beside)


def times_within(begin: int, end: int, every: int) -> int:
    """How often something is done behind step ``begin`` that is done every so many steps, and at ``end``."""
    return end // every - begin // every + (end % every > 0)


def made_up(direction: str, seed: int) -> Callable[[int, int], float]:
    """Values that trials might report: each trial has its place among the others, and all get better as they train."""
    sign = -1.0 if direction == "maximize" else 1.0

    def value(trial: int, rung: int) -> float:
        draw = random.Random(f"{seed} {trial}")
        return sign * (draw.random() + 1.0 / (rung + 1))

    return value
