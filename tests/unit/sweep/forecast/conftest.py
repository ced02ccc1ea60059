"""A small world, and sweeps in it that are planned and not run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from training_samples import World, make_world

from ftcluster.sweep.plan import SweepPlan, make_plan
from ftcluster.sweep.specification import read_sweep

Planned = Callable[..., SweepPlan]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def planned(world: World, tmp_path: Path) -> Planned:
    """The plan of a sweep with these lines; words may be given for its base."""

    def made(lines: Mapping[str, Any], *words: str) -> SweepPlan:
        file = tmp_path / "s.yaml"
        base = world.words(f"home={tmp_path}", *words)
        file.write_text(json.dumps({"name": "s", "base": base, **lines}))
        return make_plan(*read_sweep(file, []))

    return made
