"""A sweep is planned with real probes, then launched, and says what was foretold beside what it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from programs import call
from training_samples import World, make_world

from ftcluster.ledger.store import Ledger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    sweep = {
        "name": "planned",
        "base": world.words("cluster.memory_gib=0.002", "cluster.trials_per_host=2", "cluster.max_trials=1"),
        "space": {"adapter.rank": "choice(2, 64)", "optim.lr": "choice(1e-3, 3e-3)"},
        "sampler": {"name": "grid"},
        "pruner": {"name": "halving", "first": "6 steps", "eta": 2},
        "budget": {"hours": 5},
    }
    (world.folder / "planned.yaml").write_text(json.dumps(sweep))
    return world


def found(text: str) -> dict[str, Any]:
    """The JSON behind the notices."""
    told: dict[str, Any] = json.loads(text[text.index("{\n") :])
    return told


def planned(world: World, home: Path, log: Path) -> tuple[list[str], dict[str, Any]]:
    """The command that launches the sweep, and its plan."""
    words = ["sweep", str(world.folder / "planned.yaml"), "--home", str(home)]
    return words, found(call([*words, "--plan", "--json"], log))


def test_a_plan_says_what_fits_and_what_it_takes_and_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    _, plan = planned(world, home, tmp_path / "log")
    assert {path.name for path in home.iterdir()} == {"prepared", "forecasts"}
    assert [each["settings"] for each in plan["too_large"]] == [{"adapter.rank": 64}]
    assert plan["too_large"][0]["computed_with"] == []
    (kind,) = plan["kinds"]
    assert (kind["trials"], kind["steps"], kind["trials_per_host"], kind["probed"]) == (2, 24, 2, True)
    assert kind["seconds_per_step"] > 0
    assert plan["low"] <= plan["seconds"] <= plan["high"]
    assert [(span["trial"], span["rung"]) for span in plan["timeline"]][-1] in {("planned-00", 2), ("planned-01", 2)}
    assert plan["disk_bytes_in_the_end"] < plan["disk_bytes_at_most"] < plan["disk_bytes_free"]


@pytest.mark.thorough
def test_what_was_planned_is_held_against_what_happens(world: World, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    words, plan = planned(world, home, log)
    text = call(words, log)
    assert "too large: adapter.rank=64 takes " in text
    assert "Foretold from a probe: " in text
    with Ledger.open(home) as ledger:
        trials = ledger.runs(parent="planned")
    assert [trial.overrides["adapter.rank"] for trial in trials] == [2, 2]
    status = found(call(["sweep", "status", "planned", "--home", str(home), "--json"], log))
    assert status["seconds_left"] == 0
    assert "spent: " in call(["sweep", "status", "planned", "--home", str(home)], log)
    foretold = found(call(["report", "planned", "--home", str(home), "--json"], log))["foretold"]
    assert foretold["prediction"]["seconds"] == plan["seconds"]
    assert 0.8 * foretold["prediction"]["disk"] < foretold["disk"] < 1.2 * foretold["prediction"]["disk"]
