"""The checks behind ``ftcluster doctor``: each looks at one thing and says ok, warn or fail, with a remedy.

Nothing is installed, started or left behind; no check waits longer than a few seconds.
"""

from __future__ import annotations

import importlib.metadata
import socket
import sqlite3
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from ftcluster.cluster.inventory import TorchBuild, existing_parent, free_disk, machine, torch_build
from ftcluster.cluster.nvml import GpuReading, read_gpus
from ftcluster.units import format_bytes

State = Literal["ok", "warn", "fail"]
GIB = 2**30
_PATIENCE = 3.0  # seconds for a server to answer
_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433, "ray": 10001}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def diagnose(home: Path, tracking_uri: str, ray_address: str, port: int) -> Iterator[Finding]:
    """All checks, the quick ones first."""
    yield python()
    yield from packages()
    yield processors()
    reading = read_gpus()
    yield from gpus(reading)
    yield torch_matches(torch_build(), reading)
    yield from home_folder(home)
    yield mlflow_store(tracking_uri)
    yield ray_cluster(ray_address)
    yield free_port(port)


def python() -> Finding:
    """Which Python this is; a wrong version cannot get this far."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", "ok", f"{version} at {sys.prefix}")


def packages(distribution: str = "ftcluster") -> Iterator[Finding]:
    """Installed versions against the ranges this package declares; below them are known faults and holes."""
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "warn", f"{distribution} is not installed here", "pip install -e . in the checkout")
        return
    wanted = [Requirement(text) for text in declared]
    missing = []
    for requirement in (item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(Finding(requirement.name, "fail", "not installed", f'pip install "{requirement}"'))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            detail = f"{version}, needs {requirement.specifier}"
            missing.append(Finding(requirement.name, "fail", detail, f'pip install "{requirement}"'))
    shown = ("torch", "transformers", "peft", "ray", "mlflow")
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in shown if _installed(name))
    yield from missing or [Finding("packages", "ok", found)]


def processors() -> Finding:
    """CPUs and memory."""
    here = machine()
    detail = (
        f"{here.cpus} CPUs, {format_bytes(here.memory_available)} of {format_bytes(here.memory_total)} memory available"
    )
    if here.memory_available < 2 * GIB:
        return Finding("machine", "warn", detail, "close other programs; a tiny model needs about 2 GiB")
    return Finding("machine", "ok", detail)


def gpus(reading: GpuReading) -> Iterator[Finding]:
    """GPUs the driver sees, and what it wants done to them."""
    if not reading.gpus:
        absent = reading.problem.startswith("no ") or not reading.problem
        remedy = "" if absent else "see nvidia-smi, then reload the driver or reboot"
        yield Finding("GPUs", "ok" if absent else "fail", f"{reading.problem or 'none'}; training uses the CPU", remedy)
    for gpu in reading.gpus:
        detail = f"{gpu.name}, {format_bytes(gpu.memory_used)} of {format_bytes(gpu.memory_total)} in use"
        name = f"GPU {gpu.index}"
        if gpu.recovery:
            yield Finding(name, "fail", f"{detail}; it has failed", f"the driver asks to: {gpu.recovery}")
        elif gpu.memory_used > 0.5 * gpu.memory_total:
            yield Finding(name, "warn", detail, "another process holds more than half of its memory; see nvidia-smi")
        else:
            yield Finding(name, "ok", detail)


def torch_matches(build: TorchBuild, reading: GpuReading) -> Finding:
    """Whether this torch can use these GPUs."""
    name, detail = "torch build", f"{build.version}, {f'CUDA {build.cuda}' if build.cuda else 'CPU only'}"
    if not reading.gpus:
        return Finding(name, "ok", detail)
    if not build.cuda:
        return Finding(
            name, "fail", f"{detail}, but there are GPUs", "install a CUDA build: see pytorch.org/get-started"
        )
    if not build.usable_gpus:
        remedy = "install a torch build for an older CUDA, or a newer driver; check CUDA_VISIBLE_DEVICES"
        return Finding(name, "fail", f"{detail}; driver {reading.driver} lets it use no GPU", remedy)
    majors = {architecture.rpartition("_")[2][:-1] for architecture in build.architectures}
    strange = sorted({gpu.name for gpu in reading.gpus if str(gpu.compute_capability[0]) not in majors})
    if strange:
        return Finding(
            name, "fail", f"{detail}; not built for {', '.join(strange)}", "install a torch build for this GPU"
        )
    return Finding(name, "ok", f"{detail}, {build.usable_gpus} GPUs usable")


def home_folder(home: Path) -> Iterator[Finding]:
    """Whether runs can be written, and how many."""
    parent = existing_parent(home)
    try:
        with tempfile.TemporaryFile(dir=parent):
            yield Finding("home", "ok", f"{home}{'' if home.is_dir() else ' (will be made)'}")
    except OSError as error:
        yield Finding("home", "fail", f"{home}: {error.strerror}", "set FTCLUSTER_HOME or home=FOLDER to one you own")
    free = free_disk(home)
    state: State = "fail" if free < GIB else "warn" if free < 10 * GIB else "ok"
    remedy = "" if state == "ok" else "free some space, or set home=FOLDER to a larger disk"
    yield Finding("disk", state, f"{format_bytes(free)} free at {parent}", remedy)


def mlflow_store(uri: str) -> Finding:
    """Whether MLflow's store answers."""
    parts = urlsplit(uri)
    shown = f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
    name, remedy = "MLflow", "start the server, or correct tracking.uri or MLFLOW_TRACKING_URI"
    try:
        if parts.scheme.startswith("sqlite"):
            return _sqlite(name, Path(uri.split("///", 1)[1]))
        if parts.scheme in ("http", "https"):
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_PATIENCE):
                return Finding(name, "ok", shown)
        _knock(parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme.split("+")[0], 0))
        return Finding(name, "ok", f"{shown} accepts connections")
    except (OSError, ValueError, IndexError) as error:
        return Finding(name, "fail", f"{shown}: {error}", remedy)


def ray_cluster(address: str) -> Finding:
    """Whether a configured Ray cluster can be reached; without an address one is started when needed."""
    if not address:
        return Finding("Ray", "ok", "embedded, started when a sweep needs it")
    if address in ("auto", "local"):
        return Finding("Ray", "ok", f"{address}: looked up when a sweep starts")
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        _knock(parts.hostname or "", parts.port or (_DEFAULT_PORTS["ray"] if parts.scheme == "ray" else 6379))
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


def port_is_free(port: int) -> bool:
    """True if a server could listen on 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _sqlite(name: str, file: Path) -> Finding:
    if not file.exists():
        return Finding(name, "ok", f"{file} (will be made)")
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
        try:
            runs = connection.execute("select count(*) from runs").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding(name, "fail", f"{file}: {error}", "it is no MLflow database; move it away or set tracking.uri")
    return Finding(name, "ok", f"{file}, {runs} runs")


def _knock(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=_PATIENCE).close()


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
