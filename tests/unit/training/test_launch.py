"""A training is checked before it is registered, registered before it runs, and told how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from training_samples import World

from ftcluster.config.compose import compose
from ftcluster.config.environment import home_option
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError, ModelError, StoreError, UsageError
from ftcluster.ledger.process import Owner, this_process
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.training.launch import get_ready, register, run_training, stored_config


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


def test_every_problem_of_config_and_files_is_told_at_once(world: World, tmp_path: Path) -> None:
    words = world.words("optim.micro_batch=3", "data.train=[/nowhere/rows.jsonl]", "optim.lr=-1", f"home={tmp_path}")
    with pytest.raises(ConfigError) as caught:
        get_ready(compose(words))
    text = str(caught.value)
    assert "optim.batch_size=4 is no multiple of optim.micro_batch=3" in text
    assert "optim.lr=-1 must be above 0" in text
    assert "/nowhere/rows.jsonl does not exist" in text
    assert not list(tmp_path.iterdir())


def test_a_model_problem_is_told_before_anything_is_registered(world: World, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no linear layer called nope"):
        get_ready(compose(world.words("adapter.targets=[nope]", f"home={tmp_path}")))


def test_a_ready_training_knows_its_length(world: World, home: Path) -> None:
    words = world.words("optim.duration=2 epochs", "evaluation.every=0.5 epochs", f"home={home}")
    plan = get_ready(compose(words)).plan
    assert plan.total == 2 * plan.steps_per_epoch
    assert plan.evaluate_every == plan.save_every == -(-plan.steps_per_epoch // 2)
    saving = get_ready(compose([*words, "engine.checkpoint_every=1 steps"])).plan
    assert saving.save_every == 1


def test_runs_are_registered_under_the_wanted_name_or_a_free_one_like_it(
    world: World, home: Path, ledger: Ledger
) -> None:
    ready = get_ready(compose(world.words(f"home={home}")))
    assert [register(ready, ledger, "Lora_SFT").name for _ in range(2)] == ["lora-sft", "lora-sft-2"]
    mine = get_ready(compose(world.words("name=mine", f"home={home}")))
    row = register(mine, ledger, "whatever")
    assert (row.name, row.kind, row.folder, row.state) == ("mine", "train", str(home / "mine"), RunState.WAITING)
    assert row.config["name"] == "mine"
    with pytest.raises(UsageError, match=r'there is a run "mine" already.*\n.*try name=mine-2'):
        register(mine, ledger, "whatever")


def test_what_can_be_resumed_is_a_training_that_has_not_ended(world: World, home: Path, ledger: Ledger) -> None:
    ready = get_ready(compose(world.words("name=mine", f"home={home}")))
    row = register(ready, ledger, "mine")
    assert stored_config(row) == ready.config
    ledger.set_state("mine", RunState.RUNNING)
    for state, refused in ((RunState.INTERRUPTED, False), (RunState.FAILED, False)):
        assert (stored_config(ledger.set_state("mine", state)) == ready.config) is not refused
    ledger.reopen("mine")
    ledger.set_state("mine", RunState.RUNNING)
    with pytest.raises(UsageError, match=r"mine is finished; there is nothing to resume\n  -> start a new run"):
        stored_config(ledger.set_state("mine", RunState.FINISHED))


def test_a_sweeps_trial_is_resumed_with_its_sweep() -> None:
    row = RunRow(name="many-00", kind="trial", folder="/f", parent="many", config={}, identity="")
    with pytest.raises(UsageError, match=r"many-00 is a trial, not a training\n  -> ftcluster sweep resume many"):
        stored_config(row)


def test_a_run_that_another_living_process_has_is_refused_and_stays_its_own(
    world: World, home: Path, ledger: Ledger
) -> None:
    ready = get_ready(compose(world.words("name=taken", f"home={home}")))
    register(ready, ledger, "taken")
    other = Owner("elsewhere", 4711, 0.0, "b")  # nobody here can tell whether it lives
    ledger.claim("taken", other, lambda _: None)
    with pytest.raises(StoreError, match="taken is being run by process 4711 on elsewhere"):
        run_training(ledger.get("taken"), ready, ledger, lambda _: None)
    row = ledger.get("taken")
    assert (row.state, row.owner) == (RunState.RUNNING, other)
    assert row.owner != this_process()


def test_the_home_is_named_in_printed_commands_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert home_option(tmp_path / "runs") == ""
    assert home_option(tmp_path / "other") == f" --home {tmp_path / 'other'}"
    assert home_option(Path("/my runs")) == " --home '/my runs'"


@pytest.mark.slow  # the advice rehearses two more ways
def test_what_cannot_fit_is_told_before_anything_is_registered(world: World, home: Path) -> None:
    words = world.words("cluster.memory_gib=0.0001", "optim.micro_batch=4", f"home={home}")
    with pytest.raises(UsageError, match=r"it would take .* of memory, and there is 104\.9 KiB") as caught:
        get_ready(compose(words))
    assert caught.value.where == "cluster.memory_gib"
    assert "ftcluster plan" in caught.value.remedy
