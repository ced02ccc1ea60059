"""Places for trials on hosts: spread evenly, no more than asked for, made where there is room, gone with lost hosts."""

from __future__ import annotations

import pytest
from simple_hosts import LARGE, SMALL, SimpleCluster, opened, pool, taken

from ftcluster.cluster.host import HostLostError
from ftcluster.cluster.placement import NodeRoom, Resources
from ftcluster.sweep import hosts as module
from ftcluster.sweep.hosts import Shape, Wish


def packed(places: int) -> Shape:
    return Shape(Resources(1, 1), places)


def test_trials_are_spread_over_hosts_before_they_share_one() -> None:
    wish = Wish(packed(2))
    hosts = pool(SimpleCluster(one=2), most=10)
    hosts.arrange([], [wish.shape] * 10)
    assert hosts.free == 0
    hosts.wait([], 0)
    assert [taken(hosts, wish).number for _ in range(4)] == [0, 1, 0, 1]
    assert hosts.free == 0
    assert hosts.take(wish) is None


def test_hosts_begun_before_their_places_are_known_get_trials_once_they_are() -> None:
    wish, cluster = Wish(packed(2)), SimpleCluster(one=2)
    hosts = pool(cluster, most=10)
    hosts.begin(wish.shape.resources, 16)
    hosts.wait([], 0)
    assert hosts.free == 0
    assert hosts.take(wish) is None
    hosts.settle(wish.shape)
    hosts.arrange([wish] * 4)
    assert [taken(hosts, wish).number for _ in range(4)] == [0, 1, 0, 1]
    assert [host.jobs for host in cluster.started] == [16, 16], "room for as many as they may be told to take"


def test_no_more_trials_run_than_were_asked_for_and_a_place_given_back_is_free_again() -> None:
    wish = Wish(packed(4))
    hosts = opened(SimpleCluster(one=2), 3, wish.shape)
    there = [taken(hosts, wish) for _ in range(3)]
    assert hosts.take(wish) is None
    hosts.give_back(there[1])
    assert hosts.take(wish) is there[1]


def test_a_host_that_is_still_to_come_up_gets_no_trial_and_no_second_one_is_started_for_it() -> None:
    cluster = SimpleCluster(one=2)
    cluster.waiting.add("arrival 0")
    hosts = pool(cluster)
    hosts.arrange([Wish(SMALL)])
    assert hosts.wait(["a job"], 0) == ["a job"]
    assert hosts.take(Wish(SMALL)) is None
    hosts.arrange([Wish(SMALL)])
    assert len(cluster.started) == 1
    cluster.waiting.clear()
    hosts.wait([], 0)
    assert taken(hosts, Wish(SMALL)).number == 0


def test_a_lost_host_is_told_of_once_and_another_one_started_on_another_node_if_there_is_one() -> None:
    cluster = SimpleCluster(one=1, two=1)
    hosts = pool(cluster)
    hosts.arrange([Wish(SMALL)])
    hosts.wait([], 0)
    lost = taken(hosts, Wish(SMALL))
    assert hosts.lost(lost) == {"one"}
    assert hosts.lost(lost) == frozenset()
    hosts.give_back(lost)  # a trial that ended before the host did
    assert lost.killed
    wish = Wish(SMALL, frozenset({"one"}))
    hosts.arrange([wish])
    hosts.wait([], 0)
    assert taken(hosts, wish).nodes == ("two",)
    cluster.all.pop()  # with the other node gone, the first one has to do
    hosts.arrange([wish])
    hosts.wait([], 0)
    assert taken(hosts, wish).nodes == ("one",)


def test_a_host_that_waits_for_a_node_that_is_gone_is_replaced_by_one_on_another() -> None:
    cluster = SimpleCluster(one=2)
    cluster.waiting.add("arrival 0")
    hosts = pool(cluster)
    hosts.arrange([Wish(LARGE, frozenset({"two"}))])
    (waiting,) = cluster.started
    waiting.nodes = ()
    hosts.arrange([Wish(LARGE)])
    assert not waiting.killed
    cluster.all = [NodeRoom("two", 64, 2)]
    hosts.arrange([Wish(LARGE)])
    assert waiting.killed
    assert cluster.started[1].nodes == ("two", "two")


def test_hosts_that_die_while_they_start_are_an_error_the_fourth_time_in_a_row() -> None:
    cluster = SimpleCluster(one=1)
    cluster.dying |= {f"arrival {number}" for number in range(9) if number != 3}
    hosts = pool(cluster)
    for _ in range(4):  # three that die, one that comes up
        hosts.arrange([Wish(SMALL)])
        hosts.wait([], 0)
    hosts.lost(taken(hosts, Wish(SMALL)))
    for _ in range(3):
        hosts.arrange([Wish(SMALL)])
        hosts.wait([], 0)
    hosts.arrange([Wish(SMALL)])
    with pytest.raises(HostLostError, match="it died"):
        hosts.wait([], 0)


def test_all_hosts_end_with_the_pool() -> None:
    cluster = SimpleCluster(one=3)
    with opened(cluster, most=2):
        assert len(cluster.started) == 2
    assert all(host.killed for host in cluster.started)


def test_a_trial_that_is_to_be_alone_gets_a_host_nobody_joins_until_it_ends() -> None:
    wish, alone = Wish(packed(2)), Wish(packed(2), alone=True)
    hosts = opened(SimpleCluster(one=2), 8, wish.shape)
    first = taken(hosts, wish)
    lonely = taken(hosts, alone)
    assert lonely is not first
    assert hosts.take(alone) is None
    assert hosts.take(wish) is first
    assert hosts.free == 0
    hosts.give_back(lonely)
    assert hosts.take(wish) is lonely


def test_a_host_that_refused_gets_no_trial_until_one_of_its_own_has_ended() -> None:
    wish = Wish(packed(3))
    hosts = opened(SimpleCluster(one=2), 8, wish.shape)
    one, two, third = (taken(hosts, wish) for _ in range(3))
    assert third is one
    hosts.refused(one)
    assert [taken(hosts, wish).number for _ in range(2)] == [two.number, two.number]
    assert hosts.free == 0
    hosts.give_back(one)
    assert hosts.take(wish) is one


def test_a_host_whose_trials_ended_while_it_refused_another_is_free() -> None:
    wish = Wish(packed(3))
    hosts = opened(SimpleCluster(one=1), 8, wish.shape)
    host = taken(hosts, wish)
    taken(hosts, wish)
    hosts.give_back(host)
    hosts.refused(host)
    assert hosts.take(wish) is host


def test_of_hosts_without_one_of_their_ranks_an_idle_one_is_replaced_and_a_busy_one_killed_if_it_does_not_tell_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = SimpleCluster(one=2)
    hosts = opened(cluster, 8, packed(2))
    wish = Wish(packed(2))
    busy = taken(hosts, wish)
    for host in cluster.started:
        host.broken = "rank 1 is gone"
    hosts.wait(["a job"], 0)
    assert [host.killed for host in cluster.started] == [False, True]
    assert hosts.take(wish) is None
    monkeypatch.setattr(module, "_TELLING", -1.0)
    hosts.wait(["a job"], 0)
    assert busy.killed
    assert hosts.reason(busy) == "rank 1 is gone"
    assert hosts.hosts == [busy]  # until its job tells
    hosts.arrange([], [packed(2)] * 8)
    assert len(cluster.started) == 3


def test_a_host_that_is_to_be_left_is_killed_too_when_a_rank_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = opened(SimpleCluster(one=1))
    busy = taken(hosts, Wish(SMALL))
    hosts.retire(busy)
    hosts.note(busy, "its node leaves the cluster")
    busy.broken = "rank 1 is gone"
    monkeypatch.setattr(module, "_TELLING", -1.0)
    hosts.wait(["a job"], 0)
    assert busy.killed
    assert hosts.reason(busy) == "its node leaves the cluster"


def test_a_host_that_tells_itself_that_a_rank_has_left_is_not_killed_for_it() -> None:
    cluster = SimpleCluster(one=1)
    hosts = opened(cluster)
    busy = taken(hosts, Wish(SMALL))
    busy.broken = "rank 1 is gone"
    hosts.wait(["a job"], 0)
    hosts.give_back(busy)
    assert (hosts.reason(busy), hosts.hosts, busy.killed) == ("", [], True)


def test_trials_go_where_their_base_is_loaded_and_never_beside_others() -> None:
    one, two, three = (Wish(packed(2), base=base) for base in ("one", "two", "three"))
    hosts = opened(SimpleCluster(node=3), 8, packed(2))
    assert [taken(hosts, wish).number for wish in (one, two, two, two, one)] == [0, 1, 2, 1, 0]
    assert hosts.take(one) is None
    assert taken(hosts, two).number == 2
    for host in list(hosts.hosts):
        hosts.give_back(host)
        hosts.give_back(host)
    assert [taken(hosts, wish).number for wish in (two, three, two)] == [1, 0, 2], "the base of the first one is left"


def test_idle_hosts_go_where_a_larger_one_is_wanted_and_no_more_of_them_than_needed() -> None:
    cluster = SimpleCluster(one=2, two=2)
    hosts = opened(cluster)
    busy = taken(hosts, Wish(SMALL))
    assert busy.nodes == ("one",)
    hosts.arrange([Wish(LARGE)])
    hosts.wait([], 0)
    assert taken(hosts, Wish(LARGE)).nodes == ("two", "two")
    assert [host.nodes for host in cluster.started if host.killed] == [("two",), ("two",)]


def test_trials_that_may_come_later_end_no_host() -> None:
    cluster = SimpleCluster(one=2)
    hosts = opened(cluster)
    hosts.arrange([], [LARGE])
    assert len(cluster.started) == 2
    assert not any(host.killed for host in cluster.started)


def test_a_node_that_joins_late_is_used() -> None:
    cluster = SimpleCluster(one=1)
    hosts = opened(cluster)
    taken(hosts, Wish(SMALL))
    cluster.all.append(NodeRoom("late", 8, 1))
    hosts.arrange([Wish(SMALL)])
    hosts.wait([], 0)
    assert taken(hosts, Wish(SMALL)).nodes == ("late",)


def test_ranks_are_spread_over_nodes_only_where_no_node_is_large_enough() -> None:
    cluster = SimpleCluster(one=1, two=1)
    hosts = opened(cluster, shape=LARGE)
    assert sorted(taken(hosts, Wish(LARGE)).nodes) == ["one", "two"]
    cluster.all.append(NodeRoom("large", 8, 2))
    hosts.arrange([Wish(LARGE)])
    hosts.wait([], 0)
    assert taken(hosts, Wish(LARGE)).nodes == ("large", "large")


def test_a_host_with_bad_gpus_sits_on_them_and_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, told = SimpleCluster(one=2), list[str]()
    cluster.unfit.add("arrival 0")
    hosts = pool(cluster)
    hosts.tell = told.append
    for _ in range(3):
        hosts.arrange([], [SMALL] * 8)
        hosts.wait([], 0)
    assert told == ["a host is left out: GPU-b: XID 79"]
    assert len(cluster.started) == 2
    assert taken(hosts, Wish(SMALL)).number == 1
    assert hosts.take(Wish(SMALL)) is None
    monkeypatch.setattr(module, "IDLE", -1.0)
    hosts.arrange([])
    assert not cluster.started[0].killed
    assert hosts.can_ever(Wish(SMALL))
    assert not hosts.can_ever(Wish(LARGE))


def test_a_retired_host_ends_with_its_last_trial_and_takes_nobody_in() -> None:
    wish = Wish(packed(2))
    cluster = SimpleCluster(one=1)
    hosts = opened(cluster, 8, wish.shape)
    host = taken(hosts, wish)
    assert hosts.retire(host)
    assert not hosts.retire(host)
    assert hosts.take(wish) is None
    assert not host.killed
    hosts.give_back(host)
    assert host.killed


def test_a_host_that_nobody_wanted_for_a_while_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = SimpleCluster(one=1)
    hosts = opened(cluster)
    monkeypatch.setattr(module, "IDLE", -1.0)
    hosts.arrange([Wish(SMALL)])
    assert not cluster.started[0].killed
    hosts.arrange([])
    assert cluster.started[0].killed


def test_no_more_hosts_are_started_than_the_share_of_the_sweep_allows() -> None:
    cluster = SimpleCluster(one=4)
    hosts = pool(cluster)
    hosts.limit = 3
    hosts.arrange([Wish(LARGE)] * 4)
    assert (hosts.held, hosts.too_many) == (2, False)
    hosts.limit = 4
    hosts.arrange([Wish(LARGE)] * 4)
    assert hosts.held == 4


def test_at_the_limit_an_idle_host_makes_way_for_one_of_another_shape() -> None:
    cluster = SimpleCluster(one=4)
    hosts = opened(cluster, most=2)
    hosts.limit = 2
    hosts.arrange([], [LARGE])
    assert len(cluster.started) == 2  # nobody waits for it yet
    hosts.arrange([Wish(LARGE)])
    assert [host.killed for host in cluster.started] == [True, True, False]


def test_over_the_limit_idle_hosts_end_at_once_and_others_with_their_trials() -> None:
    cluster = SimpleCluster(one=4)
    hosts = opened(cluster)
    busy = [taken(hosts, Wish(SMALL)) for _ in range(3)]
    hosts.limit = 2
    assert hosts.shrink() == [busy[0]]
    assert [host.killed for host in cluster.started] == [False, False, False, True]
    assert (hosts.held, hosts.too_many, hosts.shrink()) == (3, False, [])
    hosts.give_back(busy[0])
    assert busy[0].killed
    assert hosts.held == 2
