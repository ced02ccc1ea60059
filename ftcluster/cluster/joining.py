"""Joining a cluster only to look at it: whoever does so must hear within seconds that it cannot be joined.

A driver that trains may wait for a head that comes back; Ray itself waits for minutes at an address where something
listens that is no Ray head.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ftcluster.cluster.ray_cluster import Cluster
from ftcluster.cluster.witnesses import Witnesses
from ftcluster.errors import UsageError

_PATIENCE = 10.0  # seconds to connect
_HEALTH_SECONDS = 20.0
_CLIENT = "ray://"


@contextmanager
def looking_around(address: str, timeout: float) -> Iterator[Witnesses]:
    """Witnesses on every node of the cluster at ``address``; nodes have ``timeout`` seconds to answer.

    Raises:
        UsageError: no cluster is there, or it does not answer.
    """
    with Cluster(_answering(address)), Witnesses(timeout) as witnesses:
        yield witnesses


def _answering(address: str) -> str:
    """The address, once a head has answered there."""
    if ":" not in address or address.startswith(_CLIENT):  # "auto" finds a head by itself, a client has a time limit
        return address
    if problem := _closed(address) or _mute(address):
        remedy = "correct the address (--address, cluster.address, RAY_ADDRESS); ray status on the head tells more"
        raise UsageError(problem, where=address, remedy=remedy)
    return address


def _closed(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        return f"no Ray cluster there: {getattr(error, 'strerror', None) or error}"
    return ""


def _mute(address: str) -> str:
    """Why what listens there is no Ray head. Ray asks in a process of its own, which can be ended."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_HEALTH_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no Ray head answered within {_HEALTH_SECONDS:g} seconds"
    return (_last_line(done.stderr) or "the head says it is not healthy") if done.returncode else ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
