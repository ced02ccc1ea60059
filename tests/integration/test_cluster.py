"""Hosts on a real Ray: what they reserve, what happens to them, and who can reach them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

from ftcluster.cluster.ray_cluster import Cluster, HostLostError, Resources
from ftcluster.errors import UsageError

pytestmark = pytest.mark.slow


class Echo:
    """The smallest worker."""

    def run(self, job: Any) -> Any:
        return job() if callable(job) else job

    def peek(self) -> str:
        return "busy"

    def stop(self) -> None: ...


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
    assert first == second == finish(cluster, host.placed()) != os.getpid()
    host.kill()


def test_a_killed_host_is_reported_as_lost(cluster: Cluster) -> None:
    host = cluster.start(Resources(0.5, 0), Echo)
    pid = finish(cluster, host.placed())
    job = host.submit(signal.pause)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(HostLostError, match="the host was lost"):
        finish(cluster, job)


def test_fractions_of_a_cpu_make_more_room(cluster: Cluster) -> None:
    assert cluster.room(Resources(0.5, 0)) == 2 * cluster.room(Resources(1, 0))


def test_a_trial_larger_than_every_node_is_refused_at_once(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match=r"asks for 1 CPUs and 64 GPUs; the largest node has \d+ and \d+") as caught:
        cluster.room(Resources(1, 64))
    assert "ask for less" in caught.value.remedy


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


def test_fractions_of_logical_gpus_make_room_for_several_trials() -> None:
    program = """
import ray
ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
from ftcluster.cluster.ray_cluster import Cluster, Resources
with Cluster() as cluster:
    assert cluster.resources(1, -1) == Resources(1, 1.0)
    assert cluster.room(Resources(1, 0.5)) == 4
    assert cluster.room(Resources(1, 1)) == 2
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
