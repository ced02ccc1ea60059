"""DeepSpeed's JSON, derived from our settings by one pure function; a user's own file may say the rest.

What decides the result (accumulation, clipping, precision) is always ours, because the training loop relies on it. How
it is computed (buckets, thresholds, overlap) has defaults, which the user's file replaces. Stage and offload may come
from either; where both say something else, each such place is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ftcluster.engine.precision import Precision
from ftcluster.errors import ConfigError

DEVICES = ("none", "cpu", "nvme")
_DEFAULT_STAGE = 2
_AUTO = "auto"  # what files written for other trainers leave to the trainer
# Sections that a file for other trainers has, and which of our fields say the same.
_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {"optimizer": "optim.*", "scheduler": "optim.schedule", "fp16": "engine.precision", "amp": "engine.precision"}
)
_BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


@dataclass(frozen=True)
class ShardedSettings:
    """How a trial is sharded; None means that it was not said."""

    stage: int | None = None  # 0 nothing | 1 optimizer state | 2 and gradients | 3 and weights
    offload_optimizer: str | None = None  # none | cpu | nvme: where masters and moments are
    offload_parameters: str | None = None  # none | cpu | nvme: where a rank's share of the weights is
    nvme: Path | None = None  # folder on a fast local disk
    hpz: int | None = None  # ranks that hold a whole copy of the weights between them; 1: all ranks one copy
    own: Path | None = None  # the user's own DeepSpeed JSON


def read_own(path: Path) -> dict[str, Any]:
    """The user's own DeepSpeed JSON.

    Raises:
        ConfigError: it cannot be read, or is no JSON object.
    """
    remedy = "see https://www.deepspeed.ai/docs/config-json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError([f"cannot be read: {error}"], where=str(path), remedy=remedy) from error
    if not isinstance(found, dict):
        raise ConfigError(["is not a JSON object"], where=str(path), remedy=remedy)
    return found


def deepspeed_config(
    settings: ShardedSettings, precision: Precision, *, clip: float, ranks: int, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What DeepSpeed is told; ``own`` is what ``read_own`` found in ``settings.own``.

    Raises:
        ConfigError: listing every conflict of the two, and every combination that DeepSpeed cannot do.
    """
    given = {key: value for key, value in (own or {}).items() if not _leaves_open(value)}
    decided = _decided(settings, precision, clip)
    problems = _elsewhere(given) + _conflicts(decided, given, str(settings.own))
    merged = _merged(_merged(_defaults(), given), decided)
    zero = merged["zero_optimization"]
    zero.setdefault("stage", _DEFAULT_STAGE)
    zero.setdefault("overlap_comm", zero["stage"] == 2)  # the one stage that allows it with micro-batches of ours
    problems += _impossible(zero, ranks)
    if problems:
        remedy = "leave each of them to the file or to the config, not both" if own else ""
        raise ConfigError(problems, where=str(settings.own or "engine"), remedy=remedy)
    return merged


def stage_of(config: Mapping[str, Any]) -> int:
    """The ZeRO stage of a derived config."""
    return int(config["zero_optimization"]["stage"])


def _decided(settings: ShardedSettings, precision: Precision, clip: float) -> dict[str, Any]:
    zero: dict[str, Any] = {} if settings.stage is None else {"stage": settings.stage}
    for name, device in (("optimizer", settings.offload_optimizer), ("param", settings.offload_parameters)):
        if device is not None:
            place = {"nvme_path": str(settings.nvme)} if device == "nvme" and settings.nvme else {}
            zero[f"offload_{name}"] = {"device": device, **place}
    if settings.hpz is not None:
        zero["zero_hpz_partition_size"] = settings.hpz
    # It would replace torch's linear layer for the whole process.
    zero["memory_efficient_linear"] = False
    return {
        # Documents are dealt out by tokens, micro-batches end where the loop says `step`: these two mean nothing here.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": clip,
        "bf16": {"enabled": precision.weights is torch.bfloat16},
        "torch_autocast": _autocast(precision),
        "zero_optimization": zero,
    }


def _autocast(precision: Precision) -> dict[str, Any]:
    if precision.autocast is None or precision.weights is torch.bfloat16:
        return {"enabled": False}
    return {"enabled": True, "dtype": str(precision.autocast).removeprefix("torch.")}


def _defaults() -> dict[str, Any]:
    return {
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        # Ours is torch's AdamW everywhere, so that a trial may move between engines.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "reduce_bucket_size": 50_000_000,  # elements; DeepSpeed's own would hold 2 GB of fp32
            "allgather_bucket_size": 50_000_000,
            "contiguous_gradients": True,
        },
    }


def _elsewhere(given: Mapping[str, Any]) -> list[str]:
    sections = [
        name for name in _ELSEWHERE if isinstance(given.get(name), Mapping) and given[name].get("enabled", True)
    ]
    problems = [f"{name} is set by {_ELSEWHERE[name]}; take it out of the file" for name in sections]
    return problems + [
        f"{name} is set by optim.batch_size and optim.micro_batch; take it out of the file"
        for name in _BATCH
        if name in given
    ]


_OURS: Mapping[str, str] = MappingProxyType(
    {
        "gradient_clipping": "optim.clip",
        "bf16.enabled": "engine.precision",
        "torch_autocast.enabled": "engine.precision",
        "torch_autocast.dtype": "engine.precision",
        "zero_optimization.stage": "engine.stage",
        "zero_optimization.offload_optimizer.device": "engine.offload_optimizer",
        "zero_optimization.offload_optimizer.nvme_path": "engine.nvme",
        "zero_optimization.offload_param.device": "engine.offload_parameters",
        "zero_optimization.offload_param.nvme_path": "engine.nvme",
        "zero_optimization.zero_hpz_partition_size": "engine.hpz",
    }
)


def _conflicts(decided: Mapping[str, Any], given: Mapping[str, Any], file: str) -> list[str]:
    in_file = dict(_leaves(given))
    problems = []
    for path, value in _leaves(decided):
        if path in in_file and path not in _BATCH and not _same(in_file[path], value):
            ours = f"{_OURS[path]} says" if path in _OURS else "it has to be"
            problems.append(f"{path} is {json.dumps(in_file[path])} in {file}, but {ours} {json.dumps(value)}")
    return problems


def _impossible(zero: Mapping[str, Any], ranks: int) -> list[str]:
    stage, copies = zero["stage"], zero.get("zero_hpz_partition_size", 1)
    devices = {name: (zero.get(f"offload_{name}") or {}).get("device", "none") for name in ("optimizer", "param")}
    problems = [] if stage in range(4) else [f"engine.stage is {stage}; it is 0, 1, 2 or 3"]
    problems += [
        f"offload_{name} to {device}; it is one of {', '.join(DEVICES)}"
        for name, device in devices.items()
        if device not in DEVICES
    ]
    if devices["param"] != "none" and stage != 3:
        problems.append(f"engine.offload_parameters needs engine.stage=3, which shards weights; it is {stage}")
    if devices["optimizer"] != "none" and stage == 0:
        problems.append("engine.offload_optimizer needs engine.stage=1, 2 or 3; stage 0 shards nothing")
    for name, device in devices.items():
        if device == "nvme" and stage != 3:
            problems.append(f"offload to nvme needs engine.stage=3; it is {stage}")
        if device == "nvme" and not zero[f"offload_{name}"].get("nvme_path"):
            problems.append("offload to nvme needs engine.nvme, a folder on a fast local disk")
    if copies != 1 and (stage != 3 or copies < 1 or ranks % copies):
        problems.append(f"engine.hpz is {copies}; it divides the {ranks} ranks of a trial with engine.stage=3")
    return list(dict.fromkeys(problems))


def _leaves_open(value: Any) -> bool:
    """Whether a section leaves everything but its type to the trainer."""
    if isinstance(value, Mapping):
        return bool(value) and all(_leaves_open(inner) for key, inner in value.items() if key != "type")
    return bool(value == _AUTO)


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _same(one: Any, other: Any) -> bool:
    return one in (other, _AUTO)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees; ``above`` wins, but for what it leaves open."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping):
            inner = merged.get(key)
            merged[key] = _merged(inner if isinstance(inner, Mapping) else {}, value)
        elif value != _AUTO:
            merged[key] = value
    return merged
