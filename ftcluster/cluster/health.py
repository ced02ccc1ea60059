"""Which GPUs must not be used, and why: pure judgements of what a probe has read.

A card is unusable when work on it would fail, be wrong, or fight with somebody else's; whatever only makes it slow is
a warning. What a card does not tell is never held against it.

Sources: NVIDIA's "XID Errors" and "GPU Memory Error Management" (which XIDs and remapping states end the use of a card
until it is reset), NVML's reference (recovery actions, clock event reasons).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuReading
from ftcluster.units import format_bytes

# XIDs after which a card cannot be trusted before it is reset; all others are faults of a program.
XIDS = {
    46: "the GPU stopped processing",
    48: "a memory error that could not be corrected",
    74: "an NVLink error",
    79: "the GPU has fallen off the bus",
    94: "a memory error that was contained",
    95: "a memory error that was not contained",
}

# NVML_GPU_RECOVERY_ACTION_*: what the driver asks for after a fault
RECOVERY_ACTIONS = (
    "nothing",
    "reset this GPU",
    "reboot the node",
    "end what uses peer-to-peer transfers",
    "end what runs on this GPU, then reset it",
    "recover the IMEX domain",
    "reset the bus",
    "reboot the whole system",
)

# An empty CUDA context takes 300 to 600 MiB on a data-centre card; what a desktop draws with takes less than this.
OCCUPIED = 256 * 2**20
# What the driver itself holds on a card that nobody uses: up to 600 MiB on data-centre models.
IDLE = 2**30
# Cards that do not tell where they slow down: data-centre models do so between 87 and 92 degrees.
HOT = 87.0
# Clocks that a power cap lowers are normal under full load; these are not.
ABNORMAL_SLOWDOWNS = ("hardware slowdown", "thermal slowdown", "hardware thermal slowdown", "power brake")

_RESET = "end what runs on it, then nvidia-smi --gpu-reset -i {index}, or reboot the node"
_COOL = "check fans, air flow and power supply; training on it is slow, and slows down the ranks beside it"


@dataclass(frozen=True)
class Reason:
    """One thing that is wrong, and what to do about it. ``fault=False``: the card is sound, and somebody else's."""

    text: str
    remedy: str
    fault: bool = True


@dataclass(frozen=True)
class Health:
    """The verdict on one card."""

    unusable: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()

    @property
    def state(self) -> Literal["ok", "warn", "unusable"]:
        """The worst of it."""
        return "unusable" if self.unusable else "warn" if self.warnings else "ok"

    @property
    def reason(self) -> str:
        """All of it in a line."""
        return "; ".join(reason.text for reason in (*self.unusable, *self.warnings))

    @property
    def remedy(self) -> str:
        """What to do first: a card that is unusable is looked at again after that."""
        reasons = self.unusable[:1] or self.warnings
        return "; ".join(dict.fromkeys(reason.remedy for reason in reasons))


@dataclass(frozen=True)
class Unusable:
    """A card that nothing may be placed on. ``uuid`` is empty where the card does not even tell that."""

    index: int
    uuid: str
    reason: str


def unusable_gpus(reading: GpuReading) -> tuple[Unusable, ...]:
    """The cards of a machine that must not be used."""
    judged = [(gpu, judge(gpu)) for gpu in reading.gpus]
    return tuple(
        Unusable(gpu.index, gpu.uuid, "; ".join(reason.text for reason in health.unusable))
        for gpu, health in judged
        if health.unusable
    )


def idle_gpus(reading: GpuReading) -> list[str]:
    """UUIDs of the whole, sound cards that hold next to nothing: a short test there is in nobody's way."""
    return [
        gpu.uuid
        for gpu in reading.gpus
        if judge(gpu).state == "ok" and gpu.uuid and not gpu.mig and (gpu.memory_used or 0) < IDLE
    ]


def judge(gpu: Gpu) -> Health:
    """What is wrong with a card."""
    return Health(
        tuple(reason for check in _UNUSABLE for reason in check(gpu)),
        tuple(reason for check in _WARNINGS for reason in check(gpu)),
    )


def _silent(gpu: Gpu) -> Iterator[Reason]:
    if gpu.problem:
        yield Reason(f"it does not answer: {gpu.problem}", "look for its XID in dmesg, then reboot the node")


def _recovery(gpu: Gpu) -> Iterator[Reason]:
    if action := gpu.recovery_action:
        known = action < len(RECOVERY_ACTIONS)
        what = RECOVERY_ACTIONS[action] if known else f"recovery action {action} of NVML"
        yield Reason("it has failed", f"the driver asks to: {what}")


def _xids(gpu: Gpu) -> Iterator[Reason]:
    for xid in dict.fromkeys(gpu.xids):
        if xid in XIDS:
            yield Reason(f"XID {xid}: {XIDS[xid]}", _reset(gpu))


def _rows(gpu: Gpu) -> Iterator[Reason]:
    if gpu.remapped_rows and gpu.remapped_rows.failed:
        yield Reason("no spare row was left for a broken one of its memory", "have the card replaced")
    elif gpu.remapped_rows and gpu.remapped_rows.pending:
        yield Reason("a broken row of its memory waits to be replaced by a spare one", _reset(gpu))


def _memory_errors(gpu: Gpu) -> Iterator[Reason]:
    if count := gpu.uncorrectable_errors:
        errors = "memory error" if count == 1 else "memory errors"
        yield Reason(f"{count} {errors} that could not be corrected since its last reset", _reset(gpu))


def _occupied(gpu: Gpu) -> Iterator[Reason]:
    strangers = [process for process in gpu.processes or () if process.ours is False]
    # A process whose memory is not told may hold any amount.
    taken = sum(OCCUPIED if process.memory is None else process.memory for process in strangers)
    if strangers and taken >= OCCUPIED:
        yield Reason(
            f"occupied by {', '.join(map(_told, strangers))}",
            "end it, or keep this GPU out with CUDA_VISIBLE_DEVICES",
            fault=False,
        )


def _crowded(gpu: Gpu) -> Iterator[Reason]:
    """Memory that nobody seen holds: processes outside of this container, or ended without giving it back."""
    if not gpu.memory_total or gpu.memory_used is None or any(p.ours is not None for p in gpu.processes or ()):
        return
    if gpu.memory_used > 0.5 * gpu.memory_total:
        yield Reason(
            "more than half of its memory is held by processes that cannot be seen from here", "see nvidia-smi there"
        )


def _heat(gpu: Gpu) -> Iterator[Reason]:
    limit = gpu.temperature_limit or HOT
    if gpu.temperature is not None and gpu.temperature >= limit:
        yield Reason(f"{gpu.temperature:.0f} degrees, it slows down at {limit:.0f}", _COOL)


def _slowed(gpu: Gpu) -> Iterator[Reason]:
    if abnormal := [name for name in gpu.slowdowns or () if name in ABNORMAL_SLOWDOWNS]:
        yield Reason(f"slowed down: {', '.join(abnormal)}", _COOL)


def _links_down(gpu: Gpu) -> Iterator[Reason]:
    """All links down is how a card without a bridge looks; some down is a fault."""
    if gpu.links and 0 < gpu.links.active < gpu.links.total:
        down = gpu.links.total - gpu.links.active
        yield Reason(
            f"{down} of {gpu.links.total} NVLinks are down",
            "see nvidia-smi nvlink --status, and the state of fabric manager",
        )


_UNUSABLE: tuple[Callable[[Gpu], Iterator[Reason]], ...] = (
    _silent,
    _recovery,
    _xids,
    _rows,
    _memory_errors,
    _occupied,
)
_WARNINGS: tuple[Callable[[Gpu], Iterator[Reason]], ...] = (_crowded, _heat, _slowed, _links_down)


def _reset(gpu: Gpu) -> str:
    return _RESET.format(index=gpu.index)


def _told(process: GpuProcess) -> str:
    held = "" if process.memory is None else f", {format_bytes(process.memory)}"
    owner = f" of {process.user}" if process.user else ""
    return f"{process.name or 'a process'}{owner} (pid {process.pid}{held})"
