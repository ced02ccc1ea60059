"""A linear layer that serves many trials: the base product for all tokens, each trial's adapter for its own.

    x [T, in] --- y = x W^T + b ------------------------------------------> y [T, out]
       |  rows start:end of trial k                                     ^
       +--> S = (keep * x) A_k^T * scale_k -------> S B_k^T ------------+

Backwards ``dS = dy B * scale``, ``dA += dS^T (keep * x)``, ``dB += dy^T S``, ``dx = dy W + keep * (dS A)``. Gradients
of adapters go straight into the bank: they are no leaves of autograd's. Saved for it are x, which sibling layers
(q, k and v; gate and up) share, and S; masks are computed again. Whose the tokens are, the route says (``route``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from ftcluster.engine.packed.route import Pass, Route
from ftcluster.errors import ModelError
from ftcluster.models.targets import weight_of


class PackedLinear(torch.nn.Module):
    """Stands in a model where a linear layer stood."""

    def __init__(self, layer: Any, site: int, route: Route) -> None:
        super().__init__()
        self.base_layer = layer
        self.site, self._route = site, route

    def get_base_layer(self) -> torch.nn.Module:
        """The layer it stands for, as adapter layers of PEFT's answer."""
        layer: torch.nn.Module = self.base_layer
        return layer

    @property
    def weight(self) -> Tensor:
        """The base layer's, [out, in] as it is used; where bases are sharded there is one only during a pass."""
        return weight_of(self.base_layer)

    def forward(self, x: Tensor) -> Tensor:
        now = self._route.now
        flat_TI = x.reshape(-1, x.shape[-1]).to(self.weight.dtype)
        if now.trials > 1 and len(flat_TI) != now.tokens:  # such as an expert's, which is given some tokens
            raise ModelError(
                f"a linear layer is given {len(flat_TI)} rows of a stream of {now.tokens} tokens, "
                "so nobody knows which trial they are of",
                remedy="set engine.name=local",
            )
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = _Adapted.apply(flat_TI, self._route.anchor, self, now)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], out.shape[-1])

    def base(self, x_TI: Tensor) -> Tensor:
        """The base product of a part of the stream, [T, out]."""
        return F.linear(x_TI, self.weight, self.base_layer.bias)


class PackedActivation(torch.nn.Module):
    """Stands in a model where an activation stood, and computes it part by part.

    Several threads share a tensor by its size, and the last few numbers of each share are computed by other code than
    the others; for SiLU and GELU the two differ in the last bit.
    """

    def __init__(self, activation: torch.nn.Module, route: Route) -> None:
        super().__init__()
        self._activation, self._route = activation, route

    def forward(self, x: Tensor) -> Tensor:
        parts = self._route.now.slices
        if len(parts) < 2:
            return self._activation(x)  # type: ignore[no-any-return]
        flat_TI = x.reshape(-1, x.shape[-1])
        return torch.cat([self._activation(flat_TI[part]) for part in parts]).view(x.shape)


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, _anchor: Tensor, layer: PackedLinear, now: Pass) -> Tensor:
        pieces = [layer.base(x_TI[part]) for part in now.slices]
        y_TO = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        inner = [part.add(layer.site, x_TI, y_TO) for part in now.adapted(layer.site)]
        ctx.layer, ctx.now = layer, now
        ctx.save_for_backward(x_TI, *inner)
        return y_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, None, None, None]:
        x_TI, *inner = ctx.saved_tensors
        layer, now = ctx.layer, ctx.now
        dx_TI = None
        if ctx.needs_input_grad[0]:
            pieces = [dy_TO[part] @ layer.weight for part in now.slices]
            dx_TI = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        for part, s_NR in zip(now.adapted(layer.site), inner, strict=True):
            part.differentiate(layer.site, x_TI, s_NR, dy_TO, dx_TI)
        return dx_TI, None, None, None
