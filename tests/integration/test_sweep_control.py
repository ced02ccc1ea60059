"""A running sweep is paused, stopped and extended from another process, as its user would; nothing is lost by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import call, finish, start, wait_for
from sweep_outcomes import assert_told_once, outcome
from training_samples import World, make_world

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
NAME = "small"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    sweep = {
        "name": NAME,
        "base": world.words("optim.duration=160 steps", "evaluation.every=40 steps", "tracking.log_every=20"),
        "space": {"adapter.rank": "choice(2, 4, 8)"},
        "sampler": {"name": "grid"},
        "budget": {"trials": 2},
    }
    (world.folder / "small.yaml").write_text(json.dumps(sweep))
    return world


def command(world: World, home: Path, *words: str) -> list[str]:
    return ["sweep", str(world.folder / "small.yaml"), "--home", str(home), *words]


def rows(home: Path) -> dict[str, RunRow]:
    with Ledger.open(home) as ledger:
        return {row.name: row for row in ledger.runs()}


def test_pauses_change_nothing_and_a_longer_sweep_has_more_trials(world: World, tmp_path: Path) -> None:
    twin, home, log, asked = tmp_path / "twin", tmp_path / "home", tmp_path / "log", tmp_path / "asked"
    call(command(world, twin, "budget.trials=3"), log)

    def ask(verb: str, *words: str) -> str:
        return call(["sweep", verb, *words, "--home", str(home)], asked)

    def state(name: str) -> RunState | None:
        found = rows(home)
        return found[name].state if name in found else None

    process = start(command(world, home), log)
    wait_for(lambda: any((home / NAME / "small-00" / "checkpoints").glob("step-*")), process, log)
    ask("pause", "small-00")
    wait_for(lambda: state("small-00") is RunState.INTERRUPTED, process, log)
    assert rows(home)["small-00"].reason.startswith("paused by ")
    assert state("small-01") is not RunState.INTERRUPTED
    assert "small-00" in ask("resume", "small-00")
    wait_for(lambda: state("small-00") is RunState.RUNNING, process, log)
    ask("pause", NAME)
    wait_for(lambda: state(NAME) is RunState.PAUSED, process, log)
    assert all(row.state in (RunState.PAUSED, RunState.INTERRUPTED, RunState.FINISHED) for row in rows(home).values())
    listed = json.loads(ask("list", "--json"))
    assert [(each["sweep"], each["state"], each["asked"]) for each in listed] == [(NAME, "paused", "pause")]
    ask("extend", NAME, "--trials", "3")
    ask("resume", NAME)
    text = finish(process, log)
    assert "paused by " in text
    assert outcome(home, NAME) == outcome(twin, NAME)
    assert_told_once(home, NAME)


@pytest.mark.thorough
def test_what_is_stopped_keeps_its_best_and_can_be_extended(world: World, tmp_path: Path) -> None:
    home, log, asked = tmp_path / "home", tmp_path / "log", tmp_path / "asked"
    words = ["pruner.name=halving", "pruner.first=40 steps", "optim.duration=100000 steps", "budget.trials=2"]
    process = start(command(world, home, *words), log)
    wait_for(lambda: any(row.rung is not None for row in rows(home).values()), process, log)
    call(["sweep", "stop", NAME, "--home", str(home)], asked)
    text = finish(process, log)
    assert "best: small-0" in text
    found = rows(home)
    assert found[NAME].state is RunState.FINISHED
    assert found[NAME].reason.startswith("stopped by ")
    assert {row.state for row in found.values() if row.kind == "trial"} <= {RunState.KILLED, RunState.PRUNED}
    status = json.loads(call(["sweep", "status", NAME, "--home", str(home), "--json"], asked))
    assert status["best"] in found
    call(["sweep", "extend", NAME, "--trials", "3", "--home", str(home)], asked)
    call(["sweep", "clone", "small-00", "optim.lr=1e-3", "--home", str(home)], asked)
    text = call(["sweep", "add", NAME, "optim.lrr=1", "--home", str(home)], asked, expected=2)
    assert "optim.lr?" in text
    assert rows(home)[NAME].state is RunState.WAITING
    process = start(["sweep", "resume", NAME, "--home", str(home)], log)
    wait_for(lambda: rows(home)[NAME].state is RunState.RUNNING and "small-02" in rows(home), process, log)
    assert rows(home)["small-02"].overrides == {"named": "added-1", "adapter.rank": 2, "optim.lr": 1e-3}
    process.kill()
    process.wait()
    call(["sweep", "stop", NAME, "--home", str(home)], asked)
    assert {row.state for row in rows(home).values()} <= {RunState.FINISHED, RunState.KILLED, RunState.PRUNED}
    lines = call(["sweep", "watch", NAME, "--home", str(home)], asked)
    assert "small is finished: stopped by " in lines


def test_trials_that_all_fail_alike_end_the_sweep_at_once(world: World, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words = ["adapter.rank=4", "optim.lr=choice(1e30,2e30,3e30,4e30,5e30,6e30)", "budget.trials=6", "optim.warmup=0"]
    text = finish(start(command(world, home, *words, "cluster.max_trials=1"), log), log, expected=5)
    assert "the first 3 trials failed alike: " in text
    assert [row.state for row in rows(home).values() if row.kind == "trial"].count(RunState.FAILED) == 3
