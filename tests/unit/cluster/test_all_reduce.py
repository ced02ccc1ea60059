"""A real all-reduce between processes: it adds up, ends, and tells when it does not come about."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.cluster.all_reduce import Meeting, Result, between_two_processes, finish, start

pytestmark = pytest.mark.slow


def test_two_processes_add_up_and_tell_their_bandwidth() -> None:
    result = between_two_processes([], timeout=100)
    assert (result.problem, result.backend, result.device) == ("", "gloo", "CPU")
    assert result.bandwidth == pytest.approx(result.size / result.seconds)


def test_a_rank_that_stays_alone_is_ended(tmp_path: Path) -> None:
    rank = start(Meeting(f"file://{tmp_path}/meeting", 0))
    assert finish([rank], timeout=2) == [Result(problem="the ranks did not come together within 2 seconds")]
    assert rank.poll() is not None


def test_a_place_where_nobody_can_meet_is_told() -> None:
    (result,) = finish([start(Meeting("nowhere://", 0))], timeout=100)
    assert "nowhere" in result.problem
    assert result.bandwidth == 0.0
