"""Bytes of passes are foretold without weights, and equal what real passes are measured to take.

Found in fp32: between 2.4 % too little and 2.0 % too much, over all architectures, engines and ways of keeping
activations here; 3 % are allowed. In bf16, where autocast copies weights, between 7 % too little and 4 % too much; 10 %
are allowed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from ftcluster.contracts.batch import Batch
from ftcluster.contracts.ports import AdapterSettings, OptimizerSettings, TrialOpening
from ftcluster.engine.local import LocalEngine
from ftcluster.engine.memory import peak
from ftcluster.engine.packed.engine import PackedEngine
from ftcluster.engine.precision import Precision
from ftcluster.models.base import Base
from ftcluster.training.rehearsal import Style, rehearse

CPU = torch.device("cpu")
LENGTH, LAYERS = 48, 7
LORA = AdapterSettings(rank=8, alpha=8.0)
_COMMON = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
CONFIGS: dict[str, tuple[type[PretrainedConfig], dict[str, object]]] = {
    "llama": (LlamaConfig, _GROUPED),
    "qwen2, tied": (Qwen2Config, {**_GROUPED, "tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {**_GROUPED, "head_dim": 16}),
    "mistral, sliding": (MistralConfig, {**_GROUPED, "sliding_window": 8}),
    "gemma3, two kinds of layers": (Gemma3TextConfig, {**_GROUPED, "head_dim": 16, "sliding_window": 8}),
    "phi3": (Phi3Config, _GROUPED),
    "gpt2": (GPT2Config, {**_GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "gpt_neox": (GPTNeoXConfig, _COMMON),
}
WAYS: dict[str, tuple[Any, AdapterSettings | None, bool]] = {
    "lora": (LocalEngine, LORA, False),
    "lora, computed again": (LocalEngine, LORA, True),
    "full": (LocalEngine, None, False),
    "full, computed again": (LocalEngine, None, True),
    "packed": (PackedEngine, LORA, False),
    "packed, computed again": (PackedEngine, LORA, True),
}
# The others differ from Llama in few places. Measured once in all ways, they are within the same bounds.
CASES = [("llama", way) for way in WAYS] + [
    pytest.param(name, way, marks=pytest.mark.slow)
    for name in CONFIGS
    for way in ("full", "packed, computed again")
    if name != "llama"
]


@cache
def saved(architecture: str, under: Path) -> Path:
    kind, settings = CONFIGS[architecture]
    folder = under / str(list(CONFIGS).index(architecture))
    kind(**settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for folders that hold a config and nothing else."""
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("models")


def load(folder: Path, dtype: torch.dtype) -> Base:
    """A base of random numbers: how many bytes a pass takes does not depend on them."""
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    return Base(folder, "", model.requires_grad_(False).eval(), None, CPU, dtype)


def measured(engine: Any, documents: int) -> int:
    """The most bytes of a micro-batch that is not the first of its step."""
    tokens_T = torch.arange(documents * LENGTH) % 96
    positions_T = torch.arange(LENGTH).repeat(documents)
    weights_T = torch.ones(len(tokens_T))
    batch = Batch(tokens_T, tokens_T, weights_T, positions_T, (LENGTH,) * documents, (0,) * documents)

    def run(micro_batch: int) -> None:
        engine.forward_backward(batch, {0: float(len(tokens_T))}, {0: (0, micro_batch)})

    run(0)
    return peak(lambda: run(1), CPU)


def ratios(folder: Path, way: str, precision: Precision) -> list[float]:
    """What is foretold over what is measured."""
    kind, adapter, again = WAYS[way]
    engine = kind(lambda: load(folder, precision.weights), precision, checkpointing=again)
    engine.open(TrialOpening(0, 0, OptimizerSettings(), adapter))
    style = Style(precision.weights, precision.autocast, adapter, packed=kind is PackedEngine, checkpointing=again)
    passes = rehearse(folder, style, LENGTH)
    return [sum(passes.of(documents * LENGTH)) / measured(engine, documents) for documents in (1, 3, 6)]


@pytest.mark.parametrize(("architecture", "way"), CASES)
def test_what_a_pass_takes_is_foretold_from_the_config(models: Path, architecture: str, way: str) -> None:
    for ratio in ratios(saved(architecture, models), way, Precision(torch.float32)):
        assert 0.97 < ratio < 1.03


@pytest.mark.parametrize("way", ["lora", "full", "full, computed again", "packed"])
def test_products_in_bf16_are_foretold_too(models: Path, way: str) -> None:
    weights = torch.float32 if way.startswith("full") else torch.bfloat16
    for ratio in ratios(saved("llama", models), way, Precision(weights, torch.bfloat16)):
        assert 0.9 < ratio < 1.1


def test_a_gpt_layer_keeps_what_korthikanti_counts_by_hand(models: Path) -> None:
    """Their table 2 without dropout and scores, in bf16: 32 bytes for each token and hidden number.

    Norms 4, input of q, k and v 2, q, k and v 6, input of the attention's last product 2, MLP 2 + 8 + 8. Here both
    norms of a layer read the same stream (-2), and what attention gives is kept by itself and by the product behind it
    (+2). Fused attention besides keeps a number in fp32 for each head, and a norm two numbers.
    """
    settings = CONFIGS["gpt_neox"][1]
    per_layer = []
    for layers in (2, 7):
        folder = models / f"neox{layers}"
        GPTNeoXConfig(**{**settings, "num_hidden_layers": layers, "intermediate_size": 256}).save_pretrained(folder)
        per_layer.append(rehearse(folder, Style(torch.bfloat16), LENGTH).kept.per_token)
    assert (per_layer[1] - per_layer[0]) / 5 == 32 * 64 + 4 * 4 + 2 * 2 * 2


def test_weights_collected_in_bf16_need_no_copies(models: Path) -> None:
    folder = saved("llama", models)
    whole, collected = (
        rehearse(folder, Style(torch.float32, torch.bfloat16, collected=collected), LENGTH).kept
        for collected in (False, True)
    )
    linear = LAYERS * 64 * (64 + 2 * 32 + 64 + 3 * 160)
    assert whole.per_token == collected.per_token
    assert whole.always - collected.always == pytest.approx(2 * linear, rel=0.01)
