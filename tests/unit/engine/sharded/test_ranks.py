"""What becomes of errors on one rank: real processes, real signals."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sharded_group import Group

from ftcluster.engine.sharded.ranks import RankLost, Seat, rank_zero
from ftcluster.errors import TrialError

pytestmark = pytest.mark.slow


@pytest.fixture
def started() -> Iterator[Callable[[int], Group]]:
    groups: list[Group] = []

    def start(size: int) -> Group:
        groups.append(Group(size))
        return groups[-1]

    yield start
    for group in groups:
        group.kill()


def _exit(group: Group, rank: int) -> int | None:
    group.processes[rank].join(30)
    assert not group.processes[rank].is_alive()
    return group.processes[rank].exitcode


@pytest.mark.parametrize("wait", [False, True], ids=["others-done", "others-in-a-collective"])
def test_an_unexpected_error_on_one_rank_is_told_with_its_rank_and_ends_the_group(
    started: Callable[[int], Group], wait: bool
) -> None:
    group = started(3)
    with pytest.raises(TrialError, match=r"rank 2: RuntimeError: it broke") as raised:
        group.ask("fail", 2, wait)
    assert not raised.value.retryable
    assert _exit(group, 2) != 0
    assert _exit(group, 1) != 0


def test_an_unexpected_error_on_rank_0_comes_as_it_is_and_lets_the_others_go(started: Callable[[int], Group]) -> None:
    group = started(2)
    with pytest.raises(RuntimeError, match="it broke"):
        group.ask("fail", 0, True)
    assert _exit(group, 1) != 0


def test_a_killed_rank_is_a_loss_that_another_try_may_not_meet(started: Callable[[int], Group]) -> None:
    group = started(2)
    with pytest.raises(RankLost, match="a process of the group is gone") as raised:
        group.ask("die", 1)
    assert _exit(group, 1) == -signal.SIGKILL
    assert raised.value.retryable
    with pytest.raises(RankLost, match="the group is gone"):
        group.ask("forget")


def test_without_rank_0_the_others_end(started: Callable[[int], Group]) -> None:
    group = started(2)
    group.ask("forget")  # they have met
    group.processes[0].kill()
    assert _exit(group, 1) != 0


def test_importing_what_rank_0_needs_does_not_import_deepspeed() -> None:
    code = "import sys; import ftcluster.engine.sharded.engine, ftcluster.engine.sharded.settings; "
    code += "sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[4]).returncode == 0


@pytest.mark.parametrize("rank", [1, 2])
def test_a_stopped_rank_is_named_once_the_others_waited_long_enough(
    started: Callable[[int], Group], tmp_path: Path, rank: int
) -> None:
    group = started(3)
    group.ask("limit", 1.0, tmp_path)
    with pytest.raises(RankLost) as raised:
        group.ask("freeze", rank)
    told = rf"rank {rank} on \S+ did not answer for 0:01 in freeze; it wrote down no stacks: stopped, or .*"
    assert re.fullmatch(told, raised.value.message)
    assert raised.value.retryable
    assert raised.value.where == str(tmp_path / "rank-*.stacks")
    assert _exit(group, 3 - rank) != 0
    assert {path.name for path in tmp_path.iterdir()} == {"rank-0.stacks", f"rank-{3 - rank}.stacks"}
    text = (tmp_path / "rank-0.stacks").read_text()
    assert "rank 0 is in freeze" in text
    assert "in total" in text


@pytest.mark.parametrize("order", ["sleep", "sleep_at_the_end"])
def test_a_rank_that_hangs_leaves_the_stack_of_what_it_does(
    started: Callable[[int], Group], tmp_path: Path, order: str
) -> None:
    group = started(2)
    group.ask("limit", 1.0, tmp_path)
    with pytest.raises(RankLost) as raised:
        group.ask(order, 1, 60.0)
    assert re.fullmatch(rf"rank 1 on \S+ did not answer for 0:01 in {order}", raised.value.message)
    assert f" in {order}" in (tmp_path / "rank-1.stacks").read_text()


def test_a_rank_that_comes_late_but_comes_leaves_nothing(started: Callable[[int], Group], tmp_path: Path) -> None:
    group = started(2)
    group.ask("limit", 2.0, tmp_path)
    group.ask("sleep", 1, 1.8)
    group.ask("sleep", 1, 0.0)  # rank 1 has left the order before
    assert list(tmp_path.iterdir()) == []


def test_with_rank_0_stopped_the_others_end_after_an_order_but_not_before_one(
    started: Callable[[int], Group], tmp_path: Path
) -> None:
    group = started(2)
    group.ask("limit", 0.5, tmp_path)
    time.sleep(1.5)
    group.ask("sleep", 1, 0.0)
    with pytest.raises(TimeoutError):
        group.ask("freeze", 0, patience=0.0)
    assert _exit(group, 1) != 0
    assert "in total" in (tmp_path / "rank-1.stacks").read_text()


def test_a_group_is_met_at_its_own_address_and_port_alone() -> None:
    one, other = rank_zero("127.0.0.1", 2), rank_zero("127.0.0.1", 2)
    with socket.socket(fileno=one.listening) as listener, socket.socket(fileno=other.listening):
        assert listener.getsockname() == ("127.0.0.1", one.port)
        assert one.port != other.port
        assert one.of(1) == Seat("127.0.0.1", one.port, 1, 2)


def test_a_machine_known_by_an_address_it_has_not_listens_on_all() -> None:
    seat = rank_zero("192.0.2.7", 2)  # of a network that exists in documents only
    with socket.socket(fileno=seat.listening) as listener:
        assert (seat.host, listener.getsockname()[0]) == ("192.0.2.7", "0.0.0.0")
