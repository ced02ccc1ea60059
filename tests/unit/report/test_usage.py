"""Time on hosts, from spans."""

from __future__ import annotations

import pytest

from ftcluster.report.usage import covered, lanes, usage
from ftcluster.sweep.timeline import Span


def span(trial: str, host: str, began: float, ended: float, ranks: int = 1) -> Span:
    return Span(trial, 0, host, ("node",) * ranks, 0.0, began, ended, "reported")


def test_a_host_with_several_trials_is_busy_once() -> None:
    assert covered([(0, 4), (1, 3), (3, 6), (8, 9)]) == 7.0


def test_utilisation_is_busy_host_time_over_what_was_there() -> None:
    found = usage([span("a", "host 0", 0, 10), span("b", "host 1", 0, 4), span("c", "host 1", 6, 8)], [0.0], {}, 0.0)
    assert found.most == 2
    assert found.utilisation == pytest.approx((10 + 6) / 20)


def test_time_between_two_drivers_is_nobodys() -> None:
    spans = [span("a", "host 0", 0, 10), span("b", "host 0", 1000, 1010)]
    assert usage(spans, [0.0, 999.0], {}, 0.0).utilisation == 1.0
    assert usage(spans, [0.0], {}, 0.0).utilisation == pytest.approx(20 / 1010)


def test_gpu_hours_are_those_a_host_held_on_all_its_ranks() -> None:
    spans = [span("a", "host 0", 0, 1800, ranks=2), span("b", "host 1", 0, 900), span("c", "host 1", 2700, 3600)]
    found = usage(spans, [0.0], {"a": 1.0, "b": 0.5, "c": 0.5}, 3.0)
    assert found.gpu_hours == pytest.approx(0.5 * 2 + 1 * 0.5)
    assert found.money == pytest.approx(4.5)
    assert found.host_hours == pytest.approx(1.5)


def test_without_a_price_there_is_no_money_and_hosts_without_gpus_cost_by_their_ranks() -> None:
    spans = [span("a", "host 0", 0, 3600)]
    assert usage(spans, [0.0], {"a": 1.0}, 0.0).money is None
    assert usage(spans, [0.0], {"a": 0.0}, 2.0).money == 2.0


def test_without_a_timeline_nothing_is_known() -> None:
    found = usage([], [], {}, 1.0)
    assert (found.utilisation, found.most, found.gpu_hours) == (None, 0, 0.0)


def test_trials_that_share_a_host_lie_beside_each_other() -> None:
    spans = [span("a", "host 0", 0, 5), span("b", "host 0", 1, 3), span("c", "host 0", 3, 6), span("d", "host 1", 0, 9)]
    assert {each.trial: (host, lane) for each, host, lane in lanes(spans)} == {
        "a": ("host 0", 0),
        "b": ("host 0", 1),
        "c": ("host 0", 1),
        "d": ("host 1", 0),
    }
