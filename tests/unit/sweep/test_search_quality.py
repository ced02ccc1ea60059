"""On grids that were really trained, halving finds a point that is nearly the best, for a part of the tokens."""

from __future__ import annotations

import pytest
from response_surfaces import LOOKS, load, names

from ftcluster.config.schema import PrunerConfig, SweepConfig
from ftcluster.sweep.judging import judge

RUNGS = (LOOKS // 9, LOOKS // 3, LOOKS)


@pytest.mark.parametrize("name", names())
def test_halving_finds_a_point_within_one_percent_of_the_best_for_a_quarter_of_the_tokens(name: str) -> None:
    surface = load(name)
    spec = SweepConfig(pruner=PrunerConfig("halving", eta=3))
    count = len(surface.points)
    values = {number: {0: surface.curves[number][RUNGS[0] - 1]} for number in range(count)}
    while (verdict := judge(spec, count, RUNGS, values, set())).promote:
        for number, rung in verdict.promote:
            values[number][rung] = surface.curves[number][RUNGS[rung] - 1]
    assert verdict.finished.keys() | verdict.prune.keys() == set(range(count))
    chosen = min(verdict.finished, key=lambda number: surface.curves[number][-1])
    tokens = sum(RUNGS[max(reached)] for reached in values.values())
    assert surface.regret(chosen) <= 0.01
    assert tokens <= 0.25 * count * LOOKS


def test_there_are_five_surfaces_of_thirty_points_or_more() -> None:
    assert len(names()) >= 5
    assert all(len(load(name).points) >= 30 for name in names())
