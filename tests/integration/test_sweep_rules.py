"""Rules between trials hold when a driver is killed: brackets, medians, seeds, variants and named trials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import call, start, wait_for
from sweep_outcomes import assert_told_once
from training_samples import World, curves, make_world, result_bytes

from ftcluster.contracts.folder import RunFolder
from ftcluster.evaluation.subject import has_result
from ftcluster.ledger.store import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

SWEEP = """\
name: rules
base: {base}
space:
  adapter: choice(lora, none)
  adapter.rank: choice(2, 4)
  optim.lr: tag(log, interval(1e-4, 3e-2))
variants:
  order:
    small: [optim.batch_size=4]
    large: [optim.batch_size=8]
constraints: ["order == 'large' or optim.lr < 1e-2"]
always:
  usual: [optim.lr=1e-3, adapter.rank=8]
sampler: {{name: qmc, seed: 3}}
pruner: {{name: {pruner}, first: 6 steps, startup: 2}}
budget: {{trials: 5}}
repeats: {repeats}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def table(home: Path) -> list[tuple[object, ...]]:
    """Trials to the bit; a full fine-tune that was pruned has no result."""
    with Ledger.open(home) as ledger:
        rows = ledger.runs(parent="rules")
    return [
        (
            *(row.name, row.state, row.step, dict(row.metrics), dict(row.overrides), row.reason),
            curves(Path(row.folder)),
            result_bytes(Path(row.folder)) if has_result(RunFolder(Path(row.folder))) else {},
        )
        for row in rows
    ]


@pytest.mark.parametrize(("pruner", "repeats"), [("median", 2), ("hyperband", 1)])
def test_a_killed_sweep_ends_as_an_undisturbed_one(world: World, tmp_path: Path, pruner: str, repeats: int) -> None:
    file = world.folder / f"{pruner}.yaml"
    base = json.dumps(world.words("optim.micro_batch=4", "evaluation.every=24 steps"))
    file.write_text(SWEEP.format(base=base, pruner=pruner, repeats=repeats))
    quiet, killed, log = tmp_path / "quiet", tmp_path / "killed", tmp_path / "log"
    call(["sweep", str(file), "--home", str(quiet)], log)
    process = start(["sweep", str(file), "--home", str(killed)], log)
    wait_for(lambda: log.read_text().count(" running to step ") >= 7, process, log)
    process.kill()
    process.wait()
    call(["sweep", "resume", "rules", "--home", str(killed)], log)
    assert table(killed) == table(quiet)
    assert_told_once(killed, "rules")
    with Ledger.open(quiet) as ledger:
        trials = ledger.runs(parent="rules")
    assert {trial.state.value for trial in trials} == {"finished", "pruned"}
    assert [trial.overrides.get("named") for trial in trials[: repeats + 1]] == ["usual"] * repeats + [None]
