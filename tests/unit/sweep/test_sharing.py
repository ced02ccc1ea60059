"""A sweep keeps to its share of a cluster, beside another whose claims are given."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

import pytest
from simple_hosts import SMALL, SimpleCluster, opened, taken

from ftcluster.sweep.fairness import Claim
from ftcluster.sweep.hosts import HostPool, Wish
from ftcluster.sweep.sharing import _SURE, Sharing


class Board:
    """Notes of two sweeps."""

    key = "mine"

    def __init__(self) -> None:
        self.other: dict[str, Any] | None = None
        self.mine: dict[str, Any] = {}
        self.silent = False

    def exchange(self, mine: dict[str, Any]) -> dict[str, dict[str, Any]]:
        if self.silent:
            raise TimeoutError
        self.mine = mine
        return {"mine": mine, **({"other": self.other} if self.other else {})}


class Nodes(SimpleCluster):
    def unused(self, kind: str) -> float:
        assert kind == "GPU"
        return sum(node.gpus for node in self.all) - sum(not host.killed for host in self.started)


class Situation:
    def __init__(self, gpus: int, trials: int, *, yield_after: float = 60) -> None:
        self.now, self.trials, self.told, self.board = 0.0, trials, list[str](), Board()
        self.cluster = Nodes(one=gpus)
        self.hosts = cast(HostPool, opened(self.cluster))
        notes, tell = cast(Any, self.board), self.told.append
        cluster = cast(Any, self.cluster)
        self.sharing = Sharing(cluster, self.hosts, SMALL, notes, 1.0, yield_after, tell, lambda: self.now)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.sharing.look(self.trials)
            self.now += 1


@pytest.fixture
def four() -> Situation:
    """Four GPUs, all of them held, two used."""
    situation = Situation(4, 20)
    for _ in range(2):
        taken(situation.hosts, Wish(SMALL))
    return situation


def wants_all(holds: float = 0) -> dict[str, Any]:
    return asdict(Claim("GPU", 1.0, 1.0, holds, 4.0))


def test_alone_it_may_have_everything(four: Situation) -> None:
    four.look(2 * _SURE)
    assert four.hosts.limit == float("inf")
    assert four.board.mine == asdict(Claim("GPU", 1.0, 1.0, 4.0, 20.0))
    assert four.told == []


def test_beside_another_it_gives_up_half_the_idle_hosts_first(four: Situation) -> None:
    four.board.other = wants_all()
    four.look(_SURE - 1)
    assert four.hosts.held == 4  # not before it is sure
    four.look()
    assert (four.hosts.limit, four.hosts.held) == (2, 2)
    assert four.told == ["it shares the cluster with other"]
    four.board.other = None
    four.look()
    assert four.hosts.limit == float("inf")
    assert four.told[1:] == ["it has the cluster for itself again"]


def test_trials_on_the_others_share_go_on_for_a_while_and_are_stopped_then() -> None:
    situation, stopped = Situation(2, 20), list[object]()
    for host in situation.cluster.started:
        host.stop = lambda host=host: stopped.append(host)  # type: ignore[attr-defined]
    busy = [taken(situation.hosts, Wish(SMALL)) for _ in range(2)]
    situation.board.other = wants_all()
    situation.look(_SURE)
    assert "its trials have 1:00 to come to a rung" in situation.told[-1]
    situation.look(59)
    assert stopped == []
    situation.look(3)
    assert stopped == [busy[0]]
    assert situation.hosts.reason(busy[0]) == "its place is another sweep's share"
    situation.hosts.give_back(busy[0])
    situation.look()
    assert situation.hosts.held == 1


def test_without_news_of_the_others_nothing_is_given_up(four: Situation) -> None:
    four.board.other, four.board.silent = wants_all(), True
    four.look(2 * _SURE)
    assert four.hosts.held == 4


def test_a_sweep_of_cpus_leaves_the_gpus_alone(four: Situation) -> None:
    four.board.other = {**wants_all(), "kind": "CPU"}
    four.look(2 * _SURE)
    assert four.hosts.held == 4


def test_how_long_it_has_had_nothing_is_told(four: Situation) -> None:
    four.board.other = wants_all()
    for host in four.hosts.hosts:
        four.hosts.lost(host)
    four.look(3)
    assert four.board.mine["starved"] == 2
    four.trials = 0
    four.look()
    assert four.board.mine == asdict(Claim("GPU", 1.0, 1.0, 0.0, 0.0, 0.0))
