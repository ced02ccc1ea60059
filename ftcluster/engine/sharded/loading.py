"""A base whose weights are sharded while they are read: no rank ever holds more than one tensor of it whole.

    skeleton (no memory) -> per tensor: rank 0 reads it from its safetensors file -> broadcast -> each rank keeps
    its share and drops the rest

Files are read once per group. A model that transformers would convert while loading (other names in the file than in
the model) is refused here and can be trained with stages 0 to 2, which load as every engine does.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deepspeed
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ftcluster.errors import ModelError
from ftcluster.models.attention import check_isolation
from ftcluster.models.base import Base, check_folder, check_vocabulary, fingerprint, load_base, skeleton
from ftcluster.models.tokenizer import load_tokenizer

_INDEX = "model.safetensors.index.json"


def settle_deepspeed() -> None:
    """What a process wants of DeepSpeed before it does anything with it."""
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # An operation for inference that DeepSpeed would compile for a minute, and share under a name keyed by user.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls collectives by names that torch is about to change; it would say so for each call.
    warnings.filterwarnings("ignore", message=".torch.distributed", category=FutureWarning)


@dataclass(frozen=True)
class BaseSource:
    """A Hugging Face folder, and how its weights are to be held."""

    folder: Path
    device: torch.device
    dtype: torch.dtype
    revision: str = ""
    template: str | None = None
    trust_remote_code: bool = False

    def whole(self) -> Base:
        """The base with all weights on this rank."""
        return load_base(
            self.folder,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
            template=self.template,
            trust_remote_code=self.trust_remote_code,
        )

    def sharded(self, config: Mapping[str, Any]) -> Base:
        """The base with this rank's share of the weights; all ranks must call it.

        Raises:
            ModelError: the folder is incomplete, or its tensors are not named as the model's are.
        """
        check_folder(self.folder)
        tokenizer = load_tokenizer(self.folder, template=self.template, trust_remote_code=self.trust_remote_code)
        known = skeleton(self.folder, trust_remote_code=self.trust_remote_code)
        check_vocabulary(known.get_input_embeddings().weight.shape[0], tokenizer, self.folder)
        model = self._empty(known)
        files = tensor_files(self.folder)
        _shard(model, self._reader(model, files), config, self.device, self.dtype)
        model.requires_grad_(False).eval()
        revision = self.revision or fingerprint(self.folder)
        return Base(self.folder, revision, model, tokenizer, self.device, self.dtype)

    def _empty(self, known: Any) -> Any:
        """The model with its buffers, and parameters that take no memory."""
        config = copy.deepcopy(known.config)
        config.dtype, config._attn_implementation = self.dtype, "sdpa"
        with _parameters_without_memory(), _default_dtype(self.dtype):
            model = type(known)(config)
        if (self.folder / "generation_config.json").is_file():
            model.generation_config = type(model.generation_config).from_pretrained(self.folder, local_files_only=True)
        return model

    def _reader(self, model: Any, files: Mapping[str, Path]) -> Callable[[str], Tensor]:
        """Reads a parameter by name; of tied ones the file may have any."""
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        found = {same[0]: [name for name in same if name in files] for same in names.values()}
        if missing := [name for name, there in found.items() if not there]:
            raise ModelError(
                f"the weights lack {len(missing)} tensors by the names that the model has, such as {missing[0]}",
                where=str(self.folder),
                remedy="engine.stage=2 loads what transformers has to convert; or save it once with save_pretrained",
            )
        return lambda name: read_tensor(files[found[name][0]], found[name][0])


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which file of a model folder holds which tensor, from the heads of its files alone.

    Raises:
        ModelError: a file is missing or shorter than its head says.
    """
    index, files = folder / _INDEX, dict[str, Path]()
    try:
        named = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else None
        for path in sorted(folder / name for name in named) if named else sorted(folder.glob("model*.safetensors")):
            with safe_open(path, framework="pt") as opened:
                files |= dict.fromkeys(opened.keys(), path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        remedy = "fetch the folder again"
        raise ModelError(f"its weights cannot be read: {error}", where=str(folder), remedy=remedy) from error
    return files


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, without reading the others."""
    with safe_open(path, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Models made inside have their buffers, whose values no file has, and parameters on the meta device."""
    plain = torch.nn.Module.register_parameter

    def register(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # a tied one comes a second time, and stays the same
            parameter = torch.nn.Parameter(parameter.to("meta"))
        plain(module, name, parameter)

    torch.nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = plain  # type: ignore[method-assign]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _shard(
    model: Any, read: Callable[[str], Tensor], config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> None:
    """Give each parameter its values and cut it up at once."""
    leads = torch.distributed.get_rank() == 0
    done: dict[int, torch.nn.Parameter] = {}
    for name, empty in list(model.named_parameters(remove_duplicate=False)):
        if id(empty) not in done:
            values = read(name).to(device, dtype) if leads else torch.empty(empty.shape, device=device, dtype=dtype)
            done[id(empty)] = _cut(torch.nn.Parameter(values, requires_grad=False), config, dtype, done.values())
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], done[id(empty)])
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def _cut(
    parameter: torch.nn.Parameter, config: Mapping[str, Any], dtype: torch.dtype, before: Any
) -> torch.nn.Parameter:
    """Rank 0's values, shared out; all ranks must call it in the same order."""
    cutter: Any = next(iter(before), None)
    if cutter is not None:
        cutter.convert_to_zero_parameters(param_list=[parameter])
        return parameter
    holder = torch.nn.Module()
    holder.register_parameter("first", parameter)
    deepspeed.zero.Init(module=holder, config_dict_or_path=dict(config), dtype=dtype)
    return parameter


def check_sharded_isolation(base: Base) -> None:
    """As ``check_isolation`` for a model of which nothing but its sizes is known here; all ranks must call it.

    Raises:
        ModelError: it cannot be trained on padding-free streams.
    """
    named = type(type(base.model).__name__, (_Sized,), {})  # errors name the model
    check_isolation(named(base.model), base.device)


class _Sized:
    """The model, with an embedding of the size that it has when whole."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, **inputs: Any) -> Any:
        return self._model(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_input_embeddings(self) -> Any:
        weight = self._model.get_input_embeddings().weight
        return SimpleNamespace(weight=SimpleNamespace(shape=getattr(weight, "ds_shape", weight.shape)))


@contextmanager
def gathered(parameters: list[torch.nn.Parameter], *, modified: bool = False) -> Iterator[None]:
    """The whole values inside, on every rank; ``modified``: rank 0's changes are kept. All ranks must come in."""
    with ExitStack() as stack:
        sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
        if sharded:
            stack.enter_context(deepspeed.zero.GatheredParameters(sharded, modifier_rank=0 if modified else None))
        yield
