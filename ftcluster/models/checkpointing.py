"""Activation checkpointing: a decoder layer keeps its input alone, and computes the rest again in the backward pass.

Chen et al. 2016, by torch's and transformers' own means. The same operations run twice on the same numbers, so the
result has the same bits as without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch.nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ftcluster.errors import ModelError

_again = partial(checkpoint, use_reentrant=False)


def layers_of(model: torch.nn.Module) -> list[Any]:
    """The decoder's layers, as far as transformers marks them as such."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def checkpointing(model: torch.nn.Module) -> Iterator[None]:
    """Around a forward pass. What the layers are told besides their input must still hold in the backward pass.

    Raises:
        ModelError: the model has no layers that can do so.
    """
    if not (layers := layers_of(model)):
        raise ModelError(
            f"{type(model).__name__} has no layers that can be computed again",
            remedy="set engine.activation_checkpointing=false",
        )
    before = [layer.training for layer in layers]
    for layer in layers:  # its flag alone: what is below it keeps its own mode
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = _again
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training, layer.gradient_checkpointing = training, False
