"""Attention that never crosses a document, for models fed with one padding-free stream.

Every other layer of a decoder works token by token, so only attention must know where documents end. It is
told by the keyword ``documents`` (a :class:`Documents`), which transformers hands through to whichever
attention function a model's config names. For the attention product alone the stream is split into its documents.
Where many calls cost more than padding, on a GPU and for short documents, it is unfolded to right-padded rows:
with a causal mask no real query can look at padding behind it, so no mask is needed.

    stream  [1, heads, T, D]  ->  each [1, heads, L, D]  ->  softmax(q k / sqrt(D)) v  ->  stream

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
SHORT = 32  # tokens up to which documents are cheaper padded than one by one on a CPU; measured, 64 of them
_ALIGNED = 8  # numbers of a head from which the bits of products do not depend on where in memory they stand
DECODERS = "choose a decoder of attention layers, such as Llama, Qwen 2 or 3, Mistral, Gemma 3, OPT or GPT-NeoX"


@dataclass(frozen=True)
class Rows:
    """Where each token of a stream sits once documents are rows: ``rows * longest + column``, [T]."""

    count: int
    longest: int
    places_T: Tensor
    sources_BL: Tensor  # stream index each padded place is filled from, [B * L]

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> Rows:
        longest = max(lengths)
        sizes = torch.tensor(lengths)
        starts = torch.cumsum(sizes, 0) - sizes
        columns = torch.arange(longest)
        real_BL = columns < sizes[:, None]
        places = real_BL.flatten().nonzero().squeeze(1)
        # Padding repeats the document's first token: finite values that no real query ever sees.
        sources = torch.where(real_BL, starts[:, None] + columns, starts[:, None]).flatten()
        return cls(len(lengths), longest, places.to(device), sources.to(device))


@dataclass(frozen=True)
class Documents:
    """The lengths of a stream's documents; with ``rows`` they are attended to all at once, else one by one."""

    lengths: tuple[int, ...]
    rows: Rows | None = None

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> Documents:
        return cls(lengths, Rows.of(lengths, device) if cls.at_once(lengths, device.type) else None)

    @staticmethod
    def at_once(lengths: tuple[int, ...], device: str) -> bool:
        """Whether many calls would cost more than padding."""
        return device != "cpu" or max(lengths) <= SHORT

    @property
    def pieces(self) -> list[tuple[int, Rows | None]]:
        """Parts of the stream that are attended to in a call each: their tokens, and how they are unfolded."""
        return [(sum(self.lengths), self.rows)] if self.rows else [(length, None) for length in self.lengths]


class _Window:
    """How far back queries see; None: to the beginning of their document. Documents share one mask."""

    def __init__(self, size: int | None, longest: int, like: Tensor) -> None:
        self._size = size if size and size < longest else None
        if self._size:
            places = torch.arange(longest, device=like.device)
            distance = places[:, None] - places[None, :]
            seen_LL = (distance >= 0) & (distance < self._size)
            # Added to scores; of one that says yes or no each call would keep such numbers of its own.
            self._mask_LL = torch.zeros_like(seen_LL, dtype=like.dtype).masked_fill_(~seen_LL, -torch.inf)

    def mask(self, length: int) -> Tensor | None:
        """For documents of this length; None where each sees all before it."""
        return self._mask_LL[:length, :length] if self._size and self._size < length else None


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

    Several ``documents`` are parts of the stream, each attended to on its own: what one part computes has the shapes,
    and so the bits, that it has alone.

    Raises:
        ValueError: called without ``documents``, or by a model that caps its attention scores.
    """
    if documents is None:
        raise ValueError("document attention needs the keyword `documents`; use `sdpa` for padded batches")
    if softcap is not None:
        raise ValueError(f"{type(module).__name__} caps attention scores, which document attention cannot do yet")
    parts = [documents] if isinstance(documents, Documents) else list(documents)
    if any(part.rows is None for part in parts) and _is_part(value) and not _share(query, value):
        value = value.clone()  # or the backward pass would keep the fused product that it is a part of
    sizes, rows = zip(*(piece for part in parts for piece in part.pieces), strict=True)
    split = (stream.split_with_sizes(sizes, 2) for stream in (query, key, value))
    window = _Window(sliding_window, max(max(part.lengths) for part in parts), query)
    outputs = [
        _attend(q, k, v, each, window, dropout=dropout, scaling=scaling)
        for q, k, v, each in zip(*split, rows, strict=True)
    ]
    return torch.cat(outputs).unsqueeze(0), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Rows | None,
    window: _Window,
    *,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """A document, or all those that are rows: a piece of the stream, [T, heads, D]."""

    def unfold(stream: Tensor) -> Tensor:
        if rows is None:
            return stream.clone() if stream.shape[-1] % _ALIGNED else stream
        unfolded = stream[0].index_select(1, rows.sources_BL)
        return unfolded.view(-1, rows.count, rows.longest, unfolded.shape[-1]).transpose(0, 1)

    mask = window.mask(rows.longest if rows else query.shape[2])
    found = F.scaled_dot_product_attention(
        unfold(query),
        unfold(key),
        unfold(value),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    found = found.transpose(1, 2).flatten(0, 1)
    return found.index_select(0, rows.places_T) if rows else found


def _is_part(tensor: Tensor) -> bool:
    """Whether it is a view of something larger."""
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()


def _share(one: Tensor, other: Tensor) -> bool:
    return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)


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
