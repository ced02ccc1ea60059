"""Nonlinear functions of architectures are found wherever they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_samples import save_sample

from ftcluster.models.activations import activations
from ftcluster.models.base import skeleton


@pytest.mark.parametrize(
    ("architecture", "paths"),
    [
        ("qwen2", ["model.layers.0.mlp.act_fn", "model.layers.1.mlp.act_fn"]),
        ("gpt_neox", ["gpt_neox.layers.0.mlp.act", "gpt_neox.layers.1.mlp.act"]),
        ("gpt2", ["transformer.h.0.mlp.act", "transformer.h.1.mlp.act"]),
        ("gemma3", ["model.layers.0.mlp.act_fn", "model.layers.1.mlp.act_fn"]),
        ("opt", ["model.decoder.layers.0.activation_fn", "model.decoder.layers.1.activation_fn"]),
    ],
)
def test_each_layer_has_one(architecture: str, paths: list[str], tmp_path: Path) -> None:
    assert [path for path, _ in activations(skeleton(save_sample(architecture, tmp_path)))] == paths
