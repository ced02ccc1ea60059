"""Small sweeps played through, against what one finds with pencil and paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest

from ftcluster.cluster.placement import NodeRoom, Resources
from ftcluster.config.schema import PrunerConfig, SweepConfig
from ftcluster.sweep.forecast.forecast import made_up
from ftcluster.sweep.forecast.simulation import Entrant, Played, Simulation
from ftcluster.sweep.hosts import Shape
from ftcluster.sweep.judging import Verdict, judge
from ftcluster.sweep.survivors import reaching

GPU = Shape(Resources(1, 1))
TWO_GPUS = [NodeRoom("a", 8, 2)]


def played(
    entrants: Sequence[Entrant],
    pruner: PrunerConfig,
    rungs: tuple[int, ...],
    *,
    nodes: list[NodeRoom] = TWO_GPUS,
    most: int = 99,
    start_up: float = 5.0,
) -> Played:
    """Trial 0 is the best, the last one the worst."""
    spec = SweepConfig(pruner=pruner)

    def decide(values: Mapping[int, Mapping[int, float]]) -> Verdict:
        return judge(spec, len(entrants), rungs, values, set())

    coming = {entrant.shape: start_up for entrant in entrants}
    return Simulation(entrants, decide, lambda trial, _: trial, nodes, start_up=coming, most=most).play()


def a_second_each_step(rungs: tuple[int, ...], times: float = 1.0) -> Callable[[int, int], float]:
    return lambda rung, beside: times * beside * (rungs[rung] - (rungs[rung - 1] if rung else 0))


def alike(count: int, rungs: tuple[int, ...], shape: Shape = GPU) -> list[Entrant]:
    return [Entrant(f"t-{number}", shape, a_second_each_step(rungs)) for number in range(count)]


def when(found: Played) -> list[tuple[str, int, float, float]]:
    return [(span.trial, span.rung, span.started, span.ended) for span in found.spans]


def test_halving_of_four_trials_on_two_gpus() -> None:
    """Nobody is known to be among the better two before three have reported; then two go on, then one."""
    rungs = (10, 20, 40)
    found = played(alike(4, rungs), PrunerConfig("halving", eta=2), rungs)
    assert when(found) == [
        ("t-0", 0, 5, 15),
        ("t-1", 0, 5, 15),
        ("t-2", 0, 15, 25),
        ("t-3", 0, 15, 25),
        ("t-0", 1, 25, 35),
        ("t-1", 1, 25, 35),
        ("t-0", 2, 35, 55),
    ]
    assert (found.seconds, found.first_report, found.most) == (55, 15, 2)
    assert [host.up for host in found.hosts] == [5, 5]
    assert [host.ended for host in found.hosts] == [55, 55]
    assert found.utilisation == pytest.approx((50 + 30) / 100)
    assert sum(seconds for _, seconds in found.held(until=30)) == 50


def test_trials_that_share_a_host_share_its_time() -> None:
    """Three places: the third trial comes with the other two; each takes three times as long while all are there."""
    one_host, rungs = [NodeRoom("a", 1, 0)], (10,)
    shape = Shape(Resources(1, 0), places=3)
    entrants = alike(3, rungs, shape)
    entrants[2] = Entrant("t-2", shape, a_second_each_step(rungs, times=0.5))
    found = played(entrants, PrunerConfig("none"), rungs, nodes=one_host)
    # Together until t-2 has done its 5 s of work at a third of the speed; then two of them share for 5 s each of rest.
    assert when(found) == [("t-2", 0, 5, 20), ("t-0", 0, 5, 30), ("t-1", 0, 5, 30)]


def test_no_more_trials_run_at_once_than_allowed_and_hosts_are_not_started_for_more() -> None:
    found = played(alike(3, (10,)), PrunerConfig("none"), (10,), most=1)
    assert [ended for *_, ended in when(found)] == [15, 25, 35]
    assert found.most == 1


def test_idle_hosts_make_room_for_trials_of_another_size() -> None:
    """The first host is for the largest; it is in the way of the small trials, and their hosts then in that of t-2."""
    large = Shape(Resources(1, 1, ranks=2))
    entrants = [*alike(2, (10,)), Entrant("t-2", large, a_second_each_step((10,)))]
    found = played(entrants, PrunerConfig("none"), (10,), nodes=TWO_GPUS)
    assert when(found) == [("t-0", 0, 10, 20), ("t-1", 0, 10, 20), ("t-2", 0, 25, 35)]
    assert [(host.up, host.ended) for host in found.hosts] == [(5, 5), (10, 20), (10, 20), (25, 35)]


def test_a_host_that_nobody_wants_is_paid_for_a_minute() -> None:
    rungs = (10, 200)
    found = played(alike(2, rungs), PrunerConfig("halving", eta=2), rungs)
    assert found.seconds == 205
    assert sorted(host.ended for host in found.hosts) == [15 + 60, 205]


def test_a_trial_that_nothing_has_room_for_does_not_keep_the_simulation_going() -> None:
    found = played(alike(2, (10,), Shape(Resources(1, 4))), PrunerConfig("none"), (10,))
    assert (found.spans, found.seconds, found.utilisation) == ((), 0, 0)


@pytest.mark.parametrize(
    ("pruner", "trials", "expected"),
    [
        (PrunerConfig("halving", eta=2), 8, (8, 4, 2)),
        (PrunerConfig("halving", eta=3), 2, (2, 1, 1)),
        (PrunerConfig("median"), 8, (8, 8, 8)),
        (PrunerConfig("hyperband", eta=2), 6, (6, 5, 4)),  # three brackets of 2 trials
    ],
)
def test_how_many_trials_get_to_a_rung(pruner: PrunerConfig, trials: int, expected: tuple[int, ...]) -> None:
    assert reaching(SweepConfig(pruner=pruner), trials, 3) == expected


def test_seeds_of_a_point_get_there_together() -> None:
    assert reaching(SweepConfig(pruner=PrunerConfig("halving", eta=2), repeats=3), 12, 2) == (12, 6)


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("rule", ["none", "halving", "hyperband", "median", "pbt"])
def test_every_rule_is_played_to_its_end(rule: str, repeats: int) -> None:
    rungs = (10, 20, 40)
    spec = SweepConfig(pruner=PrunerConfig(rule, eta=2), repeats=repeats if rule != "pbt" else 1)
    entrants = alike(12, rungs)

    def decide(values: Mapping[int, Mapping[int, float]]) -> Verdict:
        return judge(spec, len(entrants), rungs, values, set())

    value = made_up("minimize", seed=3)
    found = Simulation(entrants, decide, value, [NodeRoom("a", 8, 5)], start_up={GPU: 1}, most=12).play()
    counts = Counter(span.rung for span in found.spans)
    reached = reaching(spec, 12, 3)
    assert counts[0] == 12
    assert all(counts[rung] <= count for rung, count in enumerate(reached))
    if rule != "median":
        assert [counts[rung] for rung in range(3)] == list(reached)
