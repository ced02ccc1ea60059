"""What parameters explain: hand-worked designs, chance, and what cannot be told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from report_samples import valley

from ftcluster.report.design import SPARE
from ftcluster.report.influence import influence


def world(
    count: int, seed: int, *, noise: float = 0.05, depth: float = 1.0
) -> tuple[list[dict[str, Any]], list[float]]:
    """Random points over a rate, a rank and a choice of lists, of which the rate alone matters, by ``depth``."""
    draw = np.random.default_rng(seed)
    points = [
        {
            "optim.lr": float(10 ** draw.uniform(-4, -1)),
            "adapter.rank": int(draw.choice([4, 8, 16])),
            "adapter.targets": [["all-linear"], ["q_proj", "v_proj"]][int(draw.integers(2))],
        }
        for _ in range(count)
    ]
    return points, [depth * valley(p["optim.lr"]) + noise * float(draw.normal()) for p in points]


def test_a_balanced_design_gives_the_shares_that_can_be_worked_out_by_hand() -> None:
    """Two levels each, effects 3 and 1 and a rest of 1 per trial, all perpendicular: sums of squares 72, 8 and 8."""
    signs = [(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
    points = [{"a": a, "b": b} for a, b, _ in signs]
    found = influence(points, [3.0 * a + b + c for a, b, c in signs])
    shares = {share.key: share for share in found.shares}
    # Adjusted R squared: 1 - (left / freedom) / (88 / 7), where b is left alone, a, and neither.
    alone = {"a": 1 - (16 / 6) / (88 / 7), "b": 1 - (80 / 6) / (88 / 7)}
    both = 1 - (8 / 5) / (88 / 7)
    assert found.explained == pytest.approx(both)
    assert shares["a"].estimate == pytest.approx((alone["a"] + both - alone["b"]) / 2)
    assert shares["b"].estimate == pytest.approx((alone["b"] + both - alone["a"]) / 2)
    assert [share.key for share in found.shares] == ["a", "b"]


def test_a_parameter_that_matters_is_told_from_those_that_do_not() -> None:
    found = influence(*world(40, 1), {"optim.lr"})
    assert [share.key for share in found.shares if share.matters] == ["optim.lr"]
    assert {share.key for share in found.shares if share.negligible} == {"adapter.rank", "adapter.targets"}
    first = found.shares[0]
    assert 0.9 < first.low <= first.estimate <= first.high <= 1.0


@pytest.mark.parametrize("count", [12, 30, 100])
def test_chance_is_called_an_effect_in_about_one_sweep_of_twenty(count: int) -> None:
    told = sum(
        any(share.matters for share in influence(*world(count, seed, noise=1.0, depth=0.0), {"optim.lr"}).shares)
        for seed in range(40)
    )
    assert told <= 5


def test_more_noise_makes_wider_intervals_that_hold_the_truth() -> None:
    """The rate's share of all variance is var(effect) / (var(effect) + noise^2)."""
    points, clean = world(4000, 9, noise=0.0)
    effect = float(np.var(clean))
    held = 0
    for seed in range(20):
        share = influence(*world(60, seed, noise=math.sqrt(effect)), {"optim.lr"}).shares[0]
        held += share.low <= 0.5 <= share.high
    assert held >= 16
    assert points


def test_too_few_trials_say_nothing_but_how_many_it_takes() -> None:
    found = influence(*world(6, 0), {"optim.lr"})
    assert found.shares == ()
    assert found.needed == 1 + 3 + SPARE


def test_parameters_that_only_changed_together_cannot_be_told_apart() -> None:
    points, values = world(30, 2)
    twins = [{**point, "alpha": 2 * point["adapter.rank"]} for point in points]
    known = {share.key: share.known for share in influence(twins, values, {"optim.lr"}).shares}
    assert known == {"optim.lr": True, "adapter.targets": True, "adapter.rank": False, "alpha": False}


def test_a_parameter_may_be_missing_in_some_trials() -> None:
    points, values = world(40, 3)
    half = [{**point, "adapter.rank": None if at % 2 else point["adapter.rank"]} for at, point in enumerate(points)]
    shifted = [value + 2.0 * (at % 2) for at, value in enumerate(values)]
    assert [s.key for s in influence(half, shifted, {"optim.lr"}).shares if s.matters] == ["adapter.rank", "optim.lr"]


def test_a_parameter_that_only_one_kind_of_trial_has_is_told_from_the_kind() -> None:
    points, _ = world(40, 8)
    kinds = [
        {"kind": "lora" if at % 2 else "none", "rank": point["adapter.rank"] if at % 2 else None}
        for at, point in enumerate(points)
    ]
    draw = np.random.default_rng(1)
    values = [2.0 * (one["kind"] == "none") + 0.05 * float(draw.normal()) for one in kinds]
    found = {share.key: share for share in influence(kinds, values).shares}
    assert found["kind"].matters
    assert found["kind"].estimate > 0.9
    assert found["rank"].negligible


def test_one_diverged_trial_is_not_all_the_variance_there_is() -> None:
    points, values = world(40, 4)
    for direction, away in (("minimize", 1e6), ("maximize", -1e6)):
        found = influence(points, [away, *values[1:]], {"optim.lr"}, direction=direction)
        assert found.cut == 1
        assert [share.key for share in found.shares if share.matters] == ["optim.lr"]


def test_a_value_that_is_far_better_is_no_accident_to_be_cut_off() -> None:
    points, values = world(40, 4)
    assert influence(points, [*(value - 50.0 for value in values[:4]), *values[4:]], {"optim.lr"}).cut == 0


def test_keys_that_are_missing_in_the_same_trials_share_one_gap() -> None:
    draw = np.random.default_rng(2)
    points = [
        {"rank": int(draw.choice([4, 8, 16])) if at % 3 else None, "alpha": float(draw.normal()) if at % 3 else None}
        for at in range(60)
    ]
    found = influence(points, [float(p["rank"] is None) + 0.05 * float(draw.normal()) for p in points])
    assert all(share.known for share in found.shares)
    assert sum(share.estimate for share in found.shares if share.matters) > 0.9


def test_nothing_is_said_of_values_that_are_all_alike_or_of_parameters_that_never_changed() -> None:
    points, values = world(20, 5)
    assert influence(points, [1.0] * 20).shares == ()
    assert influence([{"a": 1}] * 20, values).shares == ()
    assert influence([], []).shares == ()


def test_the_same_trials_give_the_same_numbers() -> None:
    assert influence(*world(20, 6)) == influence(*world(20, 6))


def test_many_parameters_and_trials_are_no_trouble() -> None:
    draw = np.random.default_rng(0)
    points = [{f"p{at}": float(draw.normal()) for at in range(12)} for _ in range(300)]
    found = influence(points, [point["p3"] + 0.1 * float(draw.normal()) for point in points])
    assert [share.key for share in found.shares if share.matters] == ["p3"]
