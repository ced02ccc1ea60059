"""Masks are functions of their key: the same again, independent of neighbours, and as random as they should be."""

from __future__ import annotations

import pytest
import torch

from ftcluster.engine.packed.dropout import keep, key_of


def mask(seed: int = 1, step: int = 0, micro: int = 0, site: int = 0, rows: int = 400, p: float = 0.1) -> torch.Tensor:
    places = torch.arange(rows * 100).view(rows, 100)
    return keep(key_of(seed, step, micro, site), places, p, torch.float64)


def test_a_mask_is_the_same_whenever_it_is_computed_and_for_any_number_of_rows() -> None:
    assert torch.equal(mask(), mask())
    assert torch.equal(mask(rows=7), mask()[:7])


@pytest.mark.parametrize("other", [{"seed": 2}, {"step": 1}, {"micro": 1}, {"site": 1}])
def test_masks_of_different_keys_have_nothing_in_common(other: dict[str, int]) -> None:
    one, two = mask(p=0.5) > 0, mask(**other, p=0.5) > 0
    agreement = (one == two).double().mean().item()
    assert agreement == pytest.approx(0.5, abs=0.01)  # 40,000 coins: a standard deviation is 0.0025


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_p_in_every_row_and_column_and_the_mean_stays_one(p: float) -> None:
    found = mask(p=p, rows=1000)
    assert (found == 0).double().mean().item() == pytest.approx(p, abs=0.006)
    assert found.mean().item() == pytest.approx(1, abs=0.06)
    assert found.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    for along in (0, 1):
        spread = (found == 0).double().mean(along).std().item()
        expected = (p * (1 - p) / found.shape[along]) ** 0.5
        assert spread == pytest.approx(expected, rel=0.25)


def test_neighbouring_entries_are_independent() -> None:
    zeros = (mask(p=0.5, rows=2000) == 0).double() - 0.5
    for shifted in (zeros[1:] * zeros[:-1], zeros[:, 1:] * zeros[:, :-1]):
        assert shifted.mean().item() == pytest.approx(0, abs=0.003)
