"""Which point a sweep tries next."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from ftcluster.config.expression import Expression
from ftcluster.config.grammar import parse_space
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError
from ftcluster.sweep.space import Space, grid, override_words, size
from ftcluster.sweep.study import STARTUP, Observation, cut_share, propose


def space_of(entries, **rules):
    return Space(parse_space(entries), **rules)


MIXED = space_of(
    {
        "adapter.rank": "choice(4,8,16)",
        "adapter.targets": "choice([q_proj,v_proj],[all-linear])",
        "optim.lr": "tag(log,interval(1e-5,1e-2))",
        "optim.weight_decay": "interval(0,0.3)",
        "width": "tag(int,log,interval(1,64))",
        "seed": "range(0,10,2)",
    }
)
FINITE = space_of({"a": "choice(1,2,3)", "b": "choice([x],[x,y])", "c": "range(0,4)"})


def ask(space, sampler, number, history=(), seed=17, direction="minimize"):
    return propose(space, sampler, seed=seed, direction=direction, number=number, history=history)


def badness(point):
    return (math.log10(point["optim.lr"]) + 3) ** 2 + (point["adapter.targets"] != ["all-linear"]) * 3


def run(space, sampler, trials, value=badness, seed=17, direction="minimize"):
    """A sweep of trials that finish one after the other."""
    history = []
    for number in range(trials):
        point = ask(space, sampler, number, history, seed, direction)
        history.append(Observation(number, point, RunState.FINISHED, value(point)))
    return history


def written(points):
    return [tuple(sorted(override_words(point))) for point in points]


def inside(point):
    return (
        point["adapter.rank"] in (4, 8, 16)
        and point["adapter.targets"] in (["q_proj", "v_proj"], ["all-linear"])
        and 1e-5 <= point["optim.lr"] <= 1e-2
        and 0 <= point["optim.weight_decay"] <= 0.3
        and (type(point["width"]), type(point["seed"])) == (int, int)
        and 1 <= point["width"] <= 64
        and point["seed"] in range(0, 10, 2)
    )


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_every_point_lies_in_the_space_and_names_its_keys_in_the_order_of_the_space(sampler):
    for observation in run(MIXED, sampler, 25):
        assert list(observation.point) == list(MIXED)
        assert inside(observation.point)


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_a_sampled_point_depends_on_seed_and_number_only(sampler):
    history = run(MIXED, "random", 12, seed=3)
    for number in (0, 1, 7, 100):
        alone = ask(MIXED, sampler, number)
        assert alone == ask(MIXED, sampler, number, history)
        assert alone != ask(MIXED, sampler, number, seed=18)
        assert alone != ask(MIXED, sampler, number + 1)


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc", "tpe"])
def test_a_space_that_can_be_listed_is_walked_without_repetition_and_then_is_exhausted(sampler):
    history = run(FINITE, sampler, 24, value=lambda point: point["a"])
    assert sorted(written(observation.point for observation in history)) == sorted(written(grid(FINITE)))
    assert ask(FINITE, sampler, 24, history) is None


def test_whole_numbers_on_a_log_scale_are_exhausted_too_although_some_are_rarely_drawn():
    space = space_of({"k": "tag(int,log,interval(1,300))"})
    assert sorted(ask(space, "random", number)["k"] for number in range(300)) == list(range(1, 301))


def test_the_grid_goes_in_order():
    assert [ask(FINITE, "grid", number) for number in range(24)] == list(grid(FINITE))


def test_the_order_of_keys_in_the_file_does_not_change_the_points():
    turned = Space(dict(reversed(MIXED.dimensions.items())))
    for sampler in ("random", "qmc"):
        assert ask(MIXED, sampler, 5) == ask(turned, sampler, 5)


def test_log_intervals_spread_over_orders_of_magnitude():
    rates = [ask(MIXED, "qmc", number)["optim.lr"] for number in range(64)]
    for low in (1e-5, 1e-4, 1e-3):
        assert 18 <= sum(low <= rate < 10 * low for rate in rates) <= 25


def test_qmc_tries_every_choice_equally_often():
    ranks = [ask(MIXED, "qmc", number)["adapter.rank"] for number in range(48)]
    assert all(14 <= ranks.count(rank) <= 18 for rank in (4, 8, 16))


def test_tpe_begins_with_an_even_spread_and_then_finds_better_points_than_random():
    learned, blind = run(MIXED, "tpe", 60), run(MIXED, "random", 60)
    assert [each.point for each in learned[:STARTUP]] == [ask(MIXED, "qmc", number) for number in range(STARTUP)]

    def late(history):
        return sum(observation.value for observation in history[30:]) / 30

    assert late(learned) < 0.5 * late(blind)


def test_tpe_maximizes_when_asked_to():
    history = run(MIXED, "tpe", 50, value=lambda point: -badness(point), direction="maximize")
    assert sum(observation.point["adapter.targets"] == ["all-linear"] for observation in history[25:]) > 20


def test_tpe_asks_the_same_given_the_same_history_in_whatever_order_it_comes():
    history = run(MIXED, "tpe", 15)
    asked = ask(MIXED, "tpe", 15, history)
    assert asked == ask(MIXED, "tpe", 15, history)
    assert asked == ask(MIXED, "tpe", 15, history[::-1])
    assert asked != ask(MIXED, "tpe", 16, history)
    assert asked != ask(MIXED, "tpe", 15, history, seed=18)


def test_a_resumed_sweep_asks_in_a_new_process_what_it_would_have_asked():
    history = run(MIXED, "tpe", 15)
    script = (
        "import json, sys\n"
        "from ftcluster.config.grammar import parse_space\n"
        "from ftcluster.contracts.trial import RunState\n"
        "from ftcluster.sweep.space import Space\n"
        "from ftcluster.sweep.study import Observation, propose\n"
        "points, values, space = json.load(sys.stdin)\n"
        "seen = [Observation(n, p, RunState.FINISHED, v) for n, (p, v) in enumerate(zip(points, values))]\n"
        "space = Space(parse_space(space))\n"
        "print(json.dumps([propose(space, s, seed=17, direction='minimize', number=15, history=seen)"
        " for s in ('random', 'qmc', 'tpe')]))"
    )
    space = {
        "adapter.rank": [4, 8, 16],
        "adapter.targets": [["q_proj", "v_proj"], ["all-linear"]],
        "optim.lr": "tag(log,interval(1e-5,1e-2))",
        "optim.weight_decay": "interval(0,0.3)",
        "width": "tag(int,log,interval(1,64))",
        "seed": "range(0,10,2)",
    }
    known = json.dumps([[each.point for each in history], [each.value for each in history], space])
    done = subprocess.run([sys.executable, "-c", script], input=known, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [ask(MIXED, sampler, 15, history) for sampler in ("random", "qmc", "tpe")]


def test_tpe_keeps_away_from_where_trials_fail():
    def observed(number):
        point = ask(MIXED, "random", number)
        bad = point["adapter.targets"] != ["all-linear"]
        return Observation(number, point, RunState.FAILED if bad else RunState.FINISHED, None if bad else 1.0)

    history = [observed(number) for number in range(40)]
    asked = [ask(MIXED, "tpe", number, history)["adapter.targets"] for number in range(40, 60)]
    assert asked.count(["all-linear"]) > 14


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (RunState.RUNNING, None),
        (RunState.WAITING, None),
        (RunState.RUNNING, 0.7),
        (RunState.PAUSED, 0.7),
        (RunState.INTERRUPTED, 0.7),
        (RunState.PRUNED, 0.7),
        (RunState.KILLED, 0.7),
        (RunState.FAILED, math.inf),
        (RunState.FINISHED, math.nan),
        (RunState.FINISHED, -math.inf),
    ],
)
def test_tpe_takes_a_trial_in_any_state_into_account(state, value):
    history = run(MIXED, "tpe", 15)
    another = Observation(15, ask(MIXED, "tpe", 15, history), state, value, rung=1)
    assert inside(ask(MIXED, "tpe", 16, [*history, another]))


def test_an_unknown_sampler_is_refused_with_those_there_are():
    with pytest.raises(
        ConfigError, match=r'sampler.name: "bayes" is not a sampler; use grid, random, qmc, tpe, gp, cmaes, nsga2'
    ):
        ask(MIXED, "bayes", 0)


def test_a_grid_over_an_interval_is_refused():
    with pytest.raises(ConfigError, match=r"space.optim.lr: the grid sampler cannot enumerate an interval"):
        ask(MIXED, "grid", 0)


def test_a_space_without_keys_has_one_trial():
    for sampler in ("grid", "random", "qmc", "tpe"):
        assert ask(Space({}), sampler, 0) == {}
        assert ask(Space({}), sampler, 1, [Observation(0, {}, RunState.RUNNING)]) is None


# Conditions and constraints --------------------------------------------------------------------------------------

RULES = space_of(
    {
        "adapter.kind": "choice(lora, none)",
        "adapter.rank": "choice(4, 8, 16)",
        "batch": "choice(8, 12)",
        "micro": "4,8",
    },
    when={"adapter.rank": Expression("adapter.kind == 'lora'")},
    constraints=(Expression("batch % micro == 0"),),
)
ENDLESS = space_of(
    {"adapter.kind": "choice(lora, none)", "adapter.dropout": "interval(0.0, 0.5)", "micro": "choice(4, 8)"},
    when={"adapter.dropout": Expression("adapter.kind == 'lora'")},
    constraints=(Expression("micro == 4 or adapter.kind == 'none'"),),
)


def test_a_key_whose_condition_does_not_hold_is_in_no_point_and_makes_no_twins():
    points = list(grid(RULES))
    assert len(points) == size(RULES) == 3 * 3 + 3
    assert sum("adapter.rank" in point for point in points) == 9
    assert all(("adapter.rank" in point) == (point["adapter.kind"] == "lora") for point in points)
    assert all(point["batch"] % point["micro"] == 0 for point in points)
    assert len(set(written(points))) == len(points)


@pytest.mark.parametrize("sampler", ["grid", "random", "qmc", "tpe", "nsga2"])
def test_every_sampler_proposes_each_allowed_point_once_and_no_other(sampler):
    history = run(RULES, sampler, 12, value=lambda point: point["batch"] + point.get("adapter.rank", 0))
    assert sorted(written(each.point for each in history)) == sorted(written(grid(RULES)))
    assert ask(RULES, sampler, 12, history) is None


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "cmaes"])
def test_without_end_a_point_is_still_proposed_once_if_only_keys_not_in_use_would_tell_it_apart(sampler):
    history = run(ENDLESS, sampler, 16, value=lambda point: point.get("adapter.dropout", 1.0))
    assert len(set(written(each.point for each in history))) == 16
    assert sum(each.point["adapter.kind"] == "none" for each in history) <= 2
    assert all(each.point["micro"] == 4 for each in history if each.point["adapter.kind"] == "lora")


def test_how_much_is_left_out_of_a_space_without_end_is_told_by_a_sample():
    half = space_of({"lr": "interval(0.0, 1.0)"}, constraints=(Expression("lr < 0.25"),))
    assert cut_share(half) == pytest.approx(0.75, abs=0.01)
    assert cut_share(RULES) == 0
    assert cut_share(MIXED) == 0


def test_a_point_that_somebody_named_is_not_proposed_again():
    named = Observation(0, list(grid(RULES))[1], RunState.RUNNING)
    for sampler in ("grid", "random", "qmc"):
        found = [ask(RULES, sampler, number, [named]) for number in range(12)]
        assert named.point not in found[:11]


# Samplers that learn ---------------------------------------------------------------------------------------------

SCALES = space_of({"lr": "tag(log,interval(1e-5,1e-2))", "decay": "interval(0.0,0.3)", "rank": "choice(4,8,16,32)"})


def bowl(point):
    return (math.log10(point["lr"]) + 3) ** 2 + point["decay"] + abs(point["rank"] - 16) / 16


@pytest.mark.parametrize("sampler", ["cmaes", "nsga2", "tpe"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_sampler_that_learns_finds_better_points_than_random(sampler, direction):
    sign = 1 if direction == "minimize" else -1

    def late(name):
        history = run(SCALES, name, 60, value=lambda point: sign * bowl(point), direction=direction)
        return sum(sign * each.value for each in history[40:]) / 20

    assert late(sampler) < 0.75 * late("random")


def test_gp_needs_few_trials_on_a_smooth_surface():
    history = run(SCALES, "gp", 14, value=bowl)
    assert min(each.value for each in history[10:]) < 0.1 * min(each.value for each in history[:10])


@pytest.mark.parametrize("sampler", ["gp", "cmaes", "nsga2"])
def test_a_sampler_that_learns_asks_the_same_given_the_same_history_in_whatever_order(sampler):
    history = run(SCALES, "random", 20, value=bowl)
    unended = [Observation(20, ask(SCALES, "random", 20), RunState.RUNNING)]
    unended += [Observation(21, ask(SCALES, "random", 21), RunState.PAUSED, 0.4, rung=1)]
    unended += [Observation(22, ask(SCALES, "random", 22), RunState.FAILED)]
    asked = ask(SCALES, sampler, 23, [*history, *unended])
    assert asked == ask(SCALES, sampler, 23, [*unended, *history[::-1]])
    assert asked != ask(SCALES, sampler, 23, [*history, *unended], seed=18)


def test_a_value_of_a_later_rung_counts_for_more_than_a_better_one_of_an_early_rung():
    space = space_of({"lr": "interval(0.0,1.0)", "other": "interval(0.0,1.0)"})

    def seen(number, lr, state, value, rung):
        return Observation(number, {"lr": lr, "other": number % 7 / 7}, state, value, rung)

    history = [seen(n, 0.8 + n / 1000, RunState.FINISHED, 3.0, 2) for n in range(12)]
    history += [seen(n, 0.2 + n / 1000, RunState.PRUNED, 2.0, 0) for n in range(12, 24)]
    assert [ask(space, sampler, 24, history)["lr"] > 0.5 for sampler in ("tpe", "gp", "cmaes")] == [True] * 3


def test_nsga2_spreads_over_what_two_objectives_trade():
    space = space_of({"x": "interval(0.0,1.0)", "y": "interval(0.0,1.0)"})
    history = []
    for number in range(120):
        point = ask(space, "nsga2", number, history, direction=("minimize", "minimize"))
        values = point["x"] ** 2 + point["y"], (point["x"] - 1) ** 2 + point["y"]
        history.append(Observation(number, point, RunState.FINISHED, values[0], 0, values[1:]))
    late = [each.point for each in history[80:]]
    assert sum(point["y"] for point in late) / 40 < 0.4  # of no use to either
    assert max(point["x"] for point in late) - min(point["x"] for point in late) > 0.5


def test_what_earlier_sweeps_know_is_used_from_the_first_trial_and_their_points_may_be_tried_again():
    earlier = [Observation(n - 40, ask(SCALES, "random", n), RunState.FINISHED) for n in range(40)]
    earlier = [replace(each, value=bowl(each.point)) for each in earlier]
    first = propose(SCALES, "tpe", seed=17, direction="minimize", number=0, earlier=earlier)
    assert first != ask(SCALES, "tpe", 0)
    assert bowl(first) < 1
    every = [Observation(n - 24, point, RunState.FINISHED, float(n)) for n, point in enumerate(grid(FINITE))]
    assert propose(FINITE, "tpe", seed=17, direction="minimize", number=0, earlier=every) is not None
