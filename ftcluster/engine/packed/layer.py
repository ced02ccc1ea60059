"""A linear layer that serves many trials: the base product for all tokens, each trial's adapter for its own.

    x [T, in] --- y = x W^T + b ------------------------------------------> y [T, out]
       |  rows start:end of trial k                                     ^
       +--> S = (keep * x) A_k^T * scale_k -------> S B_k^T ------------+

Backwards ``dS = dy B * scale``, ``dA += dS^T (keep * x)``, ``dB += dy^T S``, ``dx = dy W + keep * (dS A)``. Gradients
of adapters go straight into the bank: they are no leaves of autograd's. Saved for it are x, which sibling layers
(q, k and v; gate and up) share, and S; masks are computed again.

The route says whose the tokens of the stream are. In *exact* mode every product runs trial by trial, with the same
shapes as if the trial were alone, so its bits cannot depend on its companions; otherwise the base product runs once
over the whole stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from ftcluster.engine.packed.bank import Bank
from ftcluster.engine.packed.dropout import keep, key_of
from ftcluster.errors import ModelError


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


@dataclass
class Route:
    """What the layers of one model are told before each pass."""

    segments: tuple[Segment, ...] = ()
    exact: bool = True
    # Autograd calls a function's backward only if an input wants a gradient; the first layer's x does not.
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))


class PackedLinear(torch.nn.Module):
    """Stands in a model where a linear layer stood."""

    def __init__(
        self, layer: torch.nn.Module, weight_OI: Tensor, bias_O: Tensor | None, site: int, route: Route
    ) -> None:
        super().__init__()
        self.base_layer = layer
        self._weight_OI, self._bias_O = weight_OI, bias_O
        self._site, self._route = site, route

    def get_base_layer(self) -> torch.nn.Module:
        """The layer it stands for, as adapter layers of PEFT's answer."""
        return self.base_layer

    @property
    def weight(self) -> Tensor:
        """The base layer's, [out, in] as it is used."""
        return self._weight_OI

    def forward(self, x: Tensor) -> Tensor:
        segments = self._route.segments
        flat_TI = x.reshape(-1, x.shape[-1]).to(self._weight_OI.dtype)
        if len(segments) > 1 and len(flat_TI) != segments[-1].end:  # such as an expert's, which is given some tokens
            raise ModelError(
                f"a linear layer is given {len(flat_TI)} rows of a stream of {segments[-1].end} tokens, "
                "so nobody knows which trial they are of",
                remedy="set engine.name=local",
            )
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = _Adapted.apply(flat_TI, self._route.anchor, self, segments)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], -1)

    def parts(self, segments: tuple[Segment, ...]) -> list[slice]:
        """Which rows the base product takes at a time."""
        if self._route.exact:
            return [slice(segment.start, segment.end) for segment in segments]
        return [slice(segments[0].start, segments[-1].end)]

    def adapted(self, segments: tuple[Segment, ...]) -> list[Segment]:
        """The segments whose trials have an adapter here."""
        return [segment for segment in segments if segment.bank is not None and self._site in segment.sites]


class PackedActivation(torch.nn.Module):
    """Stands in a model where an activation stood, and in exact mode runs it trial by trial.

    Several threads share a tensor by its size, and the last few numbers of each share are computed by other code than
    the others; for SiLU and GELU the two differ in the last bit.
    """

    def __init__(self, activation: torch.nn.Module, route: Route) -> None:
        super().__init__()
        self._activation, self._route = activation, route

    def forward(self, x: Tensor) -> Tensor:
        segments = self._route.segments
        if not self._route.exact or len(segments) < 2:
            return self._activation(x)  # type: ignore[no-any-return]
        flat_TI = x.reshape(-1, x.shape[-1])
        return torch.cat([self._activation(flat_TI[s.start : s.end]) for s in segments]).view(x.shape)


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, _anchor: Tensor, layer: PackedLinear, segments: tuple[Segment, ...]) -> Tensor:
        weight, bias, site = layer._weight_OI, layer._bias_O, layer._site
        pieces = [F.linear(x_TI[part], weight, bias) for part in layer.parts(segments)]
        y_TO = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        inner = []
        for segment in layer.adapted(segments):
            assert segment.bank is not None
            own = x_TI[segment.start : segment.end]
            if segment.dropout:
                own = own * _mask(segment, site, own)
            s_NR = (own @ segment.bank.a(segment.row, site).T).mul_(segment.scale)
            y_TO[segment.start : segment.end].addmm_(s_NR, segment.bank.b(segment.row, site).T)
            inner.append(s_NR)
        ctx.layer, ctx.segments = layer, segments
        ctx.save_for_backward(x_TI, *inner)
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, None, None, None]:
        x_TI, *inner = ctx.saved_tensors
        layer, site = ctx.layer, ctx.layer._site
        dx_TI = None
        if ctx.needs_input_grad[0]:
            pieces = [dy_TO[part] @ layer._weight_OI for part in layer.parts(ctx.segments)]
            dx_TI = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        for segment, s_NR in zip(layer.adapted(ctx.segments), inner, strict=True):
            own, dy_NO = x_TI[segment.start : segment.end], dy_TO[segment.start : segment.end]
            mask = _mask(segment, site, own) if segment.dropout else None
            a_RI, b_OR = segment.bank.a(segment.row, site), segment.bank.b(segment.row, site)
            ds_NR = (dy_NO @ b_OR).mul_(segment.scale)
            segment.bank.add_gradient(
                segment.row, site, ds_NR.T @ (own if mask is None else own * mask), dy_NO.T @ s_NR
            )
            if dx_TI is not None:
                through = ds_NR @ a_RI
                dx_TI[segment.start : segment.end].add_(through if mask is None else through.mul_(mask))
        return dx_TI, None, None, None


def _mask(segment: Segment, site: int, like: Tensor) -> Tensor:
    key = key_of(*segment.clock, site)
    return keep(key, like.shape[0], like.shape[1], segment.dropout, like.device, like.dtype)
