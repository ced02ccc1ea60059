"""LoRA adapters on a base, made and written by PEFT: any PEFT user can load what is saved here.

Several adapters may hang on one base, one per slot; only the activated one takes part in a forward pass.
Files are PEFT's own: ``adapter_config.json`` and ``adapter_model.safetensors``, plus ``integrity.json``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.functional import delete_adapter, set_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from ftcluster.contracts.ports import AdapterSettings
from ftcluster.errors import StoreError
from ftcluster.models.base import Base
from ftcluster.models.targets import resolve_targets

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."  # what PEFT's own wrapper puts before every name


def attach(base: Base, name: str, settings: AdapterSettings, seed: int) -> dict[str, torch.nn.Parameter]:
    """Hang a freshly initialised adapter on the base; returns its parameters by name, fp32 at least.

    ``A`` is Kaiming-uniform from ``seed``, ``B`` is zero, both as PEFT draws them.

    Raises:
        ModelError: a target the model does not have.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _inject(base, name, _config(base, settings))


def _config(base: Base, settings: AdapterSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=resolve_targets(base.model, settings.targets),
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base.folder),
        revision=None,
    )


def scale_of(settings: AdapterSettings) -> float:
    """What ``B A`` is multiplied by: alpha / r, for rsLoRA (Kalajdzievski 2023) alpha / sqrt(r)."""
    return settings.alpha / (math.sqrt(settings.rank) if settings.rslora else settings.rank)


def initial_a(sizes: Sequence[tuple[int, int]], rank: int, seed: int) -> list[Tensor]:
    """What ``attach`` draws for A [rank, in] of layers with these (inputs, outputs), in their order; B is zero.

    PEFT makes two linear layers per adapter, which draw weights of their own, before it draws those it keeps.
    """
    drawn = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inputs, outputs in sizes:
            lower = torch.nn.Linear(inputs, rank, bias=False)
            torch.nn.Linear(rank, outputs, bias=False)
            torch.nn.init.kaiming_uniform_(lower.weight, a=math.sqrt(5))
            drawn.append(lower.weight.detach())
    return drawn


def attach_saved(base: Base, name: str, folder: Path) -> dict[str, torch.nn.Parameter]:
    """Hang a saved adapter on the base, as its own config file describes it; returns its parameters by name.

    Raises:
        StoreError: its weights are not those its config describes on this base.
    """
    config = LoraConfig.from_pretrained(str(folder))
    with torch.random.fork_rng():
        parameters = _inject(base, name, config)
    try:
        load_adapter_weights(parameters, name, folder)
    except StoreError:
        detach(base, name)
        raise
    return parameters


def _inject(base: Base, name: str, config: LoraConfig) -> dict[str, torch.nn.Parameter]:
    with warnings.catch_warnings():
        # PEFT warns of a second adapter on one model, which is what a shared base is for.
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        # GPT-2 keeps weights transposed; PEFT notices by itself, and says so for every layer.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        inject_adapter_in_model(config, base.model, name)
    parameters = {path: p for path, p in base.model.named_parameters() if f".{name}." in path and ".lora_" in path}
    for parameter in parameters.values():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    return parameters


def activate(base: Base, name: str | None) -> None:
    """Let one adapter take part in the forward pass and be trained; None: the bare base."""
    if getattr(base.model, "peft_config", None):
        set_adapter(base.model, name or [])


def detach(base: Base, name: str) -> None:
    """Take an adapter off the base and free it."""
    delete_adapter(base.model, adapter_name=name, prefix="lora_")
    base.model.peft_config.pop(name, None)


def adapter_tensors(base: Base, name: str) -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's file names, on the CPU."""
    state = get_peft_model_state_dict(base.model, adapter_name=name, save_embedding_layers=False)
    return {_PREFIX + key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}


def save_adapter(base: Base, name: str, folder: Path) -> None:
    """Write the adapter in PEFT's format into an existing folder."""
    _write(base.model.peft_config[name], adapter_tensors(base, name), folder)


def write_adapter(base: Base, settings: AdapterSettings, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write an adapter that hangs on no model in PEFT's format; ``tensors`` by ``file_name``."""
    _write(_config(base, settings), tensors, folder)


def file_name(parameter: str) -> str:
    """A parameter's name in PEFT's files."""
    return _PREFIX + (parameter.removesuffix(".weight") if ".lora_magnitude_vector" in parameter else parameter)


def _write(config: Any, tensors: dict[str, Tensor], folder: Path) -> None:
    inference, config.inference_mode = config.inference_mode, True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = inference
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter_weights(parameters: dict[str, torch.nn.Parameter], name: str, folder: Path) -> None:
    """Copy saved tensors into an attached adapter, bit for bit.

    Raises:
        StoreError: the file's tensors are not those of this adapter.
    """
    expected = {file_name(path.replace(f".{name}.", ".")): p for path, p in parameters.items()}
    saved = read_adapter(folder, {key: p.shape for key, p in expected.items()})
    with torch.no_grad():
        for key, parameter in expected.items():
            parameter.copy_(saved[key])


def read_adapter(folder: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """A saved adapter's tensors by ``file_name``.

    Raises:
        StoreError: they are not those of an adapter with these shapes.
    """
    saved = load_file(folder / WEIGHTS)
    if saved.keys() != shapes.keys() or any(saved[key].shape != shape for key, shape in shapes.items()):
        raise StoreError(
            "the saved adapter has other tensors than this trial's",
            where=str(folder / WEIGHTS),
            remedy="resume with the config the checkpoint was made with (run.yaml beside it)",
        )
    return saved
