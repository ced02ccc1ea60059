"""Checks of what talks over a network: ports, Ray, and a real all-reduce between two ranks on this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from ftcluster.cli.diagnosis.finding import Finding
from ftcluster.cli.diagnosis.storage import knock
from ftcluster.cluster.all_reduce import Result, between_two_processes
from ftcluster.cluster.health import idle_gpus
from ftcluster.cluster.inventory import GpuReading
from ftcluster.units import format_bytes

ALL_REDUCE_SECONDS = 120.0  # a cold import of torch on a slow disk takes most of it
_HEAD_PORT, _CLIENT_PORT, _DASHBOARD_PORT = 6379, 10001, 8265  # Ray's defaults


def ray_cluster(address: str) -> Finding:
    """Whether a configured Ray cluster can be reached; without an address one is started when needed."""
    if not address:
        return Finding("Ray", "ok", "embedded, started when a sweep needs it")
    if address in ("auto", "local"):
        return Finding("Ray", "ok", f"{address}: looked up when a sweep starts")
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        knock(parts.hostname or "", parts.port or (_CLIENT_PORT if parts.scheme == "ray" else _HEAD_PORT))
    except (OSError, ValueError) as error:
        return Finding(
            "Ray", "fail", f"{address}: {error}", "start the cluster, or correct cluster.address or RAY_ADDRESS"
        )
    return Finding("Ray", "ok", f"{address} accepts connections")


def free_port(port: int) -> Finding:
    """Whether ``ftcluster ui`` can have its usual port."""
    if port_is_free(port):
        return Finding("port", "ok", f"{port} is free for ftcluster ui")
    return Finding("port", "warn", f"{port} is taken by another program", f"ftcluster ui --port {port + 1}")


def free_head_ports(ports: tuple[int, ...] = (_HEAD_PORT, _DASHBOARD_PORT)) -> Finding:
    """Whether this machine could be the head of a cluster; an embedded Ray chooses its ports itself."""
    options = ("--port", "--dashboard-port")
    taken = [(port, option) for port, option in zip(ports, options, strict=True) if not port_is_free(port)]
    if not taken:
        return Finding("Ray ports", "ok", f"{' and '.join(map(str, ports))} are free for ray start --head")
    words = " ".join(f"{option}={port + 1}" for port, option in taken)
    return Finding(
        "Ray ports",
        "warn",
        f"{' and '.join(str(port) for port, _ in taken)} taken by another program; an embedded Ray needs neither",
        f"ray start --head {words}",
    )


def port_is_free(port: int) -> bool:
    """True if a server could listen on 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def all_reduce_here(reading: GpuReading) -> Iterator[Finding]:
    """Two ranks on this machine; over NCCL where two GPUs have nothing to do."""
    gpus = idle_gpus(reading)
    yield all_reduce_finding(between_two_processes(gpus, ALL_REDUCE_SECONDS), "two processes of this machine")


def all_reduce_finding(result: Result, between: str) -> Finding:
    """What an all-reduce showed."""
    if result.problem:
        remedy = "name the network interface in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME; check the firewall"
        return Finding("all-reduce", "fail", f"between {between}: {result.problem}", remedy)
    return Finding(
        "all-reduce",
        "ok",
        f"{format_bytes(result.bandwidth)}/s over {result.backend} between {between} ({result.device})",
    )
