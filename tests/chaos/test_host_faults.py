"""Hosts that hang and GPUs that fail under a sweep: its trials go on elsewhere, and end as if undisturbed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from programs import Program, finish, start, wait_for
from sweep_outcomes import Ended, assert_told_once, outcome
from training_samples import World, make_world

from ftcluster.sweep import timeline

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.thorough]
STEPS = 1500


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    sweep = {
        "name": "small",
        "base": world.words(
            f"optim.duration={STEPS} steps",
            f"evaluation.every={STEPS // 5} steps",
            "optim.batch_size=2",
            "tracking.log_every=20",
        ),
        "space": {"adapter.rank": "choice(4)"},
        "sampler": {"name": "grid"},
        "budget": {"trials": 1},
    }
    (world.folder / "small.yaml").write_text(json.dumps(sweep))
    return world


def begin(world: World, home: Path, log: Path, script: Path, *words: str) -> Program:
    """On a node with two logical GPUs, of which the first is given out first."""
    return start(
        ["sweep", str(world.folder / "small.yaml"), "--home", str(home), *words],
        log,
        variables={**os.environ, "FTCLUSTER_GPU_PROBE": str(script)},
        before=("logical_nodes", "on_nodes_of_its_own", [{"num_cpus": 2, "num_gpus": 2}]),
    )


def saved(home: Path) -> bool:
    """Whether the trial has a checkpoint."""
    return any((home / "small").glob("*/checkpoints/step-*"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script of two GPUs that are in order."""
    script = tmp_path_factory.mktemp("gpus") / "gpus.yaml"
    script.write_text("gpus: {GPU-a: {}, GPU-b: {}}\n")
    return script


@pytest.fixture(scope="module")
def twin(world: World, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    folder = tmp_path_factory.mktemp("twin")
    finish(begin(world, folder / "home", folder / "log", sound), folder / "log")
    assert_told_once(folder / "home", "small")
    return outcome(folder / "home", "small")


def test_a_gpu_that_fails_is_left_by_its_trial_and_used_by_nobody(
    world: World, tmp_path: Path, twin: dict[str, Ended]
) -> None:
    home, log, script = tmp_path / "home", tmp_path / "log", tmp_path / "gpus.yaml"
    script.write_text("gpus: {GPU-a: {}, GPU-b: {}}\n")
    process = begin(world, home, log, script)
    wait_for(lambda: saved(home), process, log)
    script.write_text("gpus: {GPU-a: {xids: [79]}, GPU-b: {}}\n")
    text = finish(process, log)
    assert "GPU GPU-a: XID 79: the GPU has fallen off the bus: its trials save and go on elsewhere" in text
    assert "host was lost" not in text
    spans = timeline.read(home / "small")
    assert [(span.end, span.host) for span in spans] == [("stopped", "host 0"), ("reported", "host 1")]
    assert outcome(home, "small") == twin
    assert_told_once(home, "small")


def test_a_host_that_hangs_is_ended_and_its_trial_goes_on_from_its_checkpoint(
    world: World, tmp_path: Path, sound: Path, twin: dict[str, Ended]
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    process = begin(world, home, log, sound, "cluster.hang_after=8")
    wait_for(lambda: saved(home), process, log)
    children = psutil.Process(process.pid).children(recursive=True)
    hosts = [child for child in children if "_HostActor" in "".join(child.cmdline())]
    assert len(hosts) == 1
    os.kill(hosts[0].pid, signal.SIGSTOP)
    text = finish(process, log)
    assert "no sign of life for 0:1" in text
    assert "it goes on from its newest checkpoint on another host" in text
    assert sorted(span.end for span in timeline.read(home / "small")) == ["lost", "reported"]
    assert not psutil.pid_exists(hosts[0].pid)
    assert outcome(home, "small") == twin
    assert_told_once(home, "small")
