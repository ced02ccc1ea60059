"""``ftcluster doctor`` and ``cluster status`` over a real Ray cluster of two logical nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.whole

# Its own process: Ray keeps settings for the life of one, and other tests need others. The second node has no GPU, and
# another PEFT by what an installer wrote.
CLUSTER = """
import sys
import ray
from ray.cluster_utils import Cluster

head = {"num_cpus": 2, "num_gpus": 2, "include_dashboard": False, "env_vars": {"FTCLUSTER_GPU_PROBE": sys.argv[1]}}
cluster = Cluster(initialize_head=True, head_node_args=head)
second = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": sys.argv[2]})
ray.init(address=cluster.address, log_to_driver=False)

@ray.remote(num_cpus=1, num_gpus=1)
class Trainer:
    def up(self):
        return True

trainer = Trainer.remote()
ray.get(trainer.up.remote())
raylet = next(found[0].process.pid for name, found in second.all_processes.items() if name == "raylet")
print(cluster.address, raylet, flush=True)
sys.stdin.readline()
ray.shutdown()
cluster.shutdown()
"""
SCRIPT = """
gpus:
  GPU-a: {temperature: 41, power: 300}
  GPU-b: {xids: [79], recovery_action: 2}
"""


@dataclass(frozen=True)
class TwoNodes:
    address: str
    script: Path  # GPUs of the other node
    raylet: int  # of the node without GPUs


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    script = tmp_path_factory.mktemp("probe") / "gpus.yaml"
    script.write_text(SCRIPT)
    installed = script.parent / "peft-0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1")
    words = [sys.executable, "-c", CLUSTER, str(script), str(script.parent)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address, raylet = process.stdout.readline().split()
            yield TwoNodes(address, script, int(raylet))
        finally:
            process.stdin.close()
            process.wait(timeout=60)


def ftcluster(*words: str, code: int = 0) -> Any:
    """Run a verb in a process of its own, as Ray wants it, and read its JSON."""
    command = [sys.executable, "-c", "import sys; from ftcluster.cli import main; sys.exit(main(sys.argv[1:]))"]
    done = subprocess.run(
        [*command, *words, "--json"], capture_output=True, text=True, check=False, timeout=150, env=dict(os.environ)
    )
    assert done.returncode == code, done.stderr[-2000:] + done.stdout[-2000:]
    return json.loads(done.stdout)


def test_status_lists_nodes_gpus_and_what_runs(two_nodes: TwoNodes) -> None:
    nodes = ftcluster("cluster", "status", "--address", two_nodes.address)["nodes"]

    busy, plain = sorted(nodes, key=lambda node: -node["gpus"])
    assert [node["state"] for node in nodes] == ["ok", "ok"]
    assert (busy["cpus"], busy["free_cpus"], busy["gpus"], busy["free_gpus"]) == (2, 1, 2, 1)
    assert busy["inventory"]["running"] == ["Trainer"]
    assert [card["state"] for card in busy["inventory"]["gpus"]["gpus"]] == ["ok", "unusable"]
    assert plain["inventory"]["gpus"]["gpus"] == []
    assert plain["inventory"]["versions"] == {**busy["inventory"]["versions"], "peft": "0.1"}
    assert plain["inventory"]["running"] == []


def test_the_doctor_looks_at_every_node_and_leaves_nothing_behind(two_nodes: TwoNodes, tmp_path: Path) -> None:
    lines = ftcluster("doctor", f"cluster.address={two_nodes.address}", "--home", str(tmp_path), code=1)

    failed = [line for line in lines if line["state"] == "fail"]
    assert [line["name"] for line in failed] == ["GPU 1"]
    assert "XID 79" in failed[0]["detail"]
    found = {line["name"]: line for line in lines}
    assert [line["name"] for line in lines].count("node") == 2
    assert found["versions"]["state"] == "warn"
    assert "peft 0.1 (here " in found["versions"]["detail"]
    assert found["versions"]["detail"].count("(here ") == 1
    assert found["clocks"]["state"] == found["shared home"]["state"] == "ok"
    assert f"{tmp_path} is read and written by all 2 nodes" in found["shared home"]["detail"]
    measured = [line["detail"] for line in lines if line["name"] == "all-reduce"]
    assert len(measured) == 2
    assert all("/s over gloo between" in detail for detail in measured)
    assert not list(tmp_path.iterdir())


def test_a_node_that_does_not_answer_and_one_that_cannot_are_said_so(two_nodes: TwoNodes) -> None:
    raylet = psutil.Process(two_nodes.raylet)
    raylet.send_signal(signal.SIGSTOP)
    two_nodes.script.write_text("gpus: {GPU-a: {colour: green}}")
    try:
        nodes = ftcluster("cluster", "status", "--address", two_nodes.address, "--timeout", "4")["nodes"]
    finally:
        raylet.send_signal(signal.SIGCONT)
        two_nodes.script.write_text(SCRIPT)
    broken, stopped = sorted(nodes, key=lambda node: -node["gpus"])
    assert (broken["state"], stopped["state"]) == ("silent", "silent")
    assert broken["problem"].startswith(f"{two_nodes.script}:1: gpus.GPU-a.colour is not a known key.")
    assert stopped["problem"] == "it did not answer within 4 seconds"
