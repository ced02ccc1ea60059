"""Tiny models made on the spot: a real transformers architecture and a tokenizer trained on given texts.

Owns the shape of such a model, its byte-level BPE tokenizer, its chat template, and saving all of it as
an ordinary Hugging Face folder. Does not train the model: its weights are the random ones of ``seed``.

The tokenizer cuts text as Qwen2's does, because transformers replaces whatever a Qwen2 folder brings by
that. Merges are learnt on text cut finer, with every Chinese character alone: they cannot cross
characters then, so a Chinese name is the same tokens wherever it stands. Bytes are the fallback for what
the given texts do not have, so any text (in Unicode's composed form) comes back unchanged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ftcluster.errors import ModelError, StoreError

END_OF_DOCUMENT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_DOCUMENT, TURN_START, TURN_END)

ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def create_tiny_model(
    folder: Path,
    texts: Iterable[str],
    *,
    architecture: str = "qwen2",
    hidden_size: int = 128,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate_size: int | None = None,
    vocabulary: int = 1024,
    max_length: int = 1024,
    seed: int = 17,
) -> Path:
    """Save a randomly initialised model with its tokenizer into ``folder``, which must not hold anything yet.

    ``intermediate_size`` defaults to three times ``hidden_size``. The vocabulary may come out smaller than
    asked for when ``texts`` have no more merges to offer. The same arguments give the same bytes of weights.

    Raises:
        ModelError: an unknown architecture, or sizes that do not fit each other.
        StoreError: the folder already holds something, or cannot be written.
    """
    _check(architecture, hidden_size, heads, kv_heads, vocabulary)
    if folder.exists() and any(folder.iterdir()):
        raise StoreError("the folder is not empty", where=str(folder), remedy="name another folder or delete this one")
    tokenizer = train_tokenizer(texts, vocabulary=vocabulary, max_length=max_length)
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    pad = tokenizer.convert_tokens_to_ids(END_OF_DOCUMENT)
    make_config, make_model = ARCHITECTURES[architecture]
    config = make_config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size or 3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=turn_end,
        pad_token_id=pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(config)
    config.architectures = [make_model.__name__]
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=turn_end, pad_token_id=pad)
    return _save(folder, model, tokenizer)


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over ``texts`` with the three special tokens and the chat template."""
    bpe = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(_QWEN2_PIECES), behavior="isolated")
    characters = pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.normalizer = normalizers.NFC()
    bpe.decoder = decoders.ByteLevel()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, characters, to_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, to_bytes])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=END_OF_DOCUMENT,
        eos_token=TURN_END,
        extra_special_tokens=[TURN_START],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _check(architecture: str, hidden_size: int, heads: int, kv_heads: int, vocabulary: int) -> None:
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f'"{architecture}" is not an architecture of tiny models',
            where="architecture",
            remedy=f"choose one of {', '.join(sorted(ARCHITECTURES))}",
        )
    if hidden_size % (2 * heads) or heads % kv_heads:
        raise ModelError(
            f"{heads} heads with {kv_heads} key-value heads do not divide a hidden size of {hidden_size}",
            where="heads",
            remedy="make hidden_size a multiple of 2 * heads, and heads a multiple of kv_heads",
        )
    smallest = len(pre_tokenizers.ByteLevel.alphabet()) + len(SPECIAL_TOKENS)
    if vocabulary < smallest:
        raise ModelError(
            f"a vocabulary of {vocabulary} has no room for all bytes and special tokens",
            where="vocabulary",
            remedy=f"ask for at least {smallest}",
        )


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Write beside ``folder`` and rename, so that the folder is either whole or not there."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        # Not model.save_pretrained: it draws a progress bar that cannot be switched off for one call.
        weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}  # tied
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        model.config.save_pretrained(partial)
        model.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.replace(folder)
    except (OSError, SafetensorError) as problem:
        raise StoreError(
            f"the model cannot be written: {problem}", where=str(folder), remedy="check its rights and the free space"
        ) from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
