"""Parameters are counted without weights, and equal to what PEFT and torch count with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_samples import save_sample

from ftcluster.contracts.ports import AdapterSettings
from ftcluster.models import adapters
from ftcluster.models.base import load_base, skeleton
from ftcluster.models.size import adapter_parameters, parameters


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gpt2", "gpt_neox"])
def test_counts_are_those_of_the_loaded_model_and_its_adapter(architecture: str, tmp_path: Path) -> None:
    folder = save_sample(architecture, tmp_path)
    base = load_base(folder)
    assert parameters(skeleton(folder)) == base.model.num_parameters()
    settings = AdapterSettings(rank=3, alpha=6)
    attached = adapters.attach(base, "a", settings, seed=1)
    assert adapter_parameters(skeleton(folder), settings) == sum(p.numel() for p in attached.values())
