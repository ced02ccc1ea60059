"""Sweeps whose driver dies at each write of the ledger in turn, whose clock is set, or that are asked to stop at a bad
moment: what is left is the undisturbed sweep, or a sweep that has ended; nothing between.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import call, finish, start, wait_for
from sweep_outcomes import Ended, assert_told_once, outcome
from training_samples import World, curves, make_world, result_bytes

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep import timeline

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.thorough]
NAME = "small"
SWEEP = {
    "name": NAME,
    "space": {"optim.lr": "tag(log, interval(1e-4, 3e-2))", "adapter.rank": "choice(2, 4)"},
    "sampler": {"name": "qmc", "seed": 3},
    "pruner": {"name": "halving", "first": "12 steps", "eta": 2},
    "budget": {"trials": 4},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    base = world.words("optim.duration=48 steps", "evaluation.every=12 steps", "tracking.log_every=4")
    (world.folder / "small.yaml").write_text(json.dumps({**SWEEP, "base": base}))
    return world


@pytest.fixture(scope="module")
def twin(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    folder = tmp_path_factory.mktemp("twin")
    call(command(world, folder / "home"), folder / "log")
    return outcome(folder / "home", NAME)


def command(world: World, home: Path, *words: str) -> list[str]:
    return ["sweep", str(world.folder / "small.yaml"), "--home", str(home), *words]


def rows(home: Path) -> dict[str, RunRow]:
    with Ledger.open(home) as ledger:
        return {row.name: row for row in ledger.runs()}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_driver_killed_at_each_write_of_the_ledger_in_turn_arrives_at_the_same_table(
    world: World, tmp_path: Path, twin: dict[str, Ended], when: str
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    for count in itertools.count(1):
        death = ("deaths", "die_at_write", [count, when])
        if (code := start([*command(world, home), "--resume"], log, before=death).wait(300)) != -9:
            break
    assert code == 0, log.read_text()[-3000:]
    assert count > 5, "it was to die more often"
    assert outcome(home, NAME) == twin
    assert_told_once(home, NAME)


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_sweep_that_goes_on_under_another_time_of_day_ends_with_the_same_table(
    world: World, tmp_path: Path, twin: dict[str, Ended], seconds: int
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(command(world, home), log)
    wait_for(lambda: "pruned" in log.read_text(), process, log)
    process.kill()
    process.wait()
    finish(start([*command(world, home), "--resume"], log, before=("skewed_clock", "shift", [seconds])), log)
    assert outcome(home, NAME) == twin
    assert_told_once(home, NAME)


def begun(home: Path) -> bool:
    """It stands in the ledger; Ray and hosts are still starting."""
    return NAME in rows(home)


def saving(home: Path) -> bool:
    """A checkpoint is being written, or was just now."""
    return any((home / NAME).glob("*/checkpoints/*"))


def promoted(home: Path) -> bool:
    """A trial goes on behind its first rung."""
    return any(row.state is RunState.RUNNING and row.rung is not None for row in rows(home).values())


MOMENTS = (begun, saving, promoted)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_sweep_that_is_stopped_at_a_bad_moment_ends_with_all_its_trials(
    world: World, tmp_path: Path, moment: Callable[[Path], bool]
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = start(command(world, home, "optim.duration=100000 steps"), log)
    wait_for(lambda: moment(home), process, log)
    call(["sweep", "stop", NAME, "--home", str(home)], tmp_path / "asked")
    process.wait(120)
    found = rows(home)
    assert found[NAME].state in (RunState.FINISHED, RunState.KILLED), log.read_text()[-3000:]
    assert found[NAME].reason.startswith("stopped by ")
    trials = {row.state for row in found.values() if row.kind == "trial"}
    assert trials <= {RunState.KILLED, RunState.PRUNED}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_sweep_that_is_paused_at_a_bad_moment_goes_on_to_the_same_table(
    world: World, tmp_path: Path, twin: dict[str, Ended], moment: Callable[[Path], bool]
) -> None:
    home, log, asked = tmp_path / "home", tmp_path / "log", tmp_path / "asked"
    process = start(command(world, home), log)
    wait_for(lambda: moment(home), process, log)
    call(["sweep", "pause", NAME, "--home", str(home)], asked)
    wait_for(lambda: rows(home)[NAME].state is RunState.PAUSED, process, log)
    assert RunState.RUNNING not in {row.state for row in rows(home).values()}
    call(["sweep", "resume", NAME, "--home", str(home)], asked)
    finish(process, log)
    assert outcome(home, NAME) == twin
    assert_told_once(home, NAME)


def test_a_trial_that_is_stopped_in_the_middle_leaves_its_place_to_the_next(world: World, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words = ["optim.duration=100000 steps", "pruner.name=none", "budget.trials=2", "cluster.max_trials=1"]
    process = start(command(world, home, *words), log)
    wait_for(lambda: saving(home), process, log)
    assert "small-01" not in rows(home)
    call(["sweep", "stop", "small-00", "--home", str(home)], tmp_path / "asked")
    wait_for(lambda: any((home / NAME / "small-01").glob("checkpoints/*")), process, log)
    first, second = (rows(home)[name] for name in ("small-00", "small-01"))
    assert (first.state, second.state) == (RunState.KILLED, RunState.RUNNING)
    (span,) = timeline.read(home / NAME)
    assert (span.trial, span.end) == ("small-00", "stopped")
    call(["sweep", "stop", NAME, "--home", str(home)], tmp_path / "asked")
    process.wait(120)
    assert {row.state for row in rows(home).values() if row.kind == "trial"} == {RunState.KILLED}


def test_a_trial_that_diverges_in_a_pack_is_not_tried_again_and_changes_no_other(world: World, tmp_path: Path) -> None:
    log, good = tmp_path / "log", ("small-00", "small-01")
    found = []
    for name, rates in (("with", "1e-3,3e-3,1e30"), ("without", "1e-3,3e-3")):
        words = [f"optim.lr=choice({rates})", "adapter.rank=4", "sampler.name=grid", "pruner.name=none"]
        call(command(world, tmp_path / name, *words), log)
        folders = [tmp_path / name / NAME / trial for trial in good]
        found.append([(rows(tmp_path / name)[f.name].metrics, curves(f), result_bytes(f)) for f in folders])
    assert found[0] == found[1]
    bad = rows(tmp_path / "with")["small-02"]
    assert bad.state is RunState.FAILED
    assert "became" in bad.reason
    assert [span.end for span in timeline.read(tmp_path / "with" / NAME) if span.trial == bad.name] == ["failed"]
