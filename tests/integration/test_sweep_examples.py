"""Each shipped sweep from its file to its end, on a tiny model and with few steps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from programs import call, start, wait_for
from sweep_outcomes import outcome
from training_samples import World, make_world

from ftcluster.config.environment import sweeps_folder
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger

FEW = ["optim.duration=12 steps", "evaluation.every=12 steps", "evaluation.generate=0"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def run(world: World, folder: Path, name: str, *words: str) -> tuple[dict[str, Any], list[RunRow]]:
    """What the command says at the end, and the trials."""
    own = [word for word in world.words() if not word.startswith(("experiment", "evaluation", "optim.duration"))]
    home = folder / "home"
    said = call(["sweep", name, *own, *FEW, *words, "--home", str(home), "--json"], folder / "log")
    result = json.loads(said[said.index("{\n") :])
    with Ledger.open(home) as ledger:
        assert ledger.get(result["sweep"]).state is RunState.FINISHED
        return result, ledger.runs(parent=result["sweep"])


def states(trials: list[RunRow]) -> Counter[str]:
    return Counter(trial.state.value for trial in trials)


def test_every_shipped_sweep_is_run_here() -> None:
    source = Path(__file__).read_text()
    assert not [file.stem for file in sweeps_folder().glob("*.yaml") if f'"{file.stem}"' not in source]


@pytest.mark.slow
@pytest.mark.thorough
def test_small_first_trains_on_parts_of_the_data_and_judges_on_the_same_rows(world: World, tmp_path: Path) -> None:
    _, trials = run(world, tmp_path, "small_first", "data.limit=8,40,0", "optim.duration=2 epochs", "optim.lr=1e-2")
    assert states(trials) == {"finished": 3}
    assert [trial.step for trial in trials] == [4, 20, 48]
    losses = [trial.metrics["eval/loss"] for trial in trials]
    assert losses == sorted(losses, reverse=True)
    compared = call(["compare", "small-first", "--home", str(tmp_path / "home")], tmp_path / "log")
    assert "small-first-02" in compared


@pytest.mark.slow
@pytest.mark.thorough
def test_seeds_are_judged_together(world: World, tmp_path: Path) -> None:
    result, trials = run(world, tmp_path, "seeds", "pruner.first=4 steps", "repeats=2")
    assert [(trial.overrides["optim.lr"], trial.config["seed"]) for trial in trials] == [
        (lr, seed) for lr in (2.5e-3, 5e-3, 1e-2) for seed in (17, 18)
    ]
    assert states(trials) == {"pruned": 4, "finished": 2}
    finished = [trial for trial in trials if trial.state is RunState.FINISHED]
    assert {trial.overrides["optim.lr"] for trial in finished} == {1e-2}
    assert result["best"] == finished[0].name


@pytest.mark.slow
@pytest.mark.thorough
def test_loss_and_size_ends_with_a_front(world: World, tmp_path: Path) -> None:
    result, trials = run(world, tmp_path, "loss_and_size", "budget.trials=5")
    assert states(trials) == {"finished": 5}
    sizes = {trial.name: trial.metrics["trial/parameters"] for trial in trials}
    losses = {trial.name: trial.metrics["eval/loss"] for trial in trials}
    assert len(set(sizes.values())) > 2
    assert {min(sizes, key=lambda name: (sizes[name], losses[name])), result["best"]} <= set(result["front"])


@pytest.mark.slow
@pytest.mark.thorough
def test_full_or_lora_trains_each_full_fine_tune_once(world: World, tmp_path: Path) -> None:
    _, trials = run(world, tmp_path, "full_or_lora", "optim.lr=1e-3,1e-2", "pruner.first=6 steps", "pruner.startup=2")
    assert [(trial.overrides["adapter"], trial.overrides.get("adapter.rank")) for trial in trials] == [
        ("lora", 4),
        ("lora", 4),
        ("lora", 16),
        ("lora", 16),
        ("none", None),
    ]
    assert [trial.config["adapter"]["kind"] for trial in trials] == ["lora"] * 4 + ["none"]
    assert states(trials)["failed"] == 0


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("name", ["lora_rank_lr", "tool_calls"])
def test_lora_rank_lr_and_tool_calls_prune(world: World, tmp_path: Path, name: str) -> None:
    _, trials = run(world, tmp_path, name, "budget.trials=4", "pruner.first=4 steps")
    assert states(trials)["finished"] == 1
    assert states(trials)["pruned"] == len(trials) - 1
    assert ("usual" in {trial.overrides.get("named") for trial in trials}) == (name == "lora_rank_lr")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_sweep_whose_money_is_spent_keeps_the_best_so_far_and_says_why(world: World, tmp_path: Path) -> None:
    words = ["optim.duration=100000 steps", "pruner.first=3 steps", "pruner.eta=2", "budget.trials=2"]
    _, trials = run(world, tmp_path, "lora_rank_lr", *words, "budget.money=3", "budget.price={cpu: 1000}")
    assert {trial.reason for trial in trials if trial.state is RunState.KILLED} == {"budget.money=3 is spent"}
    assert any(trial.metrics for trial in trials)


@pytest.mark.slow
@pytest.mark.thorough
def test_population_takes_over_the_state_of_the_best_and_a_kill_changes_nothing(world: World, tmp_path: Path) -> None:
    words = ["budget.trials=4", "pruner.first=4 steps"]
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    quiet.mkdir()
    killed.mkdir()
    _, trials = run(world, quiet, "population", *words)
    assert states(trials) == {"finished": 4}
    forked = [
        name for name in ("population-00", "population-01", "population-02", "population-03") if forks(quiet, name)
    ]
    assert forked
    assert all("from population-" in told for name in forked for told in forks(quiet, name))
    log, home = killed / "log", killed / "home"
    own = [word for word in world.words() if not word.startswith(("experiment", "evaluation", "optim.duration"))]
    process = start(["sweep", "population", *own, *FEW, *words, "--home", str(home)], log)
    wait_for(lambda: "to step 8 of 12" in log.read_text(), process, log)
    process.kill()
    process.wait()
    call(["sweep", "resume", "population", "--home", str(home)], log)
    assert outcome(home, "population") == outcome(quiet / "home", "population")
    with Ledger.open(home) as ledger:
        again = ledger.runs(parent="population")
    assert [trial.overrides for trial in again] == [trial.overrides for trial in trials]


def forks(folder: Path, trial: str) -> list[str]:
    """What a trial's records say of whom it went on from."""
    spool = (folder / "home" / "population" / trial / "spool.jsonl").read_text()
    records = [json.loads(line) for line in spool.splitlines()]
    tags = {key: value for record in records if record["kind"] == "tags" for key, value in record["values"].items()}
    return [value for key, value in tags.items() if key.startswith("ftcluster.forked")]
