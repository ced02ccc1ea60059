"""Memory of a training before its launch: a config becomes a plan for GPUs that may be elsewhere.

This is where config fields become plain arguments of ``models.memory`` and ``models.parallel``. Weights, data and GPUs
are not needed: a model folder with its config.json is enough. Every row is taken to be as long as it may be, and every
token to carry loss, so a plan errs on the safe side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ftcluster.config.compose import resolve_home
from ftcluster.config.schema import RunConfig
from ftcluster.config.sharding import shards, shares_sharded
from ftcluster.contracts.ports import AdapterSettings
from ftcluster.engine.packed.bank import bucket_of
from ftcluster.engine.precision import Precision, precision_of
from ftcluster.errors import ModelError, UsageError
from ftcluster.models.base import skeleton
from ftcluster.models.memory import (
    Footprint,
    Layout,
    Numbers,
    Offload,
    Passes,
    Training,
    count,
    footprint,
    trials_beside,
)
from ftcluster.models.parallel import GPU_GIB, Choice, Wishes, choose, layouts, room, what_would_fit
from ftcluster.models.size import adapter_parameters
from ftcluster.models.targets import ALL_LINEAR
from ftcluster.training.admission import BUDGET_CUDA
from ftcluster.training.bench import adapter_settings, packs
from ftcluster.training.memory_record import Calibration, Kind, calibration
from ftcluster.training.rehearsal import Style, rehearse

_MEMORY = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*([KMGT])(i?)B\s*$", re.IGNORECASE)
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Gpus:
    """What to plan for; ``memory`` in bytes of each, 0 where it is not known."""

    count: int
    memory: int
    name: str = ""


@dataclass(frozen=True)
class Candidate:
    """One layout of the table; ``fits`` is None where no memory is known."""

    layout: Layout
    bytes: Footprint
    fits: bool | None


@dataclass(frozen=True)
class Pass:
    """A step, divided: ``micro_batch`` rows at a time on all GPUs, ``passes`` times."""

    micro_batch: int
    passes: int
    tokens: int  # of the step, at most
    tokens_per_gpu: int  # of a pass, at most


@dataclass(frozen=True)
class MemoryPlan:
    """What a config would take, and what was chosen for it."""

    model: str
    numbers: Numbers
    trained: int
    adapter: bool
    gpus: Gpus
    candidates: tuple[Candidate, ...]
    chosen: Choice | None
    step: Pass | None
    settings: tuple[str, ...]  # words for ftcluster train
    alternatives: tuple[str, ...]  # what would fit, where nothing was chosen
    sizes: tuple[tuple[int, Choice], ...]  # GiB of a GPU and what it is good for, where no memory is known
    trials_beside: int | None  # LoRA trials on one GPU; None: they cannot share a base
    calibration: Calibration  # all bytes are multiplied by


def parse_memory(text: str) -> int:
    """Bytes of ``"80GiB"``, ``"81920 MiB"`` or ``"80GB"`` (decimal, as on a box).

    Raises:
        UsageError: anything else.
    """
    found = _MEMORY.match(text)
    count = float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].upper()] if found else 0
    if count < 1:
        remedy = "write a number and a unit: 80GiB, 24GiB, 81920MiB"
        raise UsageError(f'"{text}" is no size of a memory', where="--gpu-memory", remedy=remedy)
    return round(count)


def gpus_here() -> Gpus:
    """What torch sees on this machine; no memory where it sees none."""
    if not torch.cuda.is_available():
        return Gpus(0, 0)
    seen = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    smallest = min(seen, key=lambda device: int(device.total_memory))
    return Gpus(len(seen), int(smallest.total_memory), str(smallest.name))


def wishes_of(config: RunConfig, gpus: int, stage: int | None = None, offload: Offload | None = None) -> Wishes:
    """What a config asks for; what is said besides goes first.

    Activation checkpointing that is off may be switched on, and what DeepSpeed was not told is left free.
    """
    optim = config.optim
    rows = optim.micro_tokens // config.data.max_length if optim.micro_tokens else optim.micro_batch
    rows = max(1, min(rows, optim.batch_size))
    told_stage, told_offload = _told(config) if gpus > 1 or shards(config) else (None, None)
    return Wishes(
        rows=-(-rows // _dividing(config, gpus)),
        stage=told_stage if stage is None else stage,
        offload=told_offload if offload is None else offload,
        checkpointing=True if config.engine.activation_checkpointing else None,
    )


def _dividing(config: RunConfig, gpus: int) -> int:
    """How many GPUs divide a micro-batch: a trial of a pack is whole on one of them."""
    return 1 if shares_sharded(config) else gpus


def _told(config: RunConfig) -> tuple[int | None, Offload | None]:
    """Stage and offload as far as the config names them."""
    engine = config.engine
    stage = 3 if shares_sharded(config) else engine.stage if engine.stage >= 0 else None
    if stage in (1, 2) and config.adapter.kind != "none":
        stage = 0  # there is nothing of an adapter that these two would shard
    if engine.offload_parameters not in ("", "none"):
        return stage, "parameters"
    if engine.offload_optimizer not in ("", "none"):
        return stage, "optimizer"
    return stage, "none" if engine.offload_optimizer == engine.offload_parameters == "none" else None


def plan_memory(config: RunConfig, gpus: Gpus, stage: int | None = None, offload: Offload | None = None) -> MemoryPlan:
    """Predict what a config takes on these GPUs, and choose the cheapest way that fits.

    Raises:
        ModelError: the model cannot be used, or lacks an adapter target.
        UsageError: stage and offload rule each other out.
    """
    training = training_of(config)
    known = _calibration(config, gpus)
    training = replace(training, calibration=known.factor)
    wishes = wishes_of(config, gpus.count, stage, offload)
    _check(training, gpus.count, wishes)
    chosen = choose(training, gpus.memory, gpus.count, wishes) if gpus.memory else None
    shown = chosen.layout if chosen else layouts(training, gpus.count, wishes)[0]
    step = _step(config, chosen.layout) if chosen else None
    return MemoryPlan(
        model=str(config.model.path),
        numbers=training.numbers,
        trained=training.adapter or training.numbers.total,
        adapter=bool(training.adapter),
        gpus=gpus,
        candidates=tuple(_candidates(training, gpus, shown)),
        chosen=chosen,
        step=step,
        settings=tuple(_settings(config, chosen.layout, step)) if chosen and step else (),
        alternatives=tuple(_alternatives(config, training, gpus, wishes)) if gpus.memory and not chosen else (),
        sizes=() if gpus.memory else tuple(_sizes(training, gpus.count, wishes)),
        trials_beside=_beside(config, training, gpus, shown),
        calibration=known,
    )


def _calibration(config: RunConfig, gpus: Gpus) -> Calibration:
    """By runs that were like a training on so many GPUs."""
    spread = replace(config, cluster=replace(config.cluster, ranks=gpus.count))
    return calibration(resolve_home(config), kind_of(spread))


def kind_of(config: RunConfig) -> Kind:
    """Which earlier runs a training is like, on the GPUs that it is planned for."""
    full = config.adapter.kind == "none"
    packed = "packed" if packs(config) else ""
    engine = "-".join(filter(None, (packed, "deepspeed" if shards(config) else ""))) or "local"
    return Kind(engine, "cpu" if config.engine.device == "cpu" else "cuda", planned_precision(config, full=full).name)


def predict(config: RunConfig, tokens: int, longest: int) -> int:
    """Bytes that a training takes of each device as its config lays it out, for the rows it has.

    ``tokens`` are those of its largest micro-batch, ``longest`` those of a row.

    Raises:
        ModelError: the model cannot be used or rehearsed, or lacks an adapter target.
    """
    ranks, sharded = config.cluster.ranks, shards(config)
    stage, offload = _told(config) if sharded else (0, None)
    if stage is None:
        stage = 2 if config.adapter.kind == "none" else 0
    layout = Layout(ranks, stage, offload or "none", config.engine.activation_checkpointing)
    share = -(-tokens // _dividing(config, ranks))
    return footprint(training_of(config, longest), layout, max(longest, share)).on_gpu


def training_of(config: RunConfig, length: int = 0) -> Training:
    """What memory depends on; ``length`` of the longest row, where that is less than data.max_length.

    Raises:
        ModelError: the model cannot be used, or lacks an adapter target.
    """
    folder, trusted = Path(config.model.path), config.model.trust_remote_code
    if not (folder / "config.json").is_file():
        remedy = "model.path must name a folder with the config.json of a model; weights are not needed"
        raise ModelError("no config.json there", where=str(folder), remedy=remedy)
    model = skeleton(folder, trust_remote_code=trusted)
    full, length = config.adapter.kind == "none", length or config.data.max_length
    precision = planned_precision(config, full=full)
    adapter = None if full else adapter_settings(config)
    packed = packs(config)

    def passes(layout: Layout) -> Passes:
        style = Style(
            precision.weights,
            precision.autocast,
            adapter,
            packed=packed and (shares_sharded(config) or not layout.sharded),
            checkpointing=layout.checkpointing,
            collected=layout.stage == 3,
            device="cpu" if config.engine.device == "cpu" else "cuda",
        )
        return rehearse(folder, style, length, trust_remote_code=trusted)

    numbers, width = count(model), precision.weights.itemsize
    product = (precision.autocast or precision.weights).itemsize
    if adapter is None:
        return Training(numbers, width, product, length, passes)
    stored = _as_stored(adapter) if packed else adapter
    state = 4 * max(4, width) + (width if packed and width < 4 else 0)  # masters, gradients, two moments; a shadow
    held = adapter_parameters(model, stored)
    return Training(numbers, width, product, length, passes, adapter=held, adapter_state=held * state)


def _as_stored(adapter: AdapterSettings) -> AdapterSettings:
    """A bank's rows have room for every layer, and for all ranks of a bucket."""
    return replace(adapter, rank=bucket_of(adapter.rank), targets=(ALL_LINEAR,))


def planned_precision(config: RunConfig, *, full: bool) -> Precision:
    """As ``engine.precision.choose_precision`` decides on a GPU with bf16, wherever the plan is made."""
    engine = config.engine
    native = "fp32" if engine.device == "cpu" else "bf16"
    return precision_of(native if engine.precision == "auto" else engine.precision, full=full)


def _check(training: Training, gpus: int, wishes: Wishes) -> None:
    if layouts(training, gpus, wishes):
        return
    free = {(layout.stage, layout.offload) for layout in layouts(training, max(2, gpus), Wishes(1))}
    known = ", ".join(f"stage {stage} with offload {offload}" for stage, offload in sorted(free))
    why = "adapters are too small to shard, so " if training.adapter else ""
    asked = [f"stage {wishes.stage}"] if wishes.stage is not None else []
    asked += [f"offload {wishes.offload}"] if wishes.offload is not None else []
    raise UsageError(f"{why}there is no {' with '.join(asked)}", where="--stage, --offload", remedy=f"there is {known}")


def _candidates(training: Training, gpus: Gpus, like: Layout) -> list[Candidate]:
    """Every stage and offload, on one GPU and on all of them, with the passes of one layout."""
    found = []
    for number in sorted({1, gpus.count}):
        ways = {(layout.stage, layout.offload) for layout in layouts(training, number, Wishes(1))}
        if number == like.gpus:
            ways.add((like.stage, like.offload))
        for stage, offload in sorted(ways, key=lambda way: (way[1] != "none", way)):
            layout = replace(like, gpus=number, stage=stage, offload=offload)
            made = footprint(training, layout)
            found.append(Candidate(layout, made, made.on_gpu <= room(gpus.memory) if gpus.memory else None))
    return found


def _step(config: RunConfig, layout: Layout) -> Pass:
    together, rows = layout.rows * _dividing(config, layout.gpus), config.optim.batch_size
    length = config.data.max_length
    return Pass(min(together, rows), -(-rows // together), rows * length, layout.rows * length)


def _settings(config: RunConfig, layout: Layout, step: Pass) -> list[str]:
    """What to say to ``ftcluster train`` so that it trains like this, as far as it differs from the config."""
    words = []
    if config.optim.micro_tokens:
        tokens = _dividing(config, layout.gpus) * step.tokens_per_gpu
        words += [f"optim.micro_tokens={tokens}"] if tokens < config.optim.micro_tokens else []
    elif step.micro_batch != config.optim.micro_batch:
        words.append(f"optim.micro_batch={step.micro_batch}")
    if layout.checkpointing and not config.engine.activation_checkpointing:
        words.append("engine.activation_checkpointing=true")
    wanted = _sharding(config, layout) if layout.sharded else {}
    return words + [f"{word}={value}" for word, (value, now) in wanted.items() if value != now]


def _sharding(config: RunConfig, layout: Layout) -> dict[str, tuple[object, object]]:
    """Words about DeepSpeed: what is wanted, and what the config says."""
    engine = config.engine
    wanted: dict[str, tuple[object, object]] = {
        "cluster.ranks": (layout.gpus, config.cluster.ranks),
        "engine.stage": (layout.stage, engine.stage),
    }
    if layout.gpus == 1 and engine.name != "packed":
        wanted["engine.name"] = ("deepspeed", engine.name)
    if layout.offload != "none" and config.adapter.kind == "none":
        wanted["engine.offload_optimizer"] = ("cpu", engine.offload_optimizer)
    if layout.offload == "parameters":
        wanted["engine.offload_parameters"] = ("cpu", engine.offload_parameters)
    return wanted


def _alternatives(config: RunConfig, training: Training, gpus: Gpus, wishes: Wishes) -> list[str]:
    found = what_would_fit(training, gpus.memory, gpus.count, wishes)
    if training.adapter:
        return found
    smaller = replace(config, adapter=replace(config.adapter, kind="lora"))
    wanted = Wishes(wishes.rows, checkpointing=wishes.checkpointing)
    adapted = replace(training_of(smaller), calibration=_calibration(smaller, gpus).factor)
    if made := choose(adapted, gpus.memory, gpus.count, wanted):
        found.append(f"adapter=lora: {made.words}")
    return found


def _sizes(training: Training, gpus: int, wishes: Wishes) -> list[tuple[int, Choice]]:
    """The smallest GPUs for each layout that is the cheapest on some."""
    found: list[tuple[int, Choice]] = []
    for size in GPU_GIB:
        made = choose(training, size * 2**30, gpus, wishes)
        if made and (not found or found[-1][1].layout != made.layout):
            found.append((size, made))
    return found


def _beside(config: RunConfig, training: Training, gpus: Gpus, layout: Layout) -> int | None:
    if not training.adapter or not gpus.memory or not packs(config) or shards(config):
        return None
    tokens = max(layout.rows * training.length, BUDGET_CUDA)  # a host fills its shared passes up to that
    return trials_beside(training, room(gpus.memory), tokens, checkpointing=layout.checkpointing)
