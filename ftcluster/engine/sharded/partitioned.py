"""A full fine-tune whose state DeepSpeed divides over the ranks: ZeRO stages 1 to 3 (Rajbhandari et al. 2020).

DeepSpeed works on flat pieces of many parameters, and its own checkpoints fit one world size. Here the pieces are put
together parameter by parameter and written with the names and shapes of the ``local`` engine; so a trial may go on with
another number of ranks, another stage, or in one process. One parameter at a time is whole, on each rank.

Every function here is a collective: all ranks must call it, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from safetensors import safe_open
from torch import Tensor

from ftcluster.engine.sharded.loading import gathered, read_tensor, tensor_files

MOMENTS = ("exp_avg", "exp_avg_sq")
Parameters = Mapping[str, torch.nn.Parameter]


class Through:
    """A model that DeepSpeed runs: called through its engine, in all else the model itself."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __call__(self, **inputs: Any) -> Any:
        return self.engine(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine.module, name)


def run_by_deepspeed(model: Any, config: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    """DeepSpeed's engine around a model and what trains it."""
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=dict(config))
    return engine


def run_frozen(model: Any, config: Mapping[str, Any]) -> None:
    """Have DeepSpeed gather and drop a frozen model's weights around its layers, and no more."""
    zero = {key: value for key, value in config["zero_optimization"].items() if key != "offload_optimizer"}
    deepspeed.initialize(model=model, config={**config, "zero_optimization": zero})


def shapes_of(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    """Of the whole parameters, sharded or not."""
    return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in parameters.items()}


def whole_weights(parameters: Parameters, *, masters: bool) -> Iterator[Tensor]:
    """Each parameter's values, or those its optimizer goes by."""
    for parameter in parameters.values():
        if masters:
            yield safe_get_full_fp32_param(parameter)
        else:
            with gathered([parameter]):
                yield parameter.detach()


def whole_moments(parameters: Parameters, moment: str) -> Iterator[Tensor]:
    """Each parameter's ``exp_avg`` or ``exp_avg_sq``."""
    for parameter in parameters.values():
        yield safe_get_full_optimizer_state(parameter, moment)


def steps_done(optimizer: torch.optim.Optimizer) -> int:
    """As counted by AdamW; its flat pieces have been through the same steps."""
    return max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0)


def set_steps(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """What AdamW is to count on from."""
    for state in optimizer.state.values():
        state["step"].fill_(float(steps))


@torch.no_grad()
def fill_weights(parameters: Parameters, folder: Path, device: torch.device) -> None:
    """Weights and masters from a model folder."""
    files = tensor_files(folder)
    for name, parameter in parameters.items():
        values = read_tensor(files[name], name).to(device)
        with gathered([parameter], modified=True):
            parameter.copy_(values)
        safe_set_full_fp32_param(parameter, values.float())


@torch.no_grad()
def fill_moments(parameters: Parameters, file: Path, device: torch.device) -> None:
    """Moments from an optimizer's file; where it has none they are zero."""
    with_state = _names(file)
    for name, parameter in parameters.items():
        for moment in MOMENTS:
            key = f"{moment}:{name}"
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            values = read_tensor(file, key).to(device) if key in with_state else torch.zeros(shape, device=device)
            safe_set_full_optimizer_state(parameter, values.float(), moment)


def saved_steps(file: Path) -> int:
    """The step counter in an optimizer's file; 0 where nothing was trained."""
    return max((int(read_tensor(file, name)) for name in _names(file) if name.startswith("step:")), default=0)


def _names(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as opened:
        return set(opened.keys())
