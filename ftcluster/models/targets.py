"""Which linear layers of a model can carry an adapter, and which of them a user's words mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from ftcluster.errors import ModelError

ALL_LINEAR = "all-linear"


def linear_names(model: Any) -> list[str]:
    """Last name parts of all linear layers but the output head, in the model's order, each once."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path, _ in linear_layers(model)))


def linear_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """All linear layers but the output head, with their paths; of a layer that carries adapters, the layer itself."""
    head = model.get_output_embeddings()
    for path, module in model.named_modules():
        layer = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head and not _inside_adapter(path):
            yield path, layer


def weight_of(layer: Any) -> torch.Tensor:
    """A linear layer's weight as [out, in]; GPT-2's Conv1D keeps it the other way round."""
    weight: torch.Tensor = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
    return weight


def sizes_of(layer: Any) -> tuple[int, int]:
    """How many inputs and outputs a linear layer has, also where its weight is sharded."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    return layer.in_features, layer.out_features


def _inside_adapter(path: str) -> bool:
    return any(part == "base_layer" or part.startswith("lora_") for part in path.split("."))


def resolve_targets(model: Any, wanted: Sequence[str]) -> list[str]:
    """The layer names meant by ``wanted``; ``all-linear`` stands for all of them.

    Raises:
        ModelError: names the model does not have, with those it has.
    """
    known = linear_names(model)
    if list(wanted) == [ALL_LINEAR]:
        return known
    if unknown := [name for name in wanted if name not in known]:
        near = [close[0] for name in unknown if (close := difflib.get_close_matches(name, known, 1))]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ModelError(
            f"{type(model).__name__} has no linear layer called {', '.join(unknown)}{hint}",
            where="adapter.targets",
            remedy=f"choose from: {', '.join(known)}, or {ALL_LINEAR}",
        )
    if not wanted:
        raise ModelError(
            "no target given", where="adapter.targets", remedy=f"choose from: {', '.join(known)}, or {ALL_LINEAR}"
        )
    return [name for name in known if name in wanted]
