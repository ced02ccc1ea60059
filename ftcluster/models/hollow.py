"""A model whose tensors have shapes and types but no numbers: what passes through it takes no memory and no time.

Operations on it run as on a CPU (torch's fake tensors), so that autograd keeps what it would keep, and the attention
is the fused one that GPUs have too. Cut down to few layers, it tells what each kind of layer needs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from ftcluster.contracts.ports import AdapterSettings
from ftcluster.errors import ModelError
from ftcluster.models.attention import DECODERS
from ftcluster.models.base import skeleton
from ftcluster.models.targets import resolve_targets

# Fused attention on GPUs drops without keeping scores; the CPU's does not, and would be mistaken for it.
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop")
_ROPE_BY_LENGTH, _ROPE = ("dynamic", "longrope"), ("rope_theta", "partial_rotary_factor")


@dataclass(frozen=True)
class Hollow:
    """Use ``inside`` around whatever is done with it."""

    model: Any  # transformers.PreTrainedModel
    mode: FakeTensorMode

    @contextmanager
    def inside(self) -> Iterator[Any]:
        """Tensors made in here have no numbers either.

        Raises:
            ModelError: the model computes something that depends on numbers.
        """
        with _foretelling(type(self.model).__name__), self.mode:
            yield self.model


@contextmanager
def _foretelling(name: str) -> Iterator[None]:
    """What torch and transformers raise for a model that cannot do without numbers, as our error."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        text = f"{error or type(error).__name__}".splitlines()[0]
        raise ModelError(f"what passes of {name} need cannot be foretold: {text}", remedy=DECODERS) from error


def layer_kinds(folder: Path, *, trust_remote_code: bool = False) -> list[str]:
    """The kind of each decoder layer, such as sliding or full attention."""
    settings = skeleton(folder, trust_remote_code=trust_remote_code).config.get_text_config()
    return list(getattr(settings, "layer_types", None) or ["layer"] * settings.num_hidden_layers)


def hollow(
    folder: Path,
    kinds: Sequence[str],
    dtype: torch.dtype,
    adapter: AdapterSettings | None = None,
    *,
    trust_remote_code: bool = False,
) -> Hollow:
    """The folder's model with as many layers as ``kinds``, each of that kind, and an adapter of PEFT's on it.

    Raises:
        ModelError: transformers knows no such causal language model, or it lacks an adapter target, or it
            computes attention in a way of its own.
    """
    config = copy.deepcopy(skeleton(folder, trust_remote_code=trust_remote_code).config)
    with _foretelling(config.model_type), torch.device("meta"):
        _simplify(config.get_text_config(), kinds)
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=trust_remote_code, dtype=dtype, attn_implementation="sdpa"
        )
    model.requires_grad_(False).eval()
    if adapter:
        _attach(model, adapter)
    mode = FakeTensorMode()
    with mode:
        _from_meta(model)
    return Hollow(model, mode)


def _simplify(settings: Any, kinds: Sequence[str]) -> None:
    """Few layers, and nothing that depends on numbers or would be computed otherwise on a GPU."""
    settings.num_hidden_layers = len(kinds)
    if getattr(settings, "layer_types", None):
        settings.layer_types = list(kinds)
    for name in _ATTENTION_DROPOUT:
        if getattr(settings, name, 0.0):
            setattr(settings, name, 0.0)
    rope = getattr(settings, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("rope_type") in _ROPE_BY_LENGTH:
        settings.rope_parameters = {name: rope[name] for name in _ROPE if name in rope} | {"rope_type": "default"}


def _attach(model: Any, settings: AdapterSettings) -> None:
    config = LoraConfig(
        r=settings.rank,
        lora_dropout=settings.dropout,
        target_modules=resolve_targets(model, settings.targets),
        use_dora=settings.dora,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def _from_meta(model: Any) -> None:
    """Replace tensors on the meta device, which torch has no fused attention for; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            if id(tensor) not in made:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                made[id(tensor)] = torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
            setattr(module, name, made[id(tensor)])
        for name, tensor in [*module.named_buffers(recurse=False, remove_duplicate=False)]:
            module._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
