"""Greedy answers from a model to many prompts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from ftcluster.models.base import Base


def stop_tokens(base: Base) -> list[int]:
    """Ids that end an answer: the generation config's and the tokenizer's end token."""
    configured = base.model.generation_config.eos_token_id
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    return sorted({*ids, *([base.tokenizer.eos_token_id] if base.tokenizer.eos_token_id is not None else [])})


@contextmanager
def _without_own_settings(model: Any) -> Iterator[None]:
    """A folder's ``generation_config.json`` may bring penalties or beams, which are no longer greedy decoding."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


@torch.no_grad()
def generate(
    base: Base,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stops: Sequence[int] = (),
    batch: int = 64,
    streamer: Any = None,
) -> list[list[int]]:
    """New tokens per prompt, up to and with the first of ``stops`` (default: the model's own), by greedy decoding.

    Prompts are batched by similar length with padding on the left, so results do not depend on their order.
    """
    stops = list(stops) or stop_tokens(base)
    pad = base.tokenizer.pad_token_id if base.tokenizer.pad_token_id is not None else stops[0]
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(prompts[i]) for i in chosen)
        tokens = torch.tensor([[pad] * (width - len(prompts[i])) + list(prompts[i]) for i in chosen])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
        with _without_own_settings(base.model):
            written = base.model.generate(
                input_ids=tokens.to(base.device),
                attention_mask=mask.to(base.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=stops,
                pad_token_id=pad,
                streamer=streamer,
            )
        for i, row in zip(chosen, written[:, width:].tolist(), strict=True):
            ends = [at for at, token in enumerate(row) if token in stops]
            answers[i] = row[: ends[0] + 1] if ends else row
    return answers
