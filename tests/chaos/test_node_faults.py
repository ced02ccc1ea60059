"""Nodes that go, with notice and without, or come late, a lost head, another sweep: each trial ends as if undisturbed.

Sweeps of the real command on logical nodes of this machine. The oracle is the same sweep in peace.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from logical_nodes import LogicalNodes, logical_nodes, settings
from programs import Program, finish, start, wait_for
from sweep_outcomes import Ended, assert_told_once, outcome
from training_samples import World, make_world

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.sweep import timeline
from ftcluster.tracking.history import read_metrics

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
NAME = "small"
EVERY = 200  # steps between checkpoints of the longer ones
LONG = ["optim.duration=800 steps", f"evaluation.every={EVERY} steps"]  # long enough for a node to go in between
KINDS: dict[str, tuple[int, list[str]]] = {
    "one process": (2, [*LONG, "cluster.trials_per_host=1"]),  # two trials on hosts of their own
    "a pack": (2, LONG),  # on one host, where there is one CPU
    "two ranks": (1, ["optim.duration=40 steps", "evaluation.every=10 steps", "engine=zero3", "cluster.ranks=2"]),
}
Twin = Callable[[str], dict[str, Ended]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    for kind, (trials, words) in KINDS.items():
        sweep = {
            "name": NAME,
            "base": world.words(*words),
            "space": {"adapter.rank": "choice(2, 4)"},
            "sampler": {"name": "grid"},
            "pruner": {"name": "none"},
            "budget": {"trials": trials},
            "metric": "eval/loss",
            "direction": "minimize",
        }
        (world.folder / f"{kind}.yaml").write_text(json.dumps(sweep))
    return world


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogicalNodes]:
    with logical_nodes(tmp_path_factory.mktemp("cluster") / "log") as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def no_node_is_left(nodes: LogicalNodes) -> Iterator[None]:
    yield
    nodes.clear()


@contextmanager
def running(nodes: LogicalNodes, log: Path, *words: str, **more: str) -> Iterator[Program]:
    """``ftcluster WORDS`` on this cluster, with more variables."""
    process = start(words, log, variables=settings(RAY_ADDRESS=nodes.address, **more))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def sweeping(world: World, kind: str, home: Path) -> list[str]:
    return ["sweep", str(world.folder / f"{kind}.yaml"), "--home", str(home)]


def saved(home: Path) -> set[str]:
    """Trials that have a checkpoint."""
    return {path.parent.parent.name for path in (home / NAME).glob("*/checkpoints/step-*")}


def assert_undisturbed(home: Path, expected: dict[str, Ended]) -> None:
    assert outcome(home, NAME) == expected
    assert_told_once(home, NAME)


def hosts_of(home: Path) -> list[psutil.Process]:
    """Processes of hosts that have something of this home open."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(home) in file.path for file in process.open_files()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def twin(world: World, nodes: LogicalNodes, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """Of a kind; swept when it is first asked for."""
    found: dict[str, dict[str, Ended]] = {}

    def of(kind: str) -> dict[str, Ended]:
        if kind not in found:
            folder = tmp_path_factory.mktemp("twin")
            home, log = folder / "home", folder / "log"
            place = nodes.add(2)
            with running(nodes, log, *sweeping(world, kind, home)) as process:
                finish(process, log)
            nodes.dismiss(place)
            assert_told_once(home, NAME)
            found[kind] = outcome(home, NAME)
        return found[kind]

    return of


@pytest.mark.parametrize(
    "kind", ["one process", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("a pack", "two ranks"))]
)
def test_trials_of_a_lost_node_go_on_from_their_checkpoints_on_another(
    world: World, nodes: LogicalNodes, twin: Twin, tmp_path: Path, kind: str
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    cpus = 1 if kind == "a pack" else 2
    doomed = nodes.add(cpus)
    with running(nodes, log, *sweeping(world, kind, home)) as process:
        wait_for(lambda: bool(saved(home)), process, log)
        nodes.kill(doomed)
        spare = nodes.add(cpus)  # joins late, and is the only one
        text = finish(process, log)
    nodes.dismiss(spare)
    assert text.count("goes on from its newest checkpoint on another host") >= 1
    assert_undisturbed(home, twin("one process" if kind == "a pack" else kind))
    spans = timeline.read(home / NAME)
    assert {(span.end, node) for span in spans for node in span.nodes} == {("lost", doomed), ("reported", spare)}
    after = [span for span in spans if span.end == "reported"]
    assert max(span.started for span in after) < min(span.ended for span in after), "none of a pack was suspected"
    assert not hosts_of(home)


@pytest.mark.thorough
@pytest.mark.parametrize("loss", ["none is lost", "one is lost"])
def test_a_trial_whose_ranks_lie_on_two_nodes_ends_as_with_both_on_one(
    world: World, nodes: LogicalNodes, twin: Twin, tmp_path: Path, loss: str
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    staying, going = places = [nodes.add(1), nodes.add(1)]
    expected = [("reported", frozenset(places))]
    with running(nodes, log, *sweeping(world, "two ranks", home)) as process:
        if loss == "one is lost":
            wait_for(lambda: bool(saved(home)), process, log)
            nodes.kill(going)
            places = [staying, nodes.add(1)]
            expected = [("lost", frozenset((staying, going))), ("reported", frozenset(places))]
        text = finish(process, log)
    for node in places:
        nodes.dismiss(node)
    assert [(span.end, frozenset(span.nodes)) for span in timeline.read(home / NAME)] == expected
    assert text.count("goes on from its newest checkpoint on another host") == len(expected) - 1
    assert_undisturbed(home, twin("two ranks"))
    assert not hosts_of(home)


def test_a_node_that_joins_late_is_used(world: World, nodes: LogicalNodes, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    places = [nodes.add(1)]
    endless = ["optim.duration=1000000 steps", "evaluation.every=1000000 steps"]
    with running(nodes, log, *sweeping(world, "one process", home), *endless) as process:
        for number in (1, 2):
            wait_for(lambda number=number: len(training(home)) == number, process, log)
            if number == 1:
                places.append(nodes.add(1))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, log.read_text()[-3000:]
    for node in places:
        nodes.dismiss(node)
    spans = timeline.read(home / NAME)
    assert [span.nodes for span in sorted(spans, key=lambda span: span.started)] == [(node,) for node in places]


def training(home: Path) -> set[str]:
    """Trials that have taken a step."""
    return {path.name for path in (home / NAME).glob("small-*") if read_metrics(path).get("train/loss")}


@pytest.mark.thorough
def test_a_trial_leaves_a_node_that_was_given_notice_and_no_failure_is_counted(
    world: World, nodes: LogicalNodes, twin: Twin, tmp_path: Path
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    going, staying = nodes.add(1), nodes.add(1)
    with running(nodes, log, *sweeping(world, "one process", home)) as process:
        wait_for(lambda: len(training(home)) == 2, process, log)
        nodes.drain(going, 60)
        spare = nodes.add(1)
        wait_for(lambda: going in left(home), process, log)
        steps = {int(path.name[-8:]) for path in (home / NAME).glob("*/checkpoints/step-*")}
        text = finish(process, log)
    for node in (staying, spare):
        nodes.dismiss(node)
    nodes.kill(going)
    assert any(step % EVERY for step in steps), "it saved where it was, not where it would have anyway"
    assert f"node {going[:6]} leaves the cluster in" in text
    assert "goes on from its newest checkpoint" not in text
    assert {span.end for span in timeline.read(home / NAME)} == {"stopped", "reported"}
    assert_undisturbed(home, twin("one process"))


@pytest.mark.thorough
def test_both_ranks_of_a_trial_leave_a_node_that_was_given_notice(
    world: World, nodes: LogicalNodes, twin: Twin, tmp_path: Path
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    going = nodes.add(2)
    with running(nodes, log, *sweeping(world, "two ranks", home)) as process:
        wait_for(lambda: bool(training(home)), process, log)
        nodes.drain(going, 60)
        spare = nodes.add(2)
        wait_for(lambda: going in left(home), process, log)
        text = finish(process, log)
    nodes.dismiss(spare)
    nodes.kill(going)
    assert "goes on from its newest checkpoint" not in text
    assert [(span.end, span.nodes) for span in timeline.read(home / NAME)] == [
        ("stopped", (going, going)),
        ("reported", (spare, spare)),
    ]
    assert_undisturbed(home, twin("two ranks"))


def left(home: Path) -> set[str]:
    """Nodes that a trial was stopped on."""
    return {node for span in timeline.read(home / NAME) if span.end == "stopped" for node in span.nodes}


def test_a_second_sweep_gets_its_share_of_a_full_cluster_and_the_first_goes_on_as_if_it_had_not_been_there(
    world: World, nodes: LogicalNodes, twin: Twin, tmp_path: Path
) -> None:
    first, second, log, other = tmp_path / "first", tmp_path / "second", tmp_path / "log", tmp_path / "other"
    node = nodes.add(2)
    short = [*sweeping(world, "one process", second), "optim.duration=20 steps", "budget.trials=1"]
    with running(nodes, log, *sweeping(world, "one process", first), "cluster.yield_after=1") as long:
        wait_for(lambda: len(training(first)) == 2, long, log)
        status = ["cluster", "status", "--address", nodes.address, "--json"]
        told = tmp_path / "told"
        (claim,) = json.loads(finish(start(status, told, variables=settings()), told))["sweeps"]
        assert claim["sweep"].startswith(f"{NAME} (")
        assert (claim["kind"], claim["holds"], claim["wants"], claim["priority"]) == ("CPU", 2, 2, 1)
        with running(nodes, other, *short) as process:
            finish(process, other)
        assert long.poll() is None, "the first one was at its end before the second"
        text = finish(long, log)
    nodes.dismiss(node)
    assert "it shares the cluster with small" in text
    assert "it has the cluster for itself again" in text
    assert "stopped" in {span.end for span in timeline.read(first / NAME)}
    assert {span.end for span in timeline.read(second / NAME)} == {"reported"}
    assert_told_once(second, NAME)
    assert_undisturbed(first, twin("one process"))
    assert not hosts_of(first)


@pytest.mark.thorough
def test_two_sweeps_whose_trials_want_the_same_last_places_both_end(
    world: World, nodes: LogicalNodes, twin: Twin, tmp_path: Path
) -> None:
    """Three places, two ranks each: whoever held one and waited for another would wait for ever."""
    homes = [tmp_path / "first", tmp_path / "second"]
    node = nodes.add(3)
    logs = [home.with_suffix(".log") for home in homes]
    with (
        running(nodes, logs[0], *sweeping(world, "two ranks", homes[0])) as first,
        running(nodes, logs[1], *sweeping(world, "two ranks", homes[1])) as second,
    ):
        finish(first, logs[0])
        finish(second, logs[1])
    nodes.dismiss(node)
    for home in homes:
        assert_undisturbed(home, twin("two ranks"))


@pytest.mark.thorough
def test_a_killed_driver_leaves_nothing_reserved_and_the_sweep_goes_on_on_the_same_nodes(
    world: World, nodes: LogicalNodes, twin: Twin, tmp_path: Path
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    node = nodes.add(2)
    with running(nodes, log, *sweeping(world, "two ranks", home)) as process:
        wait_for(lambda: bool(saved(home)), process, log)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    with running(nodes, log, "sweep", "resume", NAME, "--home", str(home)) as process:
        finish(process, log)
    nodes.dismiss(node)
    assert_undisturbed(home, twin("two ranks"))
    assert not hosts_of(home)


@pytest.mark.thorough
def test_a_lost_head_ends_the_sweep_which_goes_on_on_a_new_cluster(world: World, twin: Twin, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    with logical_nodes(tmp_path / "old") as old:
        old.add(1)
        with running(old, log, *sweeping(world, "one process", home)) as process:
            wait_for(lambda: bool(saved(home)), process, log)
            os.kill(old.head, signal.SIGKILL)
            code = process.wait(120)
    assert code != 0
    with Ledger.open(home) as ledger:
        before = ledger.get(NAME).state
    assert before in (RunState.RUNNING, RunState.INTERRUPTED)
    with logical_nodes(tmp_path / "new") as new:
        new.add(2)
        with running(new, log, "sweep", "resume", NAME, "--home", str(home)) as process:
            finish(process, log)
    assert_undisturbed(home, twin("one process"))


@pytest.mark.thorough
def test_a_head_that_keeps_its_state_on_a_disk_comes_back_and_no_trial_notices(
    world: World, twin: Twin, tmp_path: Path
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    patient = {"RAY_gcs_rpc_server_reconnect_timeout_s": "60"}
    kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "kept")}
    with logical_nodes(tmp_path / "nodes", **patient, **kept) as nodes:
        nodes.add(2)
        with running(nodes, log, *sweeping(world, "one process", home), **patient) as process:
            wait_for(lambda: bool(saved(home)), process, log)
            nodes.revive(after=5)
            text = finish(process, log)
    assert "it goes on" not in text
    assert {span.end for span in timeline.read(home / NAME)} == {"reported"}
    assert_undisturbed(home, twin("one process"))
