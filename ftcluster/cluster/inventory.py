"""What a node has, as values: CPUs, memory, GPUs with all that their driver tells, the build of torch beside them.

Nothing here looks at a machine: ``machine``, ``nvml`` and ``scripted`` do, ``health`` judges. All values are frozen,
cross process boundaries, and become JSON as they are. Memory is in bytes, temperature in degrees Celsius, power in
watts, utilisation a share of 1. None means that this card does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on a card. ``ours``: started by this cluster or program; None where nobody knows."""

    pid: int
    memory: int | None = None
    name: str = ""
    user: str = ""
    ours: bool | None = None


@dataclass(frozen=True)
class RemappedRows:
    """Rows of memory that the card has replaced by spare ones after errors."""

    corrected: int = 0
    uncorrected: int = 0
    pending: bool = False  # a row waits for a reset to be replaced
    failed: bool = False  # there was no spare row left


@dataclass(frozen=True)
class Links:
    """NVLinks of a card that are up, of those it has."""

    active: int
    total: int


@dataclass(frozen=True)
class GpuSlice:
    """A MIG device: a part of a card with memory of its own."""

    uuid: str
    memory_total: int | None = None
    memory_used: int | None = None


@dataclass(frozen=True)
class Gpu:
    """One card. ``index`` is NVML's, by PCI bus; ``problem`` says why a card that is there does not answer."""

    index: int
    uuid: str
    name: str = ""
    memory_total: int | None = None
    memory_used: int | None = None
    compute_capability: tuple[int, int] | None = None
    utilization: float | None = None
    temperature: float | None = None
    temperature_limit: float | None = None  # where the card begins to slow itself down
    power: float | None = None
    power_limit: float | None = None
    slowdowns: tuple[str, ...] | None = None  # why its clocks are lower than they could be
    uncorrectable_errors: int | None = None  # of memory, since the driver was loaded or the card was reset
    remapped_rows: RemappedRows | None = None
    xids: tuple[int, ...] = ()  # errors the driver reported while somebody listened
    recovery_action: int | None = None  # what the driver asks for after a fault; 0: nothing
    links: Links | None = None
    mig: bool | None = None
    slices: tuple[GpuSlice, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None
    problem: str = ""


@dataclass(frozen=True)
class GpuReading:
    """All GPUs of a machine, or why there are none."""

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Machine:
    """CPUs this process may use; bytes of memory."""

    cpus: int
    memory_total: int
    memory_available: int


@dataclass(frozen=True)
class TorchBuild:
    """``cuda`` is the CUDA version torch was built for, empty for a CPU build."""

    version: str
    cuda: str
    usable_gpus: int
    architectures: tuple[str, ...]  # such as sm_90


@dataclass(frozen=True)
class Versions:
    """Of what processes on several nodes must have in common; empty: it is not installed."""

    python: str = ""
    ftcluster: str = ""
    torch: str = ""
    transformers: str = ""
    peft: str = ""
    deepspeed: str = ""
    ray: str = ""


@dataclass(frozen=True)
class Inventory:
    """One machine, as a process on it sees it. ``running`` names what the cluster's workers there are doing."""

    hostname: str
    machine: Machine
    gpus: GpuReading
    running: tuple[str, ...] = ()
    versions: Versions = Versions()


@dataclass(frozen=True)
class Node:
    """One node of a cluster: what Ray counts there and what was found there, or why nothing was."""

    id: str
    address: str
    cpus: float = 0.0
    gpus: float = 0.0
    free_cpus: float | None = None
    free_gpus: float | None = None
    inventory: Inventory | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """Short and for people: several nodes of a test cluster share a host, so the id tells them apart."""
        place = self.inventory.hostname if self.inventory else self.address
        return f"{place} ({self.id[:6]})" if self.id else place
