"""Trainings and sweeps that were stopped go on with other ranks and another ZeRO stage, as their user asks for it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from programs import call, finish, start, wait_for
from training_samples import World, make_world, result_bytes

from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState
from ftcluster.engine.checkpoint import step_of
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.history import read_metrics

pytestmark = pytest.mark.whole
pytest.importorskip("deepspeed", reason="sharded trials need DeepSpeed")

STEPS = 40
WORDS = (
    f"optim.duration={STEPS} steps",
    "optim.batch_size=5",
    "optim.micro_batch=5",
    "evaluation.every=20 steps",
    "engine.checkpoint_every=4 steps",
    "evaluation.max_rows=7",
    "adapter.dropout=0",
)
FP32 = 5e-6  # losses of 40 steps; measured: 8e-7


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def command(world: World, home: Path, *words: str) -> list[str]:
    return ["train", *world.words(*WORDS, *words), "--home", str(home)]


def again(home: Path, *words: str) -> list[str]:
    return ["train", "--resume", "run", *words, "--home", str(home)]


def stored(home: Path, name: str = "run") -> RunRow:
    with Ledger.open(home) as ledger:
        return ledger.get(name)


def stopped_after_a_checkpoint(words: list[str], home: Path) -> int:
    """Stop a training by Ctrl-C behind its next checkpoint; the step at which it saved."""
    log, before = home / "log", newest_step(home)
    process = start(words, log)
    wait_for(lambda: newest_step(home) > before, process, log)
    process.send_signal(signal.SIGINT)
    finish(process, log, expected=130)
    assert before < newest_step(home) < STEPS
    return newest_step(home)


def newest_step(home: Path) -> int:
    return max(map(step_of, (home / "run" / "checkpoints").glob("step-*")), default=0)


def losses(home: Path, name: str) -> dict[str, list[float]]:
    row = stored(home, name)
    assert row.state is RunState.FINISHED
    found = read_metrics(Path(row.folder))
    assert [point.step for point in found["train/loss"]] == list(range(1, STEPS + 1))
    return {key: [point.value for point in found[key]] for key in ("train/loss", "eval/loss")}


def tags(home: Path) -> dict[str, str]:
    run_id = stored(home).mlflow_run_id
    assert run_id
    found: dict[str, str] = MlflowClient(f"sqlite:///{home}/mlflow.db").get_run(run_id).data.tags
    return found


def test_lora_goes_on_from_one_rank_on_two_and_on_one_again(world: World, tmp_path: Path) -> None:
    words = ("engine.precision=fp64",)
    call(command(world, tmp_path, "name=twin", *words), tmp_path / "log")
    first = stopped_after_a_checkpoint(command(world, tmp_path, "name=run", *words), tmp_path)
    began = stored(tmp_path)
    second = stopped_after_a_checkpoint(again(tmp_path, "cluster.ranks=2", "optim.micro_batch=1"), tmp_path)
    row = stored(tmp_path)
    assert (row.config["cluster"]["ranks"], row.config["optim"]["micro_batch"]) == (2, 1)
    assert row.identity != began.identity
    call(again(tmp_path, "cluster.ranks=1"), tmp_path / "log")
    mine, twins = losses(tmp_path, "run"), losses(tmp_path, "twin")
    assert mine["train/loss"] == pytest.approx(twins["train/loss"], abs=1e-10)
    assert mine["eval/loss"] == pytest.approx(twins["eval/loss"], abs=1e-10)
    told = {key: value for key, value in tags(tmp_path).items() if key.startswith("ftcluster.resumed.")}
    assert told == {
        f"ftcluster.resumed.{first}.cluster.ranks": "2",
        f"ftcluster.resumed.{first}.optim.micro_batch": "1",
        f"ftcluster.resumed.{second}.cluster.ranks": "1",
    }
    assert tags(tmp_path)["ftcluster.identity"] == stored(tmp_path).identity == row.identity
    readable = yaml.safe_load(RunFolder(tmp_path / "run").config.read_text())
    assert (readable["cluster"]["ranks"], readable["optim"]["micro_batch"]) == (1, 1)


@pytest.mark.thorough
def test_a_full_fine_tune_goes_on_from_stage_2_at_stage_3(world: World, tmp_path: Path) -> None:
    words = ("adapter=none", "optim.lr=1e-3")
    call(command(world, tmp_path, "name=twin", "engine=local", *words), tmp_path / "log")
    begun = command(world, tmp_path, "name=run", "engine=deepspeed", "cluster.ranks=2", *words)
    step = stopped_after_a_checkpoint(begun, tmp_path)
    call(again(tmp_path, "engine.stage=3"), tmp_path / "log")
    assert stored(tmp_path).config["engine"]["stage"] == 3
    assert tags(tmp_path)[f"ftcluster.resumed.{step}.engine.stage"] == "3"
    mine, twins = losses(tmp_path, "run"), losses(tmp_path, "twin")
    assert mine["train/loss"] == pytest.approx(twins["train/loss"], abs=FP32)
    assert mine["eval/loss"] == pytest.approx(twins["eval/loss"], abs=FP32)


@pytest.mark.thorough
def test_the_trials_of_a_sweep_go_on_over_two_ranks_with_the_bits_of_their_runs_alone(
    world: World, tmp_path: Path
) -> None:
    sweep = {
        "name": "small",
        "base": world.words(*WORDS, "engine=packed"),
        "space": {"adapter.rank": "choice(2, 4)"},
        "sampler": {"name": "grid"},
    }
    (tmp_path / "small.yaml").write_text(json.dumps(sweep))
    log = tmp_path / "log"
    process = start(["sweep", str(tmp_path / "small.yaml"), "--home", str(tmp_path)], log)
    wait_for(lambda: any(tmp_path.glob("small/small-00/checkpoints/step-*")), process, log)
    process.send_signal(signal.SIGINT)
    finish(process, log, expected=130)
    call(["sweep", "resume", "small", "cluster.ranks=2", "--home", str(tmp_path)], log)
    assert stored(tmp_path, "small").config["base"]["cluster"]["ranks"] == 2
    with Ledger.open(tmp_path) as ledger:
        trials = ledger.runs(parent="small")
    assert [trial.config["cluster"]["ranks"] for trial in trials] == [2, 2]
    for trial in trials:
        alone = f"alone-{trial.number}"
        words = ("engine=packed", f"adapter.rank={trial.overrides['adapter.rank']}", f"name={alone}")
        call(command(world, tmp_path, *words), log)
        assert losses(tmp_path, trial.name) == losses(tmp_path, alone)
        assert result_bytes(Path(trial.folder)) == result_bytes(tmp_path / alone)
