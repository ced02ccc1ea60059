"""Dropout that does not depend on how many ranks there are.

A mask is drawn for the whole micro-batch, on every rank from the same seed, and a rank takes the rows of its own
tokens. So each token meets the mask it would meet in one process (on a CPU to the bit that of torch's own dropout).
Cost: a byte per token of the micro-batch and per feature, for the time of one layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Stream:
    """The micro-batch that is being computed: how long it is, and which of its tokens are here."""

    length: int = 0
    places_T: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @contextmanager
    def of(self, length: int, places_T: Tensor) -> Iterator[None]:
        """For the time of a forward and backward pass."""
        self.length, self.places_T = length, places_T
        yield


class StreamDropout(torch.nn.Module):
    """Takes the place of ``torch.nn.Dropout`` in an adapter; inputs are [1, T, features]."""

    def __init__(self, probability: float, stream: Stream) -> None:
        super().__init__()
        self.p, self._stream = probability, stream

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        whole = torch.empty(self._stream.length, inputs.shape[-1], dtype=torch.bool, device=inputs.device)
        mask_TH = whole.bernoulli_(1 - self.p).index_select(0, self._stream.places_T)
        return inputs * (mask_TH.to(inputs.dtype) / (1 - self.p))


def drop_by_stream(model: Any, adapter: str, stream: Stream) -> None:
    """Replace the dropout of one adapter's layers."""
    for module in model.modules():
        layers = getattr(module, "lora_dropout", None)
        if isinstance(layers, torch.nn.ModuleDict) and adapter in layers:
            own = layers[adapter]
            if isinstance(own, torch.nn.Dropout):
                layers[adapter] = StreamDropout(own.p, stream)
