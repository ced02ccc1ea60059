"""Population-based training: who takes from whom, and what is changed."""

from __future__ import annotations

import math
import random

from ftcluster.config.grammar import parse_space
from ftcluster.config.schema import PrunerConfig, SweepConfig
from ftcluster.sweep.judging import judge
from ftcluster.sweep.population import changed
from ftcluster.sweep.space import Space

PBT = SweepConfig(pruner=PrunerConfig("pbt"))
STEPS = (1, 2, 3)
SPACE = Space(
    parse_space(
        {"optim.lr": "tag(log, interval(1e-4, 1e-2))", "adapter.dropout": "choice(0.0, 0.1, 0.2)", "optim.clip": "1.0"}
    )
)


def test_nobody_goes_on_before_all_have_reported_and_then_the_worst_take_from_the_best() -> None:
    reports = {trial: {0: float(trial % 5)} for trial in range(8)}  # 4 is worst, then 3; 0 is best, then 5
    last = reports.pop(7)
    assert judge(PBT, 8, STEPS, reports, set()).promote == frozenset()
    verdict = judge(PBT, 8, STEPS, {**reports, 7: last}, set())
    assert verdict.promote == {(trial, 1) for trial in range(8)}
    assert verdict.forks == {4: 0, 3: 5}
    assert (verdict.prune, verdict.finished) == ({}, {})


def test_those_who_failed_are_not_waited_for_and_what_they_reported_before_still_counts() -> None:
    reports = {trial: {0: float(trial)} for trial in range(7)}
    assert judge(PBT, 8, STEPS, reports, {7}).forks == {6: 0}
    before = judge(PBT, 8, STEPS, {**reports, 7: {0: 7.0}}, set())
    assert before.forks == {7: 0, 6: 1}
    assert judge(PBT, 8, STEPS, {**reports, 7: {0: 7.0}}, {0}).forks == before.forks


def test_forks_are_told_until_the_trial_has_reported_again_and_all_train_to_the_end() -> None:
    reports = {trial: {0: float(trial)} for trial in range(4)}
    assert judge(PBT, 4, STEPS, reports, set()).forks == {3: 0}
    reports[0][1] = 0.5
    assert judge(PBT, 4, STEPS, reports, set()).forks == {3: 0}
    for trial in range(4):
        reports[trial] = {0: float(trial), 1: float(-trial), 2: 1.0}
    verdict = judge(PBT, 4, STEPS, reports, set())
    assert (verdict.forks, set(verdict.finished)) == ({}, {0, 1, 2, 3})


def test_who_takes_from_whom_does_not_depend_on_who_reports_first() -> None:
    values = {trial: {0: random.Random(trial).random()} for trial in range(12)}
    found = []
    for order in range(5):
        there: dict[int, dict[int, float]] = {}
        for trial in random.Random(order).sample(range(12), 12):
            there[trial] = values[trial]
        found.append(judge(PBT, 12, STEPS, there, set()).forks)
    assert all(forks == found[0] for forks in found)
    assert len(found[0]) == 3


def test_settings_change_a_little_within_their_range_and_the_same_for_the_same_rung() -> None:
    point = {"optim.lr": 1e-3, "adapter.dropout": 0.1, "optim.clip": 1.0}
    found = [changed(SPACE, point, seed, 3, 1) for seed in range(20)]
    assert {each["optim.lr"] for each in found} == {8e-4, 1.25e-3}
    assert {each["adapter.dropout"] for each in found} == {0.0, 0.2}
    assert {each["optim.clip"] for each in found} == {1.0}
    assert changed(SPACE, point, 5, 3, 1) == found[5]
    assert len({math.log(changed(SPACE, point, 5, trial, 1)["optim.lr"]) for trial in range(9)}) == 2
    edge = {**point, "optim.lr": 1e-2, "adapter.dropout": 0.2}
    assert all(changed(SPACE, edge, seed, 0, 0)["optim.lr"] <= 1e-2 for seed in range(9))
