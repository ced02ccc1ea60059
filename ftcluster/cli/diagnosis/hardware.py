"""Checks of this machine: processors, memory, GPUs and their health."""

from __future__ import annotations

from collections.abc import Iterator

from ftcluster.cli.diagnosis.finding import Finding
from ftcluster.cluster.health import judge
from ftcluster.cluster.inventory import Gpu, GpuReading, Machine
from ftcluster.units import format_bytes

_GIB = 2**30


def processors(here: Machine) -> Finding:
    """CPUs and memory."""
    detail = (
        f"{here.cpus} CPUs, {format_bytes(here.memory_available)} of {format_bytes(here.memory_total)} memory available"
    )
    if here.memory_available < 2 * _GIB:
        return Finding("machine", "warn", detail, "close other programs; a tiny model needs about 2 GiB")
    return Finding("machine", "ok", detail)


def gpus(reading: GpuReading) -> Iterator[Finding]:
    """GPUs the driver sees, and what is wrong with them; one that is only occupied has not failed."""
    if not reading.gpus:
        absent = reading.problem.startswith("no ") or not reading.problem
        remedy = "" if absent else "see nvidia-smi, then reload the driver or reboot"
        yield Finding("GPUs", "ok" if absent else "fail", f"{reading.problem or 'none'}; training uses the CPU", remedy)
    for gpu in reading.gpus:
        yield gpu_health(gpu)


def gpu_health(gpu: Gpu, place: str = "") -> Finding:
    """One card; ``place`` names its node."""
    health, name = judge(gpu), f"GPU {gpu.index}"
    detail = f"{place}: {_shown(gpu)}" if place else _shown(gpu)
    if health.state == "ok":
        return Finding(name, "ok", detail)
    used = "" if health.state == "warn" else "not used: "
    failed = any(reason.fault for reason in health.unusable)
    return Finding(name, "fail" if failed else "warn", f"{detail}; {used}{health.reason}", health.remedy)


def _shown(gpu: Gpu) -> str:
    parts = [gpu.name or "a card without a name"]
    if gpu.memory_total is not None and gpu.memory_used is not None:
        parts.append(f"{format_bytes(gpu.memory_used)} of {format_bytes(gpu.memory_total)} in use")
    if gpu.temperature is not None:
        parts.append(f"{gpu.temperature:.0f} degrees")
    if gpu.mig:
        parts.append(f"{len(gpu.slices)} MIG devices")
    return ", ".join(parts)
