"""What a training will take at most, foretold before it starts from the rows that it has.

Rehearsing passes costs about a second for each kind of adapter and length of rows, so it is done where the answer
matters: on a GPU, or where ``cluster.memory_gib`` is a limit. A training is refused only where the prediction exceeds
the whole device. What is nearer than that may well run, and smaller micro-batches are tried if it does not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ftcluster.config.compose import resolve_home
from ftcluster.config.schema import RunConfig
from ftcluster.contracts.ports import Tracker
from ftcluster.engine.precision import choose_device, choose_precision
from ftcluster.errors import FtclusterError, UsageError
from ftcluster.training.bench import opened
from ftcluster.training.memory_record import Kind, calibrated, calibration, change_memory, read_memory
from ftcluster.training.session import loader_of
from ftcluster.units import format_bytes

_GENERAL = "set engine.activation_checkpointing=true or a smaller data.max_length; ftcluster plan tells what each takes"


@dataclass(frozen=True)
class Foretold:
    """Bytes at the highest moment on each device, and what a device has; ``named`` is where that is known from."""

    kind: Kind
    bytes: int
    memory: int
    named: str


def _kind_here(config: RunConfig) -> Kind:
    """Which earlier runs a training on this device is like."""
    from ftcluster.training.planning import kind_of

    device = choose_device(config.engine.device)
    precision = choose_precision(config.engine.precision, device, full=config.adapter.kind == "none")
    return kind_of(replace(config, engine=replace(config.engine, device=device.type, precision=precision.name)))


def memory_of(config: RunConfig) -> tuple[int, str]:
    """Bytes that a training may take of its device, and where that is known from; 0 where there is no limit."""
    limit = round(config.cluster.memory_gib * 2**30)
    if config.engine.device == "cpu" or not torch.cuda.is_available():
        return limit, "cluster.memory_gib"
    device = choose_device(config.engine.device)
    card = torch.cuda.get_device_properties(device)
    total = int(card.total_memory)
    return (limit, "cluster.memory_gib") if 0 < limit < total else (total, str(card.name))


def foretell(config: RunConfig, prepared: str) -> Foretold | None:
    """None where nothing is known to compare it with, or the model cannot be rehearsed: it may train all the same."""
    memory, named = memory_of(config)
    if not memory:
        return None
    from ftcluster.training.planning import predict

    loader, kind = loader_of(config, opened(prepared)), _kind_here(config)
    widest = len(loader.widest(0, loader.steps_per_epoch).tokens_T)
    try:
        taken = predict(_computed(config, kind), widest, loader.longest)
    except Exception:  # whatever a model's own code does with tensors that have no numbers
        return None
    return Foretold(kind, taken, memory, named)


def refuse(config: RunConfig, foretold: Foretold | None) -> None:
    """Before anything is started.

    Raises:
        UsageError: it takes more than there is; with what would fit.
    """
    if foretold is None or foretold.bytes <= foretold.memory / 2:  # calibration never doubles
        return
    known = calibration(resolve_home(config), foretold.kind)
    need = round(foretold.bytes * known.factor)
    if need <= foretold.memory:
        return
    why = f" ({calibrated(known)})" if known.runs else ""
    raise UsageError(
        f"it would take {format_bytes(need)} of memory{why}, and there is {format_bytes(foretold.memory)}",
        where=foretold.named,
        remedy=advice(config),
    )


def note_foretold(tracker: Tracker, folder: Path, foretold: Foretold) -> None:
    """Record it with the run, and for the plans of later ones."""
    if read_memory(folder).predicted != foretold.bytes:
        tracker.tags({"ftcluster.memory_predicted_bytes": str(foretold.bytes)})
        change_memory(folder, **asdict(foretold.kind), predicted=foretold.bytes, measured=0)


def note_peak(tracker: Tracker, folder: Path, measured: int) -> None:
    """Likewise what a stretch really took, if it is the most so far."""
    known = read_memory(folder)
    if known.predicted and measured > known.measured:
        tracker.tags({"ftcluster.memory_measured_bytes": str(measured)})
        change_memory(folder, measured=measured)


def advice(config: RunConfig) -> str:
    """What ``ftcluster plan`` says of a training that does not fit."""
    memory, _ = memory_of(config)
    if not memory:
        return _GENERAL
    from ftcluster.models.parallel import memory_with_room
    from ftcluster.training.planning import Gpus, plan_memory

    kind = _kind_here(config)
    on_gpu = kind.device == "cuda"
    try:
        found = plan_memory(
            _computed(config, kind), Gpus(config.cluster.ranks, memory if on_gpu else memory_with_room(memory))
        )
    except FtclusterError:
        return _GENERAL
    if found.settings:
        return f"by ftcluster plan this would fit: {' '.join(found.settings)}"
    if found.alternatives and on_gpu:
        return f"by ftcluster plan this would fit: {'; or '.join(found.alternatives)}"
    return _GENERAL


def _computed(config: RunConfig, kind: Kind) -> RunConfig:
    """With device and precision as they are here, whatever a plan would take for granted."""
    return replace(config, engine=replace(config.engine, device=kind.device, precision=kind.precision))
