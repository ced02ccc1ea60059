"""What passes need, found by rehearsing them: the engines' own layers on a model without numbers.

A few layers are enough. What is kept between forward and backward grows by the same amount with every layer of a
kind, and by the same amount with every document:

    kept(layers, documents) = c + sum over kinds of layers * (a + b * documents)

and the highest moment of the backward pass is in the last layer, before anything was let go, so it grows alike. The
embedding and the head are left out; ``models.memory`` has formulas for them. Golden tests hold what is foretold
against what real passes are measured to take.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftcluster.contracts.ports import AdapterSettings
from ftcluster.engine.memory import Counting
from ftcluster.engine.packed.bank import Bank, Site, bucket_of
from ftcluster.engine.packed.layer import PackedLinear
from ftcluster.engine.packed.route import Pass, Route, Segment
from ftcluster.models.attention import Documents, Rows, attending_by_document
from ftcluster.models.base import skeleton
from ftcluster.models.checkpointing import checkpointing
from ftcluster.models.hollow import Hollow, hollow, layer_kinds
from ftcluster.models.memory import Head, Line, Passes, decoder_layers
from ftcluster.models.size import parameters
from ftcluster.models.targets import linear_layers, resolve_targets, weight_of
from ftcluster.objectives.cross_entropy import CHUNK


@dataclass(frozen=True)
class Style:
    """How passes are computed. Without an adapter every weight is trained."""

    dtype: torch.dtype
    autocast: torch.dtype | None = None
    adapter: AdapterSettings | None = None
    packed: bool = False  # by the packed engine
    checkpointing: bool = False
    collected: bool = False  # weights are collected from other GPUs as products need them, in the type of autocast
    device: str = "cpu"  # where; ``cuda`` attends to documents otherwise

    @property
    def copies(self) -> bool:
        """Whether autocast makes copies of trained weights."""
        return self.autocast not in (None, self.dtype) and self.adapter is None and not self.collected


@lru_cache(maxsize=32)
def rehearse(folder: Path, style: Style, length: int, *, trust_remote_code: bool = False) -> Passes:
    """Bytes of passes over documents of ``length`` tokens.

    Raises:
        ModelError: the model is no decoder that can be rehearsed, or lacks an adapter target.
    """
    kinds = layer_kinds(folder, trust_remote_code=trust_remote_code)
    counts = Counter(kinds)
    few = [kinds[0], *counts]  # one of each behind the first, whose inputs want no gradient if the embedding is frozen
    adapter = None if style.packed else style.adapter
    made = hollow(folder, few, style.dtype, adapter, trust_remote_code=trust_remote_code)
    stage = _Stage(made, style, length)
    one, two = stage.act(1), stage.act(2)
    kept, peak = _line(one.kept, two.kept, length), _line(one.peak, two.peak, length)
    more = Line(0, 0)
    copies = stage.copies
    for layer, (kind, count) in enumerate(counts.items(), start=1):
        grown = _line(one.after[layer] - one.after[layer - 1], two.after[layer] - two.after[layer - 1], length)
        more = more.plus(Line(grown.always - copies[layer], grown.per_token), count - few.count(kind))
    model = skeleton(folder, trust_remote_code=trust_remote_code)
    every = sum(count * copies[layer] for layer, count in enumerate(counts.values(), start=1))
    return Passes(kept.plus(more), peak.plus(more), _head(model, style, every))


def _line(one: int, two: int, length: int) -> Line:
    """Through what one document and two documents take."""
    return Line(2 * one - two, (two - one) / length)


@dataclass(frozen=True)
class _Taken:
    """Bytes that were there after each layer of a forward pass, between the passes, and at most."""

    after: tuple[int, ...]
    kept: int
    peak: int


class _Stage:
    """A hollow model made ready to be trained in a style."""

    def __init__(self, made: Hollow, style: Style, length: int) -> None:
        self._made, self._style, self._length = made, style, length
        self._route = Route()
        with made.inside() as model:
            model.train(not style.packed)
            if style.adapter is None:
                model.requires_grad_(True)
                if style.collected and style.autocast:
                    _narrow(model, style.autocast)
            elif style.packed:
                self._route = _pack(model)
                self._bank = _bank(model, style)
            for parameter in model.parameters():
                if parameter.requires_grad:  # gradients of the micro-batch before
                    parameter.grad = torch.zeros_like(parameter)

    @property
    def copies(self) -> list[int]:
        """Of each layer's weights, bytes of copies that autocast drops at the end of the forward pass.

        Where layers are not computed again, their gradients need those copies, which are kept like activations.
        """
        style = self._style
        if not style.autocast or not style.copies or not style.checkpointing:
            return [0] * len(decoder_layers(self._made.model))
        linear = {id(layer) for _, layer in linear_layers(self._made.model)}
        return [
            style.autocast.itemsize * sum(parameters(part) for part in layer.modules() if id(part) in linear)
            for layer in decoder_layers(self._made.model)
        ]

    def act(self, documents: int) -> _Taken:
        """A forward and a backward pass."""
        counting, after = Counting(), []
        with self._made.inside() as model, attending_by_document(model), ExitStack() as hooks:
            for layer in decoder_layers(model):
                note = layer.register_forward_hook(lambda *_: after.append(counting.now))
                hooks.callback(note.remove)
            with counting:
                hidden = self._forward(documents)
                hooks.close()  # layers that are computed again must not tell twice
                end = hidden.sum()
                del hidden  # whether it is kept is the head's business
                kept = counting.now
                end.backward()  # type: ignore[no-untyped-call]
                return _Taken(tuple(after), kept, counting.most)

    def _forward(self, documents: int) -> Tensor:
        """Hidden states [1, T, H] as the engine comes to them from embedded tokens."""
        model, style = self._made.model, self._style
        tokens = documents * self._length
        full = style.adapter is None
        embedding = model.get_input_embeddings().weight
        embedded = torch.zeros(1, tokens, embedding.shape[1], dtype=embedding.dtype, requires_grad=full)
        positions = torch.arange(self._length).repeat(documents).unsqueeze(0)
        lengths = (self._length,) * documents
        every = torch.arange(tokens)
        rows = Rows(documents, self._length, every, every) if Documents.at_once(lengths, style.device) else None
        self._direct(tokens)
        with self._autocast(), checkpointing(model) if style.checkpointing else nullcontext():
            hidden: Tensor = model.base_model(
                inputs_embeds=embedded,
                position_ids=positions,
                use_cache=False,
                documents=Documents(lengths, rows),
            )[0]
        return hidden

    def _direct(self, tokens: int) -> None:
        """Tell packed layers whose the tokens are."""
        if (adapter := self._style.adapter) and self._style.packed:
            wanted = set(resolve_targets(self._made.model, adapter.targets))
            paths = [path for path, _ in linear_layers(self._made.model)]
            sites = frozenset(i for i, path in enumerate(paths) if path.rpartition(".")[2] in wanted)
            segment = Segment(0, tokens, self._bank, 0, sites=sites, dropout=adapter.dropout)
            self._route.now = Pass.of([segment], exact=True)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=self._style.autocast) if self._style.autocast else nullcontext()


def _narrow(model: Any, dtype: torch.dtype) -> None:
    for _, layer in linear_layers(model):
        for name, parameter in list(layer.named_parameters()):
            setattr(layer, name, torch.nn.Parameter(torch.empty(parameter.shape, dtype=dtype)))


def _pack(model: Any) -> Route:
    """Replace linear layers as the packed engine does."""
    route = Route()
    for site, (path, layer) in enumerate(list(linear_layers(model))):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, PackedLinear(layer, site, route))
    return route


def _bank(model: Any, style: Style) -> Bank:
    assert style.adapter is not None
    shapes = [(path, weight_of(layer).shape) for path, layer in linear_layers(model)]
    sites = [Site(path, inputs, outputs) for path, (outputs, inputs) in shapes]
    master = torch.promote_types(style.dtype, torch.float32)
    rank = bucket_of(style.adapter.rank)
    bank = Bank(sites, rank, master=master, compute=style.dtype, device=torch.device("cpu"))
    bank.take()
    return bank


def _head(model: Any, style: Style, copies: int) -> Head:
    output = model.get_output_embeddings()
    vocabulary, hidden = (output or model.get_input_embeddings()).weight.shape
    trained = style.adapter is None
    return Head(
        vocabulary,
        hidden,
        (style.autocast or style.dtype).itemsize,
        chunk=CHUNK if style.packed and _plain(model) else 0,
        gradient=style.dtype.itemsize if trained else 0,
        copy=style.autocast.itemsize if style.autocast and style.copies else 0,
        dropped=copies,
        tied=output is None or output.weight is model.get_input_embeddings().weight,
    )


def _plain(model: Any) -> bool:
    """Whether its config tells of nothing done to logits, such as a scale or a cap."""
    settings = model.config.get_text_config().to_dict()
    return not any("logit" in name and value for name, value in settings.items())
