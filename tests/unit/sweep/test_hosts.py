"""Places for trials on hosts: spread evenly, never more than asked for, and gone with a host that is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from ftcluster.cluster.ray_cluster import HostLostError, Resources
from ftcluster.sweep.hosts import HostPool


class SimpleHost:
    """A host without a process."""

    def __init__(self, number: int) -> None:
        self.number, self.killed, self.broken = number, False, False

    def placed(self) -> str:
        return f"placed {self.number}"

    def kill(self) -> None:
        self.killed = True


class SimpleCluster:
    """Room for some hosts; every handle has ended, but those of hosts that are still to come up."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.started: list[SimpleHost] = []
        self.waiting: set[str] = set()
        self.dying: set[str] = set()

    def room(self, _: Resources) -> int:
        return self._room

    def start(self, resources: Resources, factory: Callable[[], Any], jobs: int) -> SimpleHost:  # noqa: ARG002
        self.started.append(SimpleHost(len(self.started)))
        return self.started[-1]

    def wait(self, handles: list[str], timeout: float) -> list[str]:  # noqa: ARG002
        return [handle for handle in handles if handle not in self.waiting]

    def result(self, handle: str) -> str:
        if handle in self.dying:
            raise HostLostError("it died")
        return handle


def pool(cluster: SimpleCluster, most: int, places: int) -> HostPool:
    return HostPool(cast(Any, cluster), Resources(1, 0), most, object, places)


def numbers(taken: list[Any]) -> list[int]:
    return [host.number for host in taken]


def test_trials_are_spread_over_hosts_before_they_share_one() -> None:
    with pool(SimpleCluster(2), most=10, places=2) as hosts:
        assert not hosts.idle
        hosts.wait([], 0)
        assert numbers([hosts.take() for _ in range(4)]) == [0, 1, 0, 1]
        assert not hosts.idle
        with pytest.raises(LookupError, match="no host has a free place"):
            hosts.take()


def test_no_more_trials_run_than_were_asked_for_and_a_place_given_back_is_free_again() -> None:
    with pool(SimpleCluster(2), most=3, places=4) as hosts:
        hosts.wait([], 0)
        assert hosts.empty
        taken = [hosts.take() for _ in range(3)]
        assert (hosts.idle, hosts.empty) == (False, False)
        hosts.give_back(taken[1])
        assert hosts.take() is taken[1]
        for host in taken:
            hosts.give_back(host)
        assert hosts.empty


def test_a_host_that_is_still_to_come_up_gets_no_trial() -> None:
    cluster = SimpleCluster(2)
    cluster.waiting.add("placed 0")
    with pool(cluster, most=8, places=1) as hosts:
        assert hosts.wait(["a job"], 0) == ["a job"]
        assert hosts.take().number == 1
        assert not hosts.idle
        cluster.waiting.clear()
        hosts.wait([], 0)
        assert hosts.take().number == 0


def test_a_lost_host_is_replaced_once_however_many_of_its_trials_tell_of_it() -> None:
    cluster = SimpleCluster(1)
    with pool(cluster, most=8, places=3) as hosts:
        hosts.wait([], 0)
        lost = [hosts.take() for _ in range(3)]
        for host in lost:
            hosts.replace(host)
        hosts.give_back(lost[0])  # a trial that ended before the host did
        assert len(cluster.started) == 2
        assert cluster.started[0].killed
        assert not hosts.empty
        hosts.wait([], 0)
        assert hosts.empty
        assert numbers([hosts.take() for _ in range(3)]) == [1, 1, 1]


def test_hosts_that_die_while_they_start_are_replaced_three_times() -> None:
    cluster = SimpleCluster(1)
    cluster.dying |= {f"placed {number}" for number in range(9)}
    with pool(cluster, most=1, places=1) as hosts:
        for _ in range(3):
            hosts.wait([], 0)
        with pytest.raises(HostLostError, match="it died"):
            hosts.wait([], 0)


def test_all_hosts_end_with_the_pool() -> None:
    cluster = SimpleCluster(3)
    with pool(cluster, most=2, places=1):
        assert len(cluster.started) == 2
    assert all(host.killed for host in cluster.started)


def test_a_trial_that_is_to_be_alone_gets_a_host_nobody_joins_until_it_ends() -> None:
    with pool(SimpleCluster(2), most=8, places=2) as hosts:
        hosts.wait([], 0)
        first = hosts.take()
        lonely = hosts.take(alone=True)
        assert lonely is not first
        assert not hosts.has_place(alone=True)
        assert hosts.take() is first
        assert not hosts.idle
        with pytest.raises(LookupError, match="no host is free"):
            hosts.take(alone=True)
        hosts.give_back(lonely)
        assert hosts.take() is lonely


def test_a_host_that_refused_gets_no_trial_until_one_of_its_own_has_ended() -> None:
    with pool(SimpleCluster(2), most=8, places=3) as hosts:
        hosts.wait([], 0)
        one, two, third = hosts.take(), hosts.take(), hosts.take()
        assert third is one
        hosts.refused(one)
        assert numbers([hosts.take(), hosts.take()]) == [two.number, two.number]
        assert not hosts.idle
        hosts.give_back(one)
        assert hosts.take() is one


def test_a_host_whose_trials_ended_while_it_refused_another_is_free() -> None:
    with pool(SimpleCluster(1), most=8, places=3) as hosts:
        hosts.wait([], 0)
        host = hosts.take()
        hosts.take()
        hosts.give_back(host)
        hosts.refused(host)
        assert hosts.take() is host


def test_a_host_without_one_of_its_ranks_is_ended_so_that_its_jobs_tell_of_it() -> None:
    cluster = SimpleCluster(2)
    with pool(cluster, most=8, places=1) as hosts:
        hosts.wait([], 0)
        cluster.started[1].broken = True
        hosts.wait(["a job"], 0)
        assert [host.killed for host in cluster.started] == [False, True]
