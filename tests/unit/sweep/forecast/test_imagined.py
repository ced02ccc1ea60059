"""The trials a sweep would have, which of them are alike, and which kinds of them are probed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftcluster.cluster.placement import Resources
from ftcluster.sweep.forecast.imagined import Imagined, Kind, Lengths, corners, differing, imagine
from ftcluster.sweep.forecast.probe import Timing
from ftcluster.sweep.forecast.timings import for_all, spread
from ftcluster.sweep.hosts import Shape
from ftcluster.sweep.plan import SweepPlan
from ftcluster.sweep.proposals import next_trial

Planned = Callable[..., SweepPlan]
WIDE: dict[str, Any] = {
    "space": {
        "adapter.rank": "tag(int, interval(1, 64))",
        "adapter.dropout": "interval(0.0, 0.3)",
        "optim.lr": "tag(log, interval(1e-4, 1e-2))",
        "optim.batch_size": "choice(4, 8)",
    },
    "constraints": ["adapter.rank <= 32 or optim.batch_size == 4"],
    "sampler": {"name": "random", "seed": 3},
    "budget": {"trials": 6},
}


def test_trials_are_those_that_will_be_proposed_where_that_is_known(planned: Planned) -> None:
    plan = planned({**WIDE, "always": {"usual": ["adapter.rank=8"]}, "repeats": 2})
    found: list[Any] = []
    while len(found) < plan.trials:
        made = next_trial(plan, Path("s"), found, {})
        assert made is not None
        found.append(made[0])
    assert [trial.overrides for trial in imagine(plan)] == [
        {key: value for key, value in row.overrides.items() if key != "seed"} for row in found
    ]


def test_trials_of_one_kind_differ_in_nothing_that_costs_memory_or_time(planned: Planned) -> None:
    plan = planned(WIDE)
    trials = [
        plan.trial_config(0, [f"optim.lr={lr}", f"adapter.dropout={share}"]) for lr, share in ((1, 0.1), (2, 0.2))
    ]
    assert Kind.of(trials[0]) == Kind.of(trials[1])
    others = [plan.trial_config(0, [word]) for word in ("adapter.dropout=0", "adapter.rank=9", "optim.batch_size=8")]
    kinds = [Kind.of(trials[0]), *map(Kind.of, others)]
    assert len(set(kinds)) == 4
    assert differing(kinds) == ["adapter.rank", "adapter.dropout", "optim.batch_size"]


def test_the_ends_of_what_matters_are_looked_at_where_the_space_allows_them(planned: Planned) -> None:
    found = {
        (t.config.adapter.rank, t.config.adapter.dropout, t.config.optim.batch_size) for t in corners(planned(WIDE))
    }
    assert found == {(rank, share, 4) for rank in (1, 64) for share in (0.0, 0.3)} | {
        (1, share, 8) for share in (0.0, 0.3)
    }


def test_kinds_that_are_not_probed_take_the_times_of_the_nearest(planned: Planned) -> None:
    plan = planned(WIDE)
    sizes = [4, 4, 4, 8, 8]
    trials = [
        Imagined({}, plan.trial_config(0, [f"adapter.rank={rank}", f"optim.batch_size={size}"]))
        for rank, size in enumerate(sizes, 1)
    ]
    assert [trial.config.adapter.rank for trial in spread(trials, 3)] == [1, 3, 5]
    own = {trials[0].kind: Timing((1.0,)), trials[4].kind: Timing((6.0,))}
    found = for_all({Shape(Resources(1, 0)): trials}, own, Lengths())
    assert [round(found[trial.kind].step, 1) for trial in trials[:3]] == [1.0, 1.0, 1.0]
    assert found[trials[3].kind].step == 6.0
