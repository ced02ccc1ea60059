"""Rows of a bank are trials: what is done to one leaves the bits of the others alone."""

from __future__ import annotations

import pytest
import torch

from ftcluster.contracts.ports import OptimizerSettings
from ftcluster.engine.packed.adamw import Update, adamw_, clip_factor
from ftcluster.engine.packed.bank import Bank, Site, bucket_of

SITES = [Site("a", 6, 10), Site("b", 10, 4)]


NO_B = torch.zeros(2, dtype=torch.bool)


def bank(compute: torch.dtype = torch.float32, master: torch.dtype = torch.float32) -> Bank:
    return Bank(SITES, 8, master=master, compute=compute, device=torch.device("cpu"))


def filled(made: Bank, seed: int) -> int:
    row = made.take()
    draw = torch.Generator().manual_seed(seed)
    made.master[row] = torch.randn(made.master.shape[1], generator=draw, dtype=made.master.dtype)
    made.gradient[row] = torch.randn(made.master.shape[1], generator=draw, dtype=made.master.dtype)
    made.refresh(row)
    return row


@pytest.mark.parametrize(("rank", "bucket"), [(1, 8), (8, 8), (9, 16), (33, 64), (256, 256), (300, 300)])
def test_ranks_share_buckets(rank: int, bucket: int) -> None:
    assert bucket_of(rank) == bucket


def test_places_of_sites_do_not_overlap_and_cover_the_row() -> None:
    made = bank()
    row = made.take()
    count = 0
    for site in range(len(SITES)):
        for view in made.read("master", row, site, 8):
            assert not view.any()
            view.add_(1)
            count += view.numel()
    assert count == made.master.shape[1] == made.master[row].count_nonzero()


def test_stepping_one_row_leaves_weights_moments_and_gradients_of_the_others_alone() -> None:
    made = bank()
    rows = [filled(made, seed) for seed in range(3)]
    before = [made.master.clone(), made.gradient.clone(), made.first.clone(), made.second.clone()]
    made.step({rows[1]: Update(1, 0.1, OptimizerSettings(weight_decay=0.5, clip=0.1))})
    for table, was in zip((made.master, made.gradient, made.first, made.second), before, strict=True):
        for other in (rows[0], rows[2]):
            assert torch.equal(table[other], was[other])
    assert not torch.equal(made.master[rows[1]], before[0][rows[1]])
    assert not made.gradient[rows[1]].any()


def test_a_row_steps_to_the_same_bits_alone_and_with_others() -> None:
    alone, crowd = bank(), bank()
    mine = filled(alone, 1)
    others = [filled(crowd, seed) for seed in (7, 1, 9)]
    update = Update(3, 0.02, OptimizerSettings(0.1, 0.8, 0.97, clip=0.3))
    norm = alone.step({mine: update})[mine]
    norms = crowd.step({row: update if row == others[1] else Update(1, 0.5, OptimizerSettings()) for row in others})
    assert norms[others[1]] == norm
    assert torch.equal(alone.master[mine], crowd.master[others[1]])


def test_steps_are_those_of_torch_with_its_clipping() -> None:
    settings = OptimizerSettings(weight_decay=0.1, beta1=0.8, beta2=0.95, eps=1e-6, clip=0.5)
    made = bank(torch.float64, torch.float64)
    row = filled(made, 4)
    theirs = torch.nn.Parameter(made.master[row].clone())
    optimizer = torch.optim.AdamW([theirs], lr=0, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    for step in range(1, 30):
        gradient = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        made.gradient[row] = gradient
        theirs.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_([theirs], settings.clip)
        optimizer.param_groups[0]["lr"] = 0.1 / step
        optimizer.step()
        assert made.step({row: Update(step, 0.1 / step, settings)})[row] == pytest.approx(float(norm), rel=1e-14)
        assert (made.master[row] - theirs.detach()).abs().max() < 1e-13


def test_the_first_step_by_hand() -> None:
    # m = 0.1 g, v = 0.001 g^2; corrected both are g and g^2, so the step is lr * g / (|g| + eps); decay before it.
    w, g = torch.tensor([[2.0, -1.0]], dtype=torch.float64), torch.tensor([[0.5, -4.0]], dtype=torch.float64)
    adamw_(
        w,
        g,
        torch.zeros_like(w),
        torch.zeros_like(w),
        [Update(1, 0.1, OptimizerSettings(weight_decay=0.5, eps=0))],
        NO_B,
    )
    assert w.tolist() == [[pytest.approx(2 * 0.95 - 0.1), pytest.approx(-1 * 0.95 + 0.1)]]


@pytest.mark.parametrize(("norm", "clip", "factor"), [(2.0, 0.0, 1.0), (0.5, 1.0, 1.0), (4.0, 1.0, 0.25)])
def test_clipping_shrinks_only_what_is_too_large(norm: float, clip: float, factor: float) -> None:
    assert clip_factor(norm, clip) == pytest.approx(factor, rel=1e-6)


def test_rows_given_back_are_zero_and_taken_again_and_growth_keeps_what_is_there() -> None:
    made = bank(torch.bfloat16)
    first = filled(made, 1)
    kept = made.master[first].clone()
    others = [filled(made, seed) for seed in range(5)]
    assert torch.equal(made.master[first], kept)
    assert torch.equal(made.a(first, 0), kept[: 8 * 6].view(8, 6).to(torch.bfloat16))
    made.give_back(others[2])
    assert not made.master[others[2]].any()
    assert not made.a(others[2], 1).any()
    assert made.take() == others[2]


def test_a_bank_that_cannot_grow_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bank(torch.bfloat16)
    filled(made, 1)
    before = (made.bytes, made.master.clone())
    left = [3]  # tables that there is memory for

    def cat(tables: list[torch.Tensor]) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("no memory left")
        return together(tables)

    together = torch.cat
    with monkeypatch.context() as patch:
        patch.setattr(torch, "cat", cat)
        with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
            made.take()
    assert made.bytes == before[0]
    assert torch.equal(made.master, before[1])
    second = filled(made, 2)  # once there is
    made.step({second: Update(1, 0.1, OptimizerSettings())})
    assert {len(made.master), len(made.gradient), len(made.first), len(made.second)} == {2}


def test_the_shadow_follows_every_step() -> None:
    made = bank(torch.bfloat16)
    row = filled(made, 2)
    made.step({row: Update(1, 0.1, OptimizerSettings())})
    assert torch.equal(made.b(row, 1), made.read("master", row, 1, 8)[1].to(torch.bfloat16))


def test_lora_plus_moves_b_further_by_hand_and_leaves_rows_without_it_their_bits() -> None:
    # The first step is lr * sign(g): 0.1 for A, 0.4 for B; decay takes 0.5 * lr of each.
    def step(*pluses: float) -> list[list[float]]:
        w = torch.tensor([[2.0, 2.0]] * len(pluses), dtype=torch.float64)
        settings = [OptimizerSettings(weight_decay=0.5, eps=0, lora_plus=plus) for plus in pluses]
        moments = torch.zeros_like(w), torch.zeros_like(w)
        adamw_(
            w, torch.ones_like(w), *moments, [Update(1, 0.1, each) for each in settings], torch.tensor([False, True])
        )
        return w.tolist()

    assert step(4.0) == [[pytest.approx(2 * 0.95 - 0.1), pytest.approx(2 * 0.8 - 0.4)]]
    assert step(1.0, 4.0)[0] == step(1.0)[0]


def test_without_memory_for_all_rows_at_once_they_step_one_after_the_other_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updates = [Update(1, 0.1, OptimizerSettings(clip=0.1)), Update(4, 0.2, OptimizerSettings(weight_decay=0.5))]
    plenty, short = bank(), bank()
    rows = [[filled(made, seed) for seed in range(2)] for made in (plenty, short)]
    expected = plenty.step(dict(zip(rows[0], updates, strict=True)))

    def for_one(w_NP: torch.Tensor, *more: object) -> None:
        adamw_(w_NP, *more)  # type: ignore[arg-type]
        if len(w_NP) > 1:
            torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("ftcluster.engine.packed.bank.adamw_", for_one)
    assert short.step(dict(zip(rows[1], updates, strict=True))) == expected
    for name in ("master", "gradient", "first", "second"):
        assert torch.equal(getattr(plenty, name), getattr(short, name)), name
