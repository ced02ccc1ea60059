"""Whose the tokens of a stream are, told to the layers of a model before each pass.

*Exact*: every trial is a part of its own, and every product is computed part by part with the shapes it has when the
trial is alone, so its bits cannot depend on its companions. *Fast*: all tokens go through the base in one product, and
all adapters of one bank in one grouped product, however many trials there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from ftcluster.engine.packed.bank import Bank
from ftcluster.engine.packed.dropout import Key, keep, key_of


@dataclass(frozen=True)
class Segment:
    """The tokens ``start`` to ``end`` of the stream belong to one trial; ``bank`` None: to the bare base."""

    start: int
    end: int
    bank: Bank | None = None
    row: int = 0
    scale: float = 1.0
    sites: frozenset[int] = frozenset()  # where this trial has an adapter
    dropout: float = 0.0
    clock: tuple[int, int, int] = (0, 0, 0)  # seed, step, micro-batch

    def key(self, site: int) -> Key:
        """Of this trial's dropout masks at a site in this micro-batch."""
        return key_of(*self.clock, site)


class Part(Protocol):
    """Adapters of a part of the stream."""

    def on(self, site: int) -> bool:
        """Whether there is an adapter at this site."""

    def add(self, site: int, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        """Add what adapters make of the whole stream ``x`` to ``y``; returns the inner product S, [N, R]."""

    def differentiate(self, site: int, x_TI: Tensor, s_NR: Tensor, dy_TO: Tensor, dx_TI: Tensor | None) -> None:
        """Add the adapters' gradients to their bank, and theirs of x to ``dx``."""


@dataclass(frozen=True)
class Alone:
    """One trial's adapter on its own tokens."""

    segment: Segment
    bank: Bank

    def on(self, site: int) -> bool:
        return site in self.segment.sites

    def add(self, site: int, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        mine, row = slice(self.segment.start, self.segment.end), self.segment.row
        own = x_TI[mine]
        if self.segment.dropout:
            own = own * self._mask(site, own)
        s_NR = (own @ self.bank.a(row, site).T).mul_(self.segment.scale)
        y_TO[mine].addmm_(s_NR, self.bank.b(row, site).T)
        return s_NR

    def differentiate(self, site: int, x_TI: Tensor, s_NR: Tensor, dy_TO: Tensor, dx_TI: Tensor | None) -> None:
        mine, row = slice(self.segment.start, self.segment.end), self.segment.row
        own, dy_NO = x_TI[mine], dy_TO[mine]
        mask = self._mask(site, own) if self.segment.dropout else None
        ds_NR = (dy_NO @ self.bank.b(row, site)).mul_(self.segment.scale)
        self.bank.add_gradient(row, site, ds_NR.T @ (own if mask is None else own * mask), dy_NO.T @ s_NR)
        if dx_TI is not None:
            through = ds_NR @ self.bank.a(row, site)
            dx_TI[mine].add_(through if mask is None else through.mul_(mask))

    def _mask(self, site: int, like: Tensor) -> Tensor:
        places = torch.arange(like.numel(), device=like.device).view(like.shape)
        return keep(self.segment.key(site), places, self.segment.dropout, like.dtype)


class Grouped:
    """The adapters of several trials of one bank, whose tokens lie side by side in the order of their rows.

    A trial without an adapter at a site has zeros there, whose products and gradients are zero.
    """

    def __init__(self, bank: Bank, segments: Sequence[Segment]) -> None:
        device = bank.device
        lengths = torch.tensor([segment.end - segment.start for segment in segments])
        self._bank, self._segments = bank, segments
        self._mine = slice(segments[0].start, segments[-1].end)
        self._rows = [segment.row for segment in segments]
        self._ends_G = lengths.cumsum(0).to(device, torch.int32)
        self._of_T = torch.repeat_interleave(torch.arange(len(segments)), lengths).to(device)
        scales_G = torch.tensor([segment.scale for segment in segments], dtype=bank.compute, device=device)
        self._scale_T1 = scales_G[self._of_T].unsqueeze(1)
        self._drops = any(segment.dropout for segment in segments)
        if self._drops:
            self._first_G = (lengths.cumsum(0) - lengths).to(device)
            self._p_G = torch.tensor([segment.dropout for segment in segments], dtype=torch.float64, device=device)

    def on(self, site: int) -> bool:
        return any(site in segment.sites for segment in self._segments)

    def add(self, site: int, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        a_GRI, b_GOR = self._bank.stacked(self._rows, site)
        own = x_TI[self._mine]
        if self._drops:
            own = own * self._mask(site, own)
        s_TR = _grouped(own, a_GRI.transpose(1, 2), self._ends_G).mul_(self._scale_T1)
        y_TO[self._mine] += _grouped(s_TR, b_GOR.transpose(1, 2), self._ends_G)
        return s_TR

    def differentiate(self, site: int, x_TI: Tensor, s_NR: Tensor, dy_TO: Tensor, dx_TI: Tensor | None) -> None:
        a_GRI, b_GOR = self._bank.stacked(self._rows, site)
        own, dy_NO = x_TI[self._mine], dy_TO[self._mine].contiguous()
        mask = self._mask(site, own) if self._drops else None
        ds_TR = _grouped(dy_NO, b_GOR, self._ends_G).mul_(self._scale_T1)
        self._bank.add_gradients(
            self._rows,
            site,
            _grouped(ds_TR.T, own if mask is None else own * mask, self._ends_G),
            _grouped(dy_NO.T, s_NR, self._ends_G),
        )
        if dx_TI is not None:
            through = _grouped(ds_TR, a_GRI, self._ends_G)
            dx_TI[self._mine] += through if mask is None else through.mul_(mask)

    def _mask(self, site: int, like: Tensor) -> Tensor:
        """The masks each trial has alone: a token's row counts from its trial's first."""
        keys_G2 = torch.tensor([segment.key(site) for segment in self._segments], device=like.device)
        key_T2 = keys_G2[self._of_T]
        rows_T = torch.arange(like.shape[0], device=like.device) - self._first_G[self._of_T]
        places = rows_T.unsqueeze(1) * like.shape[1] + torch.arange(like.shape[1], device=like.device)
        key = key_T2[:, :1], key_T2[:, 1:]
        return keep(key, places, self._p_G[self._of_T].unsqueeze(1), like.dtype)


def _grouped(left: Tensor, right: Tensor, ends_G: Tensor) -> Tensor:
    """One product per group: of its rows of ``left`` with its matrix of ``right``, or of its columns and rows."""
    if left.dtype is not torch.float64:
        return F.grouped_mm(left, right, offs=ends_G)
    ends = ends_G.tolist()  # torch groups no products in fp64, which is there to check the others
    pieces = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    if right.ndim == 3:
        return torch.cat([left[piece] @ matrix for piece, matrix in zip(pieces, right, strict=True)])
    return torch.stack([left[:, piece] @ right[piece] for piece in pieces])


@dataclass(frozen=True)
class Pass:
    """One stream: ``slices`` are computed one by one, ``parts`` are the adapters on it."""

    slices: tuple[slice, ...] = (slice(None),)
    parts: tuple[Part, ...] = ()
    trials: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, segments: Sequence[Segment], *, exact: bool) -> Pass:
        """Of segments that lie one behind the other; in fast mode those of a bank side by side (see ``order``)."""
        ours = [(segment.bank, segment) for segment in segments if segment.bank is not None]
        parts: list[Part]
        if exact:
            slices = [slice(segment.start, segment.end) for segment in segments]
            parts = [Alone(segment, bank) for bank, segment in ours]
        else:
            slices = [slice(segments[0].start, segments[-1].end)]
            groups = [list(found) for _, found in groupby(ours, key=lambda pair: id(pair[0]))]
            parts = [Grouped(group[0][0], [segment for _, segment in group]) for group in groups]
        return cls(tuple(slices), tuple(parts), len(segments), segments[-1].end)

    def adapted(self, site: int) -> list[Part]:
        """The parts that have an adapter at a site."""
        return [part for part in self.parts if part.on(site)]


@dataclass
class Route:
    """What the layers of one model see of the pass they are in."""

    now: Pass = Pass()
    # Autograd calls a function's backward only if an input wants a gradient; the first layer's x does not.
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
