"""Which point a sweep tries next."""

import json
import math
import subprocess
import sys

import pytest

from ftcluster.config.grammar import parse_space
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError
from ftcluster.sweep.space import grid, override_words
from ftcluster.sweep.study import STARTUP, Observation, propose

MIXED = parse_space(
    {
        "adapter.rank": "choice(4,8,16)",
        "adapter.targets": "choice([q_proj,v_proj],[all-linear])",
        "optim.lr": "tag(log,interval(1e-5,1e-2))",
        "optim.weight_decay": "interval(0,0.3)",
        "width": "tag(int,log,interval(1,64))",
        "seed": "range(0,10,2)",
    }
)
FINITE = parse_space({"a": "choice(1,2,3)", "b": "choice([x],[x,y])", "c": "range(0,4)"})


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
    space = parse_space({"k": "tag(int,log,interval(1,300))"})
    assert sorted(ask(space, "random", number)["k"] for number in range(300)) == list(range(1, 301))


def test_the_grid_goes_in_order():
    assert [ask(FINITE, "grid", number) for number in range(24)] == list(grid(FINITE))


def test_the_order_of_keys_in_the_file_does_not_change_the_points():
    turned = dict(reversed(MIXED.items()))
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
        "from ftcluster.sweep.study import Observation, propose\n"
        "points, values, space = json.load(sys.stdin)\n"
        "seen = [Observation(n, p, RunState.FINISHED, v) for n, (p, v) in enumerate(zip(points, values))]\n"
        "print(json.dumps([propose(parse_space(space), s, seed=17, direction='minimize', number=15, history=seen)"
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
    with pytest.raises(ConfigError, match=r'sampler.name: "bayes" is not a sampler; use grid, random, qmc, tpe'):
        ask(MIXED, "bayes", 0)


def test_a_grid_over_an_interval_is_refused():
    with pytest.raises(ConfigError, match=r"space.optim.lr: the grid sampler cannot enumerate an interval"):
        ask(MIXED, "grid", 0)


def test_a_space_without_keys_has_one_trial():
    for sampler in ("grid", "random", "qmc", "tpe"):
        assert ask({}, sampler, 0) == {}
        assert ask({}, sampler, 1, [Observation(0, {}, RunState.RUNNING)]) is None
