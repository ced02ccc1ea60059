"""The nonlinear functions of a model that are modules of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.activations import ACT2CLS

_KINDS = (
    torch.nn.SiLU,
    torch.nn.GELU,
    *(kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()),
)


def activations(model: Any) -> Iterator[tuple[str, Any]]:
    """All of them with their paths; one that stands at several places comes once for each."""
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _KINDS):
            yield path, module
