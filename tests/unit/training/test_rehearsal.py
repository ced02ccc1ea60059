"""Passes are rehearsed on models without numbers: what they are made of, and what cannot be rehearsed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_samples import save_sample
from transformers import Gemma3TextConfig, Phi3Config

from ftcluster.contracts.ports import AdapterSettings
from ftcluster.errors import ModelError
from ftcluster.models.hollow import hollow, layer_kinds
from ftcluster.training.rehearsal import Style, rehearse

LORA = AdapterSettings(rank=4, alpha=8.0)
FP32 = Style(torch.float32)


def test_a_hollow_model_takes_no_memory_and_keeps_ties_types_and_layers(tmp_path: Path) -> None:
    size = {"hidden_size": 8192, "intermediate_size": 65_536, "num_hidden_layers": 6, "vocab_size": 200_000}
    Gemma3TextConfig(**size, sliding_window_pattern=3).save_pretrained(tmp_path)
    kinds = layer_kinds(tmp_path)
    assert len(kinds) == 6
    assert set(kinds) == {"sliding_attention", "full_attention"}
    made = hollow(tmp_path, ["full_attention", "sliding_attention"], torch.bfloat16, LORA)
    assert [layer.self_attn.is_sliding for layer in made.model.model.layers] == [False, True]
    assert made.model.lm_head.weight is made.model.model.embed_tokens.weight
    with made.inside() as model:
        product = model.lm_head(torch.zeros(2, 8192, dtype=torch.bfloat16))
    assert (product.shape, product.dtype) == ((2, 200_000), torch.bfloat16)
    assert {p.dtype for name, p in made.model.named_parameters() if "lora_" in name} == {torch.float32}


def test_layers_that_look_back_a_little_keep_a_mask_once(tmp_path: Path) -> None:
    """[length, length] numbers for each sliding layer, however many documents there are."""
    folder = save_sample("mistral", tmp_path)
    short, long = (rehearse(folder, FP32, length).kept.always for length in (16, 64))
    assert long - short == 2 * 4 * (64 * 64 - 16 * 16)


def test_more_layers_computed_again_keep_one_input_each(tmp_path: Path) -> None:
    folder = save_sample("llama", tmp_path)
    kept, again = (rehearse(folder, replace(FP32, checkpointing=c), 16).kept.per_token for c in (False, True))
    assert 2 * 32 * 4 <= again < 2 * kept / 5


def test_dropout_of_packed_trials_is_counted_with_the_numbers_it_is_made_of(tmp_path: Path) -> None:
    folder = save_sample("llama", tmp_path)
    without, dropping = (
        rehearse(folder, Style(torch.float32, None, replace(LORA, dropout=p), packed=True), 16).peak.per_token
        for p in (0.0, 0.1)
    )
    assert dropping > without + 64 * 8, "64-bit words for the inputs of the widest layer"


@pytest.mark.parametrize("adapter", [LORA, replace(LORA, dora=True), replace(LORA, targets=("q_proj",))])
def test_adapters_of_peft_are_rehearsed_as_they_are(tmp_path: Path, adapter: AdapterSettings) -> None:
    folder = save_sample("qwen2", tmp_path)
    assert rehearse(folder, Style(torch.float32, None, adapter), 16).kept.per_token > 0


def test_positions_that_depend_on_the_length_are_no_obstacle(tmp_path: Path) -> None:
    factors = [1.0] * 8
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors}
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    for name, more in (("plain", {}), ("long", {"rope_parameters": rope})):
        config = Phi3Config(**size, **ids, **more, vocab_size=96, original_max_position_embeddings=16)
        config.save_pretrained(tmp_path / name)
    plain, long = (rehearse(tmp_path / name, FP32, 32) for name in ("plain", "long"))
    assert plain.kept == long.kept


@pytest.mark.parametrize("architecture", ["gemma2", "bloom", "falcon", "mamba"])
def test_a_model_that_cannot_be_trained_here_cannot_be_rehearsed(tmp_path: Path, architecture: str) -> None:
    folder = save_sample(architecture, tmp_path)
    with pytest.raises(ModelError, match=r"what passes of \w+ need cannot be foretold: ") as error:
        rehearse(folder, FP32, 16)
    assert "choose a decoder" in error.value.remedy
