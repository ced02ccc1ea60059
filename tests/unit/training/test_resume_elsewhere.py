"""A training that goes on in another way is checked before anything is touched, and its records say so afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from training_samples import World

from ftcluster.cli import main
from ftcluster.config.compose import compose
from ftcluster.config.identity import identity
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.records import SPOOL, read_lines
from ftcluster.training.launch import get_ready, register, run_training, stored_config
from ftcluster.training.memory_record import change_memory, read_memory


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def stopped(world: World, tmp_path: Path, ledger: Ledger) -> RunRow:
    """A training that was stopped before its first step."""
    words = world.words("name=mine", "optim.duration=2 steps", f"home={tmp_path}")
    register(get_ready(compose(words)), ledger, "mine")
    ledger.set_state("mine", RunState.RUNNING)
    return ledger.set_state("mine", RunState.INTERRUPTED)


def test_the_command_line_refuses_what_would_change_the_result_and_leaves_the_run_alone(
    stopped: RunRow, tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["train", "--resume", "mine", "seed=3", "cluster.ranks=2", "data.limit=5", "--home", str(tmp_path)])
    said = " ".join(capsys.readouterr().err.split())
    assert code == 2
    assert "seed=3 may change the result" in said
    assert "data.limit=5 may change the result" in said
    assert "cluster.ranks=2 may" not in said
    assert "these may change: cluster.*, engine.name, " in said
    assert ledger.get("mine") == stopped
    assert not Path(stopped.folder).exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["cluster.ranks=4", "engine.stage=3", "engine.hpz=3"], "engine.hpz is 3; it divides the 4 ranks"),
        (["cluster.ranks=2", "engine.offload_parameters=cpu"], "engine.offload_parameters needs engine.stage=3"),
        (["engine.stage=3"], "engine.stage is DeepSpeed's and engine.name=auto"),
    ],
)
def test_a_layout_that_cannot_be_is_told_before_the_run_goes_on(
    stopped: RunRow, words: list[str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        get_ready(stored_config(stopped, words), begun=True)


@pytest.mark.slow
def test_ledger_spool_and_folder_tell_what_it_went_on_with(stopped: RunRow, ledger: Ledger) -> None:
    folder = Path(stopped.folder)
    folder.mkdir()
    change_memory(folder, halved=1, micro_batch=1)
    config = stored_config(stopped, ["optim.micro_batch=4", "cluster.hang_after=60"])
    result = run_training(stopped, get_ready(config, begun=True), ledger, lambda _: None)
    assert result.row.state is RunState.FINISHED
    assert result.row.identity == identity(config) != stopped.identity
    assert stored_config(replace(result.row, state=RunState.INTERRUPTED)) == config
    tags: dict[str, str] = {}
    for line in read_lines(folder / SPOOL):
        tags |= line.record["values"] if line.record["kind"] == "tags" else {}
    assert tags["ftcluster.identity"] == result.row.identity
    assert {key: value for key, value in tags.items() if key.startswith("ftcluster.resumed.")} == {
        "ftcluster.resumed.0.optim.micro_batch": "4",
        "ftcluster.resumed.0.cluster.hang_after": "60.0",
    }
    assert read_memory(folder).halved == 0
    assert "micro_batch: 4" in (folder / "run.yaml").read_text()
