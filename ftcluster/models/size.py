"""How many numbers a model has, and how many of them a run trains, known without loading any weight."""

from __future__ import annotations

from typing import Any

from ftcluster.contracts.ports import AdapterSettings
from ftcluster.models.targets import linear_layers, resolve_targets, weight_of


def parameters(model: Any) -> int:
    """Numbers of the model; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def adapter_parameters(model: Any, adapter: AdapterSettings) -> int:
    """Numbers of a LoRA adapter: rank times (inputs + outputs) of every layer it hangs on, for DoRA + outputs.

    Raises:
        ModelError: a target the model does not have.
    """
    wanted = set(resolve_targets(model, adapter.targets))
    sizes = [weight_of(layer).shape for path, layer in linear_layers(model) if path.rpartition(".")[2] in wanted]
    return sum(adapter.rank * (outputs + inputs) + (outputs if adapter.dora else 0) for outputs, inputs in sizes)
