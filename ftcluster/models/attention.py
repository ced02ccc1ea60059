"""Attention that never crosses a document, for models fed with one padding-free stream.

Every other layer of a decoder works token by token, so only attention must know where documents end. It is
told by the keyword ``documents`` (a :class:`Documents`), which transformers hands through to whichever
attention function a model's config names. The stream is unfolded to right-padded rows for the attention
product alone: with a causal mask no real query can look at padding behind it, so no mask is needed.

    stream  [1, heads, T, D]  ->  rows [B, heads, L, D]  ->  softmax(q k / sqrt(D)) v  ->  stream

Does not own generation: there the model runs with transformers' own ``sdpa``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from transformers import AttentionInterface

from ftcluster.errors import ModelError

NAME = "ftcluster_documents"
DECODERS = "choose a decoder of attention layers, such as Llama, Qwen 2 or 3, Mistral, Gemma 3, OPT or GPT-NeoX"


@dataclass(frozen=True)
class Documents:
    """Where each token of a stream sits once documents are rows: ``rows * longest + column``, [T]."""

    count: int
    longest: int
    places_T: Tensor
    sources_BL: Tensor  # stream index each padded place is filled from, [B * L]

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> Documents:
        longest = max(lengths)
        sizes = torch.tensor(lengths)
        starts = torch.cumsum(sizes, 0) - sizes
        columns = torch.arange(longest)
        real_BL = columns < sizes[:, None]
        places = real_BL.flatten().nonzero().squeeze(1)
        # Padding repeats the document's first token: finite values that no real query ever sees.
        sources = torch.where(real_BL, starts[:, None] + columns, starts[:, None]).flatten()
        return cls(len(lengths), longest, places.to(device), sources.to(device))


def document_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - part of transformers' attention interface
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    documents: Documents | Sequence[Documents] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """``query`` [1, heads, T, D], ``key`` and ``value`` [1, kv_heads, T, D] -> [1, T, heads, D].

    Several ``documents`` are parts of the stream, each unfolded on its own: what one part computes has the shapes,
    and so the bits, that it has alone.

    Raises:
        ValueError: called without ``documents``, or by a model that caps its attention scores.
    """
    if documents is None:
        raise ValueError("document attention needs the keyword `documents`; use `sdpa` for padded batches")
    if softcap is not None:
        raise ValueError(f"{type(module).__name__} caps attention scores, which document attention cannot do yet")
    parts = [documents] if isinstance(documents, Documents) else list(documents)
    outputs, start = [], 0
    for part in parts:
        here = slice(start, start + len(part.places_T))
        own = query[:, :, here], key[:, :, here], value[:, :, here]
        outputs.append(_attend(own[0], own[1], own[2], part, dropout, scaling, sliding_window))
        start = here.stop
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).unsqueeze(0), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """One part of the stream, [T, heads, D]."""

    def unfold(stream: Tensor) -> Tensor:
        rows = stream[0].index_select(1, documents.sources_BL)
        return rows.view(-1, documents.count, documents.longest, rows.shape[-1]).transpose(0, 1)

    mask = None
    if sliding_window is not None and sliding_window < documents.longest:
        distance = torch.arange(documents.longest, device=query.device)
        distance = distance[:, None] - distance[None, :]
        mask = (distance >= 0) & (distance < sliding_window)
    rows = F.scaled_dot_product_attention(
        unfold(query),
        unfold(key),
        unfold(value),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return rows.transpose(1, 2).flatten(0, 1).index_select(0, documents.places_T)


@torch.no_grad()
def check_isolation(model: Any, device: torch.device) -> None:
    """Refuse a model whose documents would see each other on a stream, or would be read otherwise than alone.

    Layers that carry state along the stream (convolutions, recurrences) and models that bring their own
    attention cannot be told from their config, so two tiny streams are put through the model.

    Raises:
        ModelError: it cannot be trained on padding-free streams.
    """
    size = model.get_input_embeddings().weight.shape[0]
    one, other, last = ([token % size for token in tokens] for tokens in ([3, 4, 5], [9, 8, 7], [6, 2, 10, 6]))
    name = type(model).__name__
    try:
        first, second = (_logits(model, device, [start, last])[len(start) :] for start in (one, other))
        alone = model(input_ids=torch.tensor([last], device=device), use_cache=False).logits[0]
    except (TypeError, ValueError, RuntimeError) as error:
        text = f"{name} cannot be trained on streams of documents: {error}".splitlines()[0]
        raise ModelError(text, remedy=DECODERS) from error
    # The same shapes twice give the same bits; the plain model's other kernels only the same within rounding.
    rounding, scale = torch.finfo(first.dtype).eps, float(alone.abs().max())
    if (first - second).abs().max() > 8 * rounding * scale:
        raise ModelError(f"{name} lets documents of one stream see each other", remedy=DECODERS)
    if (first - alone).abs().max() > max(1e-3, 16 * rounding) * scale:
        raise ModelError(f"{name} reads a document on a stream otherwise than alone", remedy=DECODERS)


def _logits(model: Any, device: torch.device, documents: list[list[int]]) -> Tensor:
    """Logits [T, V] of a stream of documents."""
    lengths = tuple(map(len, documents))
    tokens = torch.tensor([[token for document in documents for token in document]], device=device)
    positions = torch.cat([torch.arange(length, device=device) for length in lengths]).unsqueeze(0)
    with attending_by_document(model):
        logits: Tensor = model(
            input_ids=tokens, position_ids=positions, use_cache=False, documents=Documents.of(lengths, device)
        ).logits[0]
    return logits


@contextmanager
def attending_by_document(model: Any) -> Iterator[None]:
    """Switch a transformers model to document attention for the time of a forward pass."""
    AttentionInterface.register(NAME, document_attention)
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
