"""The packed linear layer against autograd with the same masks, and what must never mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ftcluster.engine.packed.bank import Bank, Site
from ftcluster.engine.packed.dropout import keep
from ftcluster.engine.packed.layer import PackedLinear
from ftcluster.engine.packed.route import Pass, Route, Segment

INPUTS, OUTPUTS, RANK = 6, 10, 8


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Setting:
    """One layer, two trials of ranks 3 and 8 with dropout, and some tokens of the bare base behind them."""

    def __init__(self, *, exact: bool = True, bias: bool = True) -> None:
        self.bank = Bank(
            [Site("x", INPUTS, OUTPUTS)], RANK, master=torch.float64, compute=torch.float64, device=torch.device("cpu")
        )
        self.rows = [self.bank.take(), self.bank.take()]
        for row, rank in zip(self.rows, (3, 8), strict=True):
            for number, values in enumerate(self.bank.read("master", row, 0, rank)):
                values.copy_(draw(10 * row + number, *values.shape))
        linear = torch.nn.Linear(INPUTS, OUTPUTS, bias=bias, dtype=torch.float64).requires_grad_(False)
        for parameter in linear.parameters():
            parameter.copy_(draw(99, *parameter.shape))
        self.exact, self.route = exact, Route()
        self.layer = PackedLinear(linear, 0, self.route)
        here = frozenset([0])
        self.of(
            Segment(0, 4, self.bank, self.rows[0], 2.0, here, 0.3, (1, 2, 0)),
            Segment(4, 9, self.bank, self.rows[1], 0.5, here, 0.1, (5, 0, 1)),
            Segment(9, 11),
        )

    def of(self, *segments: Segment) -> None:
        """What the layer's next tokens are."""
        self.segments = segments
        self.route.now = Pass.of(segments, exact=self.exact)

    def by_autograd(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        linear = self.layer.get_base_layer()
        parts, leaves = [], []
        for segment in self.segments:
            own = x[segment.start : segment.end]
            y = linear(own)
            if segment.bank is not None:
                a, b = (values.clone().requires_grad_() for values in segment.bank.read("master", segment.row, 0, 8))
                places = torch.arange(own.numel()).view(own.shape)
                mask = keep(segment.key(0), places, segment.dropout, x.dtype)
                y = y + (own * mask) @ a.T @ b.T * segment.scale
                leaves.append((a, b))
            parts.append(y)
        return torch.cat(parts), leaves


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_all_gradients_equal_autograds(exact: bool, bias: bool) -> None:
    setting = Setting(exact=exact, bias=bias)
    x, theirs = draw(1, 11, INPUTS).requires_grad_(), draw(1, 11, INPUTS).requires_grad_()
    y = setting.layer(x)
    expected, leaves = setting.by_autograd(theirs)
    assert (y - expected).abs().max() < 1e-13
    dy = draw(2, 11, OUTPUTS)
    y.backward(dy)
    expected.backward(dy)
    assert x.grad is not None
    assert theirs.grad is not None
    assert (x.grad - theirs.grad).abs().max() < 1e-13
    for row, (a, b) in zip(setting.rows, leaves, strict=True):
        mine_a, mine_b = setting.bank.read("gradient", row, 0, 8)
        assert (mine_a - a.grad).abs().max() < 1e-13
        assert (mine_b - b.grad).abs().max() < 1e-13


def test_gradients_add_up_over_passes_and_reach_adapters_below_which_nothing_is_trained() -> None:
    setting = Setting()
    x = draw(1, 11, INPUTS)  # as from a frozen embedding: it wants no gradient
    for _ in range(2):
        setting.layer(x).backward(draw(2, 11, OUTPUTS))
    once = Setting()
    once.layer(x).backward(draw(2, 11, OUTPUTS))
    assert torch.equal(setting.bank.gradient, 2 * once.bank.gradient)


def test_numbers_beyond_a_trials_rank_get_no_gradient() -> None:
    setting = Setting()
    setting.layer(draw(1, 11, INPUTS)).backward(draw(2, 11, OUTPUTS))
    a, b = setting.bank.read("gradient", setting.rows[0], 0, 8)
    assert a[:3].all()
    assert not a[3:].any()
    assert not b[:, 3:].any()


@pytest.mark.parametrize("exact", [True, False])
def test_a_trial_whose_numbers_are_not_finite_spoils_no_other(exact: bool) -> None:
    clean, spoilt = Setting(exact=exact), Setting(exact=exact)
    spoilt.bank.read("master", spoilt.rows[0], 0, 8)[1].fill_(float("nan"))
    x, dy = draw(1, 11, INPUTS), draw(2, 11, OUTPUTS)
    ys = []
    for setting in (clean, spoilt):
        y = setting.layer(x)
        y.backward(dy)
        ys.append(y)
    assert ys[1][:4].isnan().any()
    assert torch.equal(ys[0][4:], ys[1][4:])
    assert torch.equal(clean.bank.gradient[1], spoilt.bank.gradient[1])


def test_a_trial_without_an_adapter_here_gets_the_base_alone() -> None:
    setting = Setting()
    setting.of(Segment(0, 11, setting.bank, 0, 1.0, frozenset()))
    x = draw(1, 11, INPUTS)
    assert torch.equal(setting.layer(x), setting.layer.get_base_layer()(x))


def test_shapes_of_batches_are_kept() -> None:
    setting = Setting()
    setting.of(Segment(0, 2**62, setting.bank, 0, 1.0, frozenset([0])))
    assert setting.layer(draw(1, 2, 3, INPUTS)).shape == (2, 3, OUTPUTS)
