"""Hosts on a real Ray: what they reserve, what happens to them, and who can reach them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftcluster.cluster.host import HostLostError
from ftcluster.cluster.placement import Resources
from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.errors import UsageError
from ftcluster.sweep import hosts
from ftcluster.sweep.hosts import HostPool, Shape, Wish

pytestmark = pytest.mark.slow


class Echo:
    """The smallest worker."""

    def run(self, job: Any) -> Any:
        return job() if callable(job) else job

    def peek(self) -> str:
        return "busy"

    def stop(self, job: str) -> None: ...

    def meet(self, address: str, ranks: int) -> None: ...

    def follow(self, meeting: None, rank: int) -> None:  # noqa: ARG002
        threading.Event().wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
        yield cluster


def finish(cluster: Cluster, job: Any) -> Any:
    assert cluster.wait([job], 60)
    return cluster.result(job)


def test_a_host_runs_one_job_after_another_in_the_same_process(cluster: Cluster) -> None:
    host = cluster.start(Resources(1, 0), Echo)
    first, second = (finish(cluster, host.submit(os.getpid)) for _ in range(2))
    assert first == second == finish(cluster, host.arrival()).pid != os.getpid()
    host.kill()


def test_a_killed_host_is_reported_as_lost(cluster: Cluster) -> None:
    host = cluster.start(Resources(0.5, 0), Echo)
    pid = finish(cluster, host.arrival()).pid
    job = host.submit(signal.pause)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(HostLostError, match="the host was lost"):
        finish(cluster, job)
    host.kill()  # what it had reserved is still reserved


def test_fractions_of_a_cpu_make_more_room(cluster: Cluster) -> None:
    assert cluster.room(Resources(0.5, 0)) == 2 * cluster.room(Resources(1, 0))


def test_a_trial_larger_than_every_node_is_refused_at_once(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match=r"asks for 1 CPUs and 64 GPUs; the largest node has \d+ and \d+") as caught:
        cluster.room(Resources(1, 64))
    assert "ask for less" in caught.value.remedy


def test_a_host_that_nobody_wants_any_more_gives_back_what_it_reserved(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util import placement_group_table

    pair = Wish(Shape(Resources(0.5, 0, ranks=2)))

    def groups() -> set[str]:
        return {name for name, group in placement_group_table().items() if group["state"] != "REMOVED"}

    def settled(pool: HostPool, goal: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + 60
        while not goal() and time.monotonic() < deadline:
            pool.wait([], 0.1)
        return bool(goal())

    everything, others = ray.cluster_resources()["CPU"], groups()
    with HostPool(cluster, lambda _: Echo, most=1) as pool:
        assert settled(pool, lambda: ray.available_resources().get("CPU") == everything)
        pool.arrange([pair])
        assert settled(pool, lambda: pool.free)
        host = pool.take(pair)
        assert host is not None
        assert len(groups() - others) == 1
        assert settled(pool, lambda: ray.available_resources().get("CPU", 0) == everything - 1)
        pid = finish(cluster, host.arrival()).pid
        monkeypatch.setattr(hosts, "IDLE", 0.0)
        pool.arrange([])
        assert pool.hosts == [host], "it ended under its trial"
        monkeypatch.undo()
        pool.give_back(host)
        pool.arrange([])
        assert pool.hosts == [host], "it ended before its time"
        monkeypatch.setattr(hosts, "IDLE", 0.0)
        pool.arrange([pair])
        assert pool.hosts == [host], "it ended though it was wanted"
        pool.arrange([])
        assert pool.hosts == []
        assert settled(pool, lambda: ray.available_resources().get("CPU") == everything)
        assert groups() <= others
        assert settled(pool, lambda: not psutil.pid_exists(pid))


def test_gpus_are_reserved_only_where_there_are_any(cluster: Cluster) -> None:
    import ray

    expected = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    assert cluster.resources(1, -1) == Resources(1, expected)
    assert cluster.resources(2, 0.25) == Resources(2, 0.25)


def test_an_embedded_cluster_listens_on_this_machine_only(cluster: Cluster) -> None:  # noqa: ARG001 - it has to run
    addresses = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found = process.net_connections("inet")
            addresses |= {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_an_address_nobody_answers_at_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"no Ray cluster at 127\.0\.0\.1:1: Connection refused"):
        Cluster("127.0.0.1:1")


NODES = """
from ray.cluster_utils import Cluster as Nodes
nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
first = nodes.add_node(num_cpus=2, num_gpus=2)
second = nodes.add_node(num_cpus=2, num_gpus=2)
import ray
ray.init(address=nodes.address, log_to_driver=False)
from ftcluster.cluster.placement import Resources, Where
from ftcluster.cluster.ray_cluster import Cluster
class Echo:
    def peek(self): return "busy"
    def meet(self, address, ranks): return address
    def follow(self, meeting, rank):
        import time
        time.sleep(1000)
def up(cluster, host):
    assert cluster.wait([host.arrival()], 60)
    return cluster.result(host.arrival())
"""


def run(program: str, tmp_path: Path, **variables: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NODES + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        cwd=tmp_path,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.whole
def test_gpus_of_several_nodes_are_divided_and_reserved_all_or_none(tmp_path: Path) -> None:
    run(
        """
        with Cluster() as cluster:
            assert cluster.resources(1, -1) == Resources(1, 1.0)
            assert cluster.room(Resources(0.5, 0.5)) == 8
            assert cluster.room(Resources(1, 1)) == 4
            pair = Resources(1, 1, ranks=2)
            assert cluster.room(pair) == 2
            one = cluster.start(pair, Echo)
            assert up(cluster, one).problems == ()
            assert len(set(one.nodes)) == 1  # together, since a node is large enough
            two = cluster.start(Resources(1, 1, ranks=1), Echo, where=Where(excluded=frozenset(one.nodes)))
            up(cluster, two)
            assert not set(one.nodes) & set(two.nodes)
            large = cluster.start(pair, Echo)  # one GPU is left: not even one rank of it is placed
            assert not cluster.wait([large.arrival()], 3)
            assert large.nodes == ()
            assert ray.available_resources().get("GPU", 0) == 1
            two.kill()
            up(cluster, large)
            assert set(large.nodes) == set(ray_node["NodeID"] for ray_node in ray.nodes()
                                           if ray_node["Resources"].get("GPU")) - set(one.nodes)
            for host in (one, large):
                host.kill()
        """,
        tmp_path,
    )


@pytest.mark.whole
def test_a_host_tells_what_is_wrong_with_its_own_gpus_and_types_and_memory_choose_nodes(tmp_path: Path) -> None:
    script = tmp_path / "gpus.yaml"
    script.write_text("gpus:\n  GPU-a: {memory_total: 40000000000}\n  GPU-b: {xids: [79], memory_total: 40000000000}\n")
    run(
        """
        import time
        from pathlib import Path
        from ftcluster.errors import UsageError
        with Cluster() as cluster:
            both = cluster.start(Resources(1, 1, ranks=2), Echo)
            assert up(cluster, both).problems == ("GPU GPU-b: XID 79: the GPU has fallen off the bus",)
            one = cluster.start(Resources(1, 1), Echo, where=Where(excluded=frozenset(both.nodes)))
            assert up(cluster, one).problems == ()
            assert cluster.room(Resources(1, 1, gpu_type="h100", gpu_memory=10**10)) == 4
            for wrong in (Resources(1, 1, gpu_type="B200"), Resources(1, 1, gpu_memory=5 * 10**10)):
                try:
                    cluster.room(wrong)
                    raise SystemExit("it was not refused")
                except UsageError as error:
                    assert "no node of the cluster has a GPU of the kind" in str(error)
            assert one.problems == ()
            Path("gpus.yaml").write_text("gpus:\\n  GPU-a: {recovery_action: 2}\\n  GPU-b: {}\\n")
            one._health[0]._next = 0.0  # without waiting for half a minute
            deadline = time.monotonic() + 30
            while not one.problems and time.monotonic() < deadline:
                time.sleep(0.1)
            assert one.problems == ("GPU GPU-a: it has failed",)
        """,
        tmp_path,
        FTCLUSTER_GPU_PROBE=str(script),
    )
