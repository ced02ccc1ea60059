"""The times of all kinds of trials, from probes of some of them.

With many kinds, those that are probed lie evenly among all of them, and the others take the times of the nearest one,
in proportion to the tokens of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ftcluster.errors import TrialError
from ftcluster.sweep.forecast.imagined import Imagined, Kind, Lengths
from ftcluster.sweep.forecast.probe import HOSTS, Prober, Timing
from ftcluster.sweep.hosts import Shape

PROBED = 8  # kinds, at most

Tell = Callable[[str, int, int], None]  # what is done, how much of it was, of how much


@dataclass(frozen=True)
class Timings:
    """``start_up``: seconds until a host of a shape that is started trains at full speed."""

    of: Mapping[Kind, Timing]
    probed: frozenset[Kind]
    problems: Mapping[Kind, str]  # why probes could not be trained
    start_up: Mapping[Shape, float]


def timed(
    trials: Mapping[Shape, Sequence[Imagined]], prober: Prober, lengths: Lengths, most: int, tell: Tell
) -> Timings:
    """Of one trial of each kind, neighbours beside each other. ``most`` trials of the sweep run at a time.

    Raises:
        TrialError: no probe could be trained.
        UsageError: no host comes up.
    """
    wanted = {shape: spread(mine, max(1, PROBED // len(trials))) for shape, mine in trials.items()}
    count, done = sum(map(len, wanted.values())), 0
    own: dict[Kind, Timing] = {}
    problems: dict[Kind, str] = {}
    for shape, chosen in wanted.items():
        hosts = min(prober.room(shape), most, HOSTS)
        for trial in chosen:
            tell(
                f"probing: {hosts} hosts, {shape.places} trials on each" if shape.places > 1 else "probing", done, count
            )
            plan, done = lengths.plan(trial), done + 1
            told = prober.time(trial.config, str(lengths.data(trial.config).folder), plan.total, shape, hosts)
            if told.timing is None:
                problems[trial.kind] = told.problem
            else:
                own[trial.kind] = told.timing.scaled(plan.tokens_per_step / max(told.timing.tokens, 1.0))
    if not own:
        raise TrialError(f"no probe could be trained: {next(iter(problems.values()))}", remedy="--dry-run trains none")
    return Timings(for_all(trials, own, lengths), frozenset(own), problems, dict(prober.start_up))


def for_all(
    trials: Mapping[Shape, Sequence[Imagined]], own: Mapping[Kind, Timing], lengths: Lengths
) -> dict[Kind, Timing]:
    """Those of the nearest neighbour for a kind without."""
    found: dict[Kind, Timing] = {}
    every = [trial for mine in trials.values() for trial in mine if trial.kind in own]
    for mine in trials.values():
        known = [(at, trial) for at, trial in enumerate(mine) if trial.kind in own]
        for at, trial in enumerate(mine):
            near = min(known, key=lambda other: abs(other[0] - at), default=(0, every[0]))[1]
            tokens, others = lengths.plan(trial).tokens_per_step, lengths.plan(near).tokens_per_step
            found[trial.kind] = own[near.kind].scaled(tokens / max(others, 1.0))
    return found


def spread(trials: Sequence[Imagined], count: int) -> list[Imagined]:
    """So many of them, evenly from the first to the last."""
    if len(trials) <= count:
        return list(trials)
    places = [round(at * (len(trials) - 1) / max(count - 1, 1)) for at in range(count)]
    return [trials[place] for place in dict.fromkeys(places)]
