"""A cluster of nodes with different GPUs, and with none: trials go where their kind is, and tell of their own GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from logical_nodes import logical_nodes, settings
from mlflow import MlflowClient
from programs import finish, start
from sweep_outcomes import assert_told_once
from training_samples import World, make_world

from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.sweep import timeline

pytestmark = pytest.mark.thorough

GIB, MIB = 2**30, 2**20
# Of each node: what its GPUs are, in GiB, and the temperatures of the two. A trial's metrics tell which one it has.
CARDS = {"small": ("NVIDIA L4", 24, (41, 42)), "large": ("NVIDIA H100 80GB HBM3", 80, (61, 62))}


class Nodes(NamedTuple):
    """A cluster whose head, and one more node, have no GPU."""

    address: str
    ids: dict[str, str]  # of the two that have some


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("cluster")
    ids = {}
    with logical_nodes(folder / "log") as cluster:
        cluster.add(2)
        for kind, (name, gib, temperatures) in CARDS.items():
            script = folder / f"{kind}.yaml"
            cards = {f"GPU-{degrees}": card(name, gib, degrees) for degrees in temperatures}
            script.write_text(json.dumps({"gpus": cards}))
            ids[kind] = cluster.add(2, gpus=2, script=script)
        yield Nodes(cluster.address, ids)


def card(name: str, gib: int, degrees: int) -> dict[str, object]:
    """All that it shows follows from its temperature."""
    return {
        "name": name,
        "memory_total": gib * GIB,
        "temperature": degrees,
        "power": 10 * degrees,
        "utilization": degrees / 100,
        "memory_used": 2 * degrees * MIB,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("word", "kind"), [("cluster.gpu_memory_gib=40", "large"), ("cluster.gpu_type=L4", "small")], ids=["memory", "type"]
)
def test_trials_run_on_the_node_whose_gpus_they_ask_for_and_mlflow_tells_of_the_gpu_of_each_and_of_no_other(
    world: World, nodes: Nodes, tmp_path: Path, word: str, kind: str
) -> None:
    sweep = {
        "name": "kinds",
        "base": world.words("engine.name=local", "optim.duration=120 steps", "evaluation.every=40 steps"),
        "space": {"adapter.rank": "choice(2, 4, 8, 16)"},
        "sampler": {"name": "grid"},
        "budget": {"trials": 4},
    }
    (tmp_path / "kinds.yaml").write_text(json.dumps(sweep))
    home, log = tmp_path / "home", tmp_path / "log"
    words = ["sweep", str(tmp_path / "kinds.yaml"), "--home", str(home), word]
    finish(start(words, log, variables=settings(RAY_ADDRESS=nodes.address)), log)

    spans = timeline.read(home / "kinds")
    assert len(spans) == 4
    assert {span.nodes for span in spans} == {(nodes.ids[kind],)}
    assert_told_once(home, "kinds")
    told = {(span.host, temperature_told(home, span.trial)) for span in spans}
    own = {temperature for _, temperature in told}
    assert len({host for host, _ in told}) == len(told) == len(own), "each host has one GPU, and no two the same"
    assert own <= set(CARDS[kind][2])


def temperature_told(home: Path, trial: str) -> float:
    """Of the one GPU that all of a trial's points in MLflow are about."""
    with Ledger.open(home) as ledger:
        row = ledger.get(trial)
    assert row.state is RunState.FINISHED
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    run = client.get_run(row.mlflow_run_id)
    told = {
        name.removeprefix("system/gpu_"): [point.value for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if name.startswith("system/gpu_")
    }
    degrees = told["temperature_c"][0]
    expected = {
        "temperature_c": degrees,
        "power_w": 10 * degrees,
        "utilization_percent": 100 * (degrees / 100),
        "memory_used_mb": 2 * degrees,
    }
    assert {name: set(values) for name, values in told.items()} == {name: {value} for name, value in expected.items()}
    assert len(told["temperature_c"]) >= 3  # at each checkpoint, at least
    return degrees
