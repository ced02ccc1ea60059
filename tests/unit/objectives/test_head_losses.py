"""Losses made chunk by chunk equal those of whole logits, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from ftcluster.objectives import cross_entropy
from ftcluster.objectives.cross_entropy import head_losses


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 7 * 50, 1 << 24])
def test_losses_and_gradients_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int, bias: bool) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", chunk)
    draw = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 8, generator=draw, dtype=torch.float64) for n in (20, 50))
    offset = torch.randn(50, generator=draw, dtype=torch.float64) if bias else None
    targets = torch.randint(50, (20,), generator=draw)
    scale = torch.rand(20, generator=draw, dtype=torch.float64)
    mine, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    losses = head_losses(mine, weight, offset, targets)
    expected = F.cross_entropy(F.linear(theirs, weight, offset), targets, reduction="none")
    assert (losses - expected).abs().max() < 1e-13
    (losses * scale).sum().backward()
    (expected * scale).sum().backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    assert (mine.grad - theirs.grad).abs().max() < 1e-13


def test_no_token_has_no_loss() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    losses = head_losses(hidden, torch.zeros(9, 4), None, torch.zeros(0, dtype=torch.int64))
    assert losses.shape == (0,)
    losses.sum().backward()


def test_without_gradients_none_are_made() -> None:
    with torch.no_grad():
        losses = head_losses(torch.ones(3, 4), torch.ones(9, 4), None, torch.tensor([0, 1, 2]))
    assert losses.tolist() == pytest.approx([torch.log(torch.tensor(9.0)).item()] * 3)
