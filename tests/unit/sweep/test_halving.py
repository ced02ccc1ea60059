"""Successive halving over paused trials, against the synchronous algorithm written out independently."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcluster.errors import ConfigError
from ftcluster.sweep.halving import Decision, decide, rungs

NAN = math.nan


def test_rungs_grow_by_eta_and_end_with_the_whole_budget():
    assert rungs(50, 2, 400) == (50, 100, 200, 400)
    assert rungs(50, 3, 400) == (50, 150, 400)
    assert rungs(400, 2, 400) == (400,)
    assert rungs(500, 2, 400) == (400,)


def test_rungs_that_would_never_get_anywhere_are_refused_all_at_once():
    with pytest.raises(ConfigError) as caught:
        rungs(0, 1, 0)
    assert caught.value.problems == [
        "pruner.first: 0 is too small; use at least 1",
        "pruner.eta: 1 is too small; use at least 2",
        "optim.duration: 0 is too small; use at least 1",
    ]


def at_first_rung(values, **more):
    reports = {trial: {0: value} for trial, value in values.items()}
    return decide(8, (1, 2), 2, "minimize", reports, more.get("failed", set()))


def test_a_trial_goes_on_or_is_pruned_as_soon_as_that_is_certain_and_waits_otherwise():
    # The drawing in the module's docstring: eight trials, four go on, two have not reported yet.
    decision = at_first_rung({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4, 4: 0.5, 5: 0.6})
    assert decision == Decision(frozenset({(0, 1), (1, 1)}), frozenset({4, 5}), frozenset())


def test_nothing_is_certain_while_too_few_have_reported():
    assert at_first_rung({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}) == Decision(frozenset(), frozenset(), frozenset())


def test_a_failed_trial_makes_room_for_another_at_once():
    decision = at_first_rung({0: 0.1}, failed={4, 5, 6, 7})
    assert decision == Decision(frozenset({(0, 1)}), frozenset(), frozenset())


def test_nan_is_worse_than_any_number_and_infinity():
    decision = at_first_rung({0: NAN, 1: math.inf, 2: 1, 3: 1, 4: NAN, 5: NAN, 6: NAN, 7: 2})
    assert decision.promote == {(1, 1), (2, 1), (3, 1), (7, 1)}
    assert decision.prune == {0, 4, 5, 6}


def test_ties_go_to_the_lower_number():
    assert at_first_rung(dict.fromkeys(range(8), 0.5)).prune == {4, 5, 6, 7}


def test_maximize_prefers_the_larger():
    decision = decide(2, (1, 2), 2, "maximize", {0: {0: 0.1}, 1: {0: 0.9}}, set())
    assert decision == Decision(frozenset({(1, 1)}), frozenset({0}), frozenset())


def test_a_promotion_is_repeated_until_the_trial_has_reported_at_the_next_rung():
    reports = {0: {0: 0.1}, 1: {0: 0.9}}
    assert decide(2, (1, 2), 2, "minimize", reports, set()).promote == {(0, 1)}
    reports[0][1] = 0.05
    assert decide(2, (1, 2), 2, "minimize", reports, set()) == Decision(frozenset(), frozenset({1}), frozenset({0}))


def test_one_rung_prunes_nothing():
    reports = {trial: {0: float(trial)} for trial in range(5)}
    assert decide(8, (100,), 2, "minimize", reports, {4}) == Decision(frozenset(), frozenset(), frozenset({0, 1, 2, 3}))


def test_one_trial_goes_through_all_rungs_alone():
    assert decide(1, (1, 2, 4), 2, "minimize", {0: {0: 0.5, 1: 0.4}}, set()).promote == {(0, 2)}


def synchronous(n, levels, eta, sign, values, fails_at):
    """Everybody reports, then the best go on: (who finishes, whom the algorithm stops)."""

    def badness(trial, rung):
        value = NAN if fails_at[trial] <= rung else sign * values[trial][rung]
        return (math.isnan(value), 0.0 if math.isnan(value) else value, trial)

    alive, stopped = list(range(n)), set()
    for rung in range(levels - 1):
        alive.sort(key=lambda trial, rung=rung: badness(trial, rung))
        keep = max(1, len(alive) // eta)
        stopped |= {trial for trial in alive[keep:] if fails_at[trial] > rung}
        alive = alive[:keep]
    return {trial for trial in alive if fails_at[trial] >= levels}, stopped


@st.composite
def sweeps(draw):
    n, levels, eta = draw(st.integers(1, 14)), draw(st.integers(1, 4)), draw(st.integers(2, 4))
    number = st.one_of(st.sampled_from([0.0, 1.0, 2.0, NAN, math.inf, -math.inf]), st.floats(allow_nan=True))
    values = draw(st.lists(st.lists(number, min_size=levels, max_size=levels), min_size=n, max_size=n))
    fails_at = draw(st.lists(st.integers(0, 2 * levels), min_size=n, max_size=n))
    return n, levels, eta, draw(st.sampled_from(["minimize", "maximize"])), values, fails_at, draw(st.randoms())


@settings(max_examples=200, deadline=None)
@given(sweeps())
def test_survivors_equal_those_of_synchronous_halving_whatever_the_order_of_reports(sweep):
    n, levels, eta, direction, values, fails_at, order = sweep
    reports, failed, pruned = {}, set(), set()
    runnable = {(trial, 0) for trial in range(n)}
    started = set(runnable)
    while runnable:
        trial, rung = order.choice(sorted(runnable))
        runnable.discard((trial, rung))
        if fails_at[trial] <= rung:
            failed.add(trial)
        else:
            reports.setdefault(trial, {})[rung] = values[trial][rung]
        decision = decide(n, tuple(range(levels)), eta, direction, reports, failed)
        assert pruned - failed <= decision.prune, "a pruning was taken back"
        assert not {promoted for promoted, _ in decision.promote} & decision.prune
        pruned = set(decision.prune)
        runnable |= decision.promote - started
        started |= decision.promote
    survivors, stopped = synchronous(n, levels, eta, 1 if direction == "minimize" else -1, values, fails_at)
    assert decision.finished == survivors
    assert pruned == stopped
    assert survivors | stopped | failed == set(range(n)), "a trial was left waiting for ever"
