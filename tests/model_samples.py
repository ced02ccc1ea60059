"""Tiny models of many architectures, random weights, saved as ordinary folders with a tokenizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
)

from ftcluster.models.tiny import train_tokenizer

_VOCABULARY = 320
_TEXTS = ["The quick brown fox jumps over the lazy dog.", "请帮我订一张去上海的票。", "How many clips in May?"] * 20
_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_GPT2_UNDROPPED = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # to compare it with itself in eval mode
_WINDOW = 4  # tokens a sliding layer sees, fewer than documents of the tests have
_CONFIGS: dict[str, tuple[type[PretrainedConfig], dict[str, object]]] = {
    "bert": (BertConfig, _COMMON),
    "bloom": (BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": (FalconConfig, {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "gemma2": (Gemma2Config, {**_GROUPED, "head_dim": 8}),
    "gemma3": (Gemma3TextConfig, {**_GROUPED, "head_dim": 8, "sliding_window": _WINDOW}),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, **_GPT2_UNDROPPED}),
    "gpt_neox": (GPTNeoXConfig, _COMMON),
    "lfm2": (Lfm2Config, {**_GROUPED, "layer_types": ["conv", "full_attention"]}),
    "llama": (LlamaConfig, _GROUPED),
    "mamba": (MambaConfig, {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "mistral": (MistralConfig, {**_GROUPED, "sliding_window": _WINDOW}),
    "opt": (OPTConfig, {**_COMMON, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "phi3": (Phi3Config, {**_GROUPED, "attention_dropout": 0.0}),
    "qwen2": (Qwen2Config, _GROUPED),
    "qwen2_sliding": (
        Qwen2Config,
        {**_GROUPED, "use_sliding_window": True, "sliding_window": _WINDOW, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, {**_GROUPED, "head_dim": 8}),
    "stablelm": (StableLmConfig, _GROUPED),
}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of all these models."""
    return train_tokenizer(_TEXTS, vocabulary=_VOCABULARY, max_length=128)


def save_sample(architecture: str, folder: Path) -> Path:
    """Make and save a model; its weights are larger than usual, so that a leak between documents shows."""
    kind, settings = _CONFIGS[architecture]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(kind(vocab_size=_VOCABULARY, **ids, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
