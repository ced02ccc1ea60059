"""A Ray cluster of logical nodes on this machine, which come and go as a test says; each has a raylet of its own.

It is held by a process of its own: Ray keeps settings for the life of one, and a lost head takes along who joined it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Ray waits for a minute for a head that does not answer, and for 15 seconds for a node.
_IMPATIENT = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "2",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}

_HOLDER = """
import sys
import time
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
print(cluster.address, cluster.head_node.all_processes["gcs_server"][0].process.pid, flush=True)
nodes = {}
for line in sys.stdin:
    verb, word, *more = line.split()
    if verb == "add":
        gpus, *scripts = more
        probe = {"FTCLUSTER_GPU_PROBE": script for script in scripts}
        node = cluster.add_node(num_cpus=int(word), num_gpus=int(gpus), env_vars=probe, wait=True)
        nodes[node.node_id] = node
        print(node.node_id, flush=True)
    elif verb == "drain":
        deadline = int(1000 * (time.time() + float(more[0])))
        print(GcsClient(cluster.address).drain_node(word, DRAIN_NODE_REASON_PREEMPTION, "spot", deadline), flush=True)
    elif verb == "revive":
        cluster.head_node.kill_gcs_server()
        time.sleep(float(word))
        cluster.head_node.start_gcs_server()
        print("back", flush=True)
    else:
        cluster.remove_node(nodes.pop(word), allow_graceful=verb == "dismiss")
        print("gone", flush=True)
cluster.shutdown()
"""


class LogicalNodes:
    """The cluster; its head has no CPUs, so that trials are on the other nodes."""

    def __init__(self, holder: subprocess.Popen[str]) -> None:
        self._holder = holder
        address, head = self._told().split()
        self.address, self.head = address, int(head)
        self._nodes: list[str] = []

    def add(self, cpus: int, *, gpus: int = 0, script: Path | None = None) -> str:
        """A new node, whose GPUs a script tells of; its id."""
        self._nodes.append(self._asked(f"add {cpus} {gpus} {script or ''}"))
        return self._nodes[-1]

    def kill(self, node: str) -> None:
        """Kill all processes of a node, without a word to them."""
        self._nodes.remove(node)
        self._asked(f"kill {node}")

    def dismiss(self, node: str) -> None:
        """End a node in peace; the head knows at once."""
        self._nodes.remove(node)
        self._asked(f"dismiss {node}")

    def clear(self) -> None:
        """End all that are still there: a test that failed must not give its nodes to the next one."""
        while self._nodes:
            self.dismiss(self._nodes[-1])

    def revive(self, after: float) -> None:
        """Kill the head's memory of the cluster, and start it again after some seconds."""
        self._asked(f"revive {after}")

    def drain(self, node: str, seconds: int) -> None:
        """Give notice, as a spot market does: what ``ray drain-node`` asks the head, without its start-up."""
        told = self._asked(f"drain {node} {seconds}")
        assert told.startswith("(True"), told

    def _asked(self, words: str) -> str:
        assert self._holder.stdin is not None
        self._holder.stdin.write(f"{words}\n")
        self._holder.stdin.flush()
        return self._told()

    def _told(self) -> str:
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline().strip()
        assert line, "the cluster ended"
        return line


def settings(**more: str) -> dict[str, str]:
    """Variables for whatever joins it: on this machine only, and quick to notice what is gone."""
    return {**os.environ, **_IMPATIENT, **more, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def logical_nodes(log: Path, **more: str) -> Iterator[LogicalNodes]:
    """A head alone, with more variables; all processes end with the block."""
    with log.open("wb") as file:
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLDER],
            env=settings(**more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    with holder:
        assert holder.stdin is not None
        try:
            yield LogicalNodes(holder)
        finally:
            holder.stdin.close()
            try:
                holder.wait(timeout=60)
            except subprocess.TimeoutExpired:
                holder.kill()


def on_nodes_of_its_own(head: dict[str, int], *others: dict[str, int]) -> None:
    """In a process that begins (``programs.start``): make nodes with these CPUs and GPUs, and join them."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    for other in others:
        cluster.add_node(**other)
    ray.init(address=cluster.address, log_to_driver=False)
