"""The driver of a sweep killed again and again at moments nobody chose: its table is the undisturbed sweep's."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest
from programs import call, finish, start
from sweep_outcomes import assert_told_once, outcome
from training_samples import make_world

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.thorough]
NAME, KILLS = "small", 20


def test_a_sweep_whose_driver_is_killed_twenty_times_ends_with_the_same_table(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    sweep = {
        "name": NAME,
        "base": world.words("optim.duration=720 steps", "evaluation.every=60 steps", "tracking.log_every=10"),
        "space": {"optim.lr": "tag(log, interval(1e-4, 3e-2))", "adapter.rank": "choice(2, 4)"},
        "sampler": {"name": "qmc", "seed": 3},
        "pruner": {"name": "halving", "first": "120 steps", "eta": 2},
        "budget": {"trials": 8},
    }
    (tmp_path / "small.yaml").write_text(json.dumps(sweep))
    twin, home, log = tmp_path / "twin", tmp_path / "home", tmp_path / "log"
    words = ["sweep", str(tmp_path / "small.yaml"), "--home"]
    began = time.monotonic()
    call([*words, str(twin)], log)
    undisturbed = time.monotonic() - began

    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    draw, kills = random.Random(seed), 0
    while kills < KILLS and not ended(home):
        process = start([*words, str(home), "--resume"], log)
        time.sleep(draw.uniform(0.0, undisturbed / 2))
        process.kill()
        kills += process.wait(60) < 0
    assert kills >= KILLS // 4
    if not ended(home):
        finish(start([*words, str(home), "--resume"], log), log)
    assert outcome(home, NAME) == outcome(twin, NAME)
    assert_told_once(home, NAME)


def ended(home: Path) -> bool:
    with Ledger.open(home) as ledger:
        return any(row.name == NAME and row.state is RunState.FINISHED for row in ledger.runs("sweep"))
