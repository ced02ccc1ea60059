"""How far trials train and what they are called."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from training_samples import World, make_world

import ftcluster
from ftcluster.config.compose import compose, to_dict
from ftcluster.config.schema import PrunerConfig, RunConfig, SweepConfig
from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.data.prepared.batches import Efficiency
from ftcluster.data.prepared.report import EpochSummary, Report
from ftcluster.errors import ConfigError, ModelError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.sweep.launch import register, stored_plan
from ftcluster.sweep.plan import SweepPlan, make_plan
from ftcluster.sweep.proposals import next_trial
from ftcluster.sweep.space import Space, override_words
from ftcluster.sweep.specification import read_sweep
from ftcluster.training.session import Plan


def plan(trials: int = 8, rungs: tuple[int, ...] = (10, 20, 40), eta: int = 2) -> SweepPlan:
    spec = SweepConfig(name="s", pruner=PrunerConfig("halving", "10 steps", eta))
    steps = Plan(rungs[-1], 5, 5, 20, 100.0, Efficiency(0.5, None))
    report = Report(0, 0, 0, 0, 512, {}, (), (), (), {}, {}, EpochSummary(0, 0))
    return SweepPlan("s", spec, RunConfig(), Space({}), trials, rungs, steps, "hash", report)


def test_a_trial_of_another_length_is_judged_at_the_same_share_of_it() -> None:
    assert [plan().until(rung, 40) for rung in range(3)] == [10, 20, 40]
    assert [plan().until(rung, 10) for rung in range(3)] == [3, 5, 10]


def test_the_most_steps_are_those_of_trials_that_survive() -> None:
    assert plan().steps_at_most == 8 * 10 + 4 * 10 + 2 * 20


def test_names_of_trials_sort_by_number() -> None:
    assert [plan().trial_name(number) for number in (0, 7)] == ["s-00", "s-07"]
    assert [plan(trials=101).trial_name(number) for number in (0, 100)] == ["s-000", "s-100"]


@pytest.mark.parametrize(
    ("pruner", "judged"),
    [
        ("name: none", ()),
        ("name: none, patience: 2, first: 4 steps", (4, 8, 12, 16)),
        ("name: median, first: 4 steps, every: 8 steps", (4, 12)),
        ("name: halving, first: 0.1 epochs, eta: 3", (3, 9)),
        ("name: hyperband, first: 400 tokens, eta: 2", (3, 6, 12)),
        ("name: halving", (3, 9)),
        ("name: halving, eta: 2", (5, 10)),
        ("name: median", (3, 6, 9, 12, 15, 18)),
    ],
)
def test_trials_are_judged_in_steps_tokens_or_epochs(
    world: World, tmp_path: Path, pruner: str, judged: tuple[int, ...]
) -> None:
    space = f"space: {{adapter.rank: '2,4'}}\npruner: {{{pruner}}}\n"
    assert sweep_of(world, tmp_path, space, "optim.duration=20 steps").rungs == (*judged, 20)


def test_so_many_judgements_that_trials_would_do_little_else_are_refused(world: World, tmp_path: Path) -> None:
    space = "space: {adapter.rank: '2,4'}\npruner: {name: median, first: 1 steps}\n"
    with pytest.raises(ConfigError, match=r"judged 4999 times, and saved each time; raise pruner\.every"):
        sweep_of(world, tmp_path, space, "optim.duration=5000 steps")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_a_pruner_that_could_never_stop_a_trial_is_refused(world: World, tmp_path: Path) -> None:
    base = compose(world.words("optim.duration=20 steps", f"home={tmp_path}"))
    spec = SweepConfig(name="s", space={"adapter.rank": "choice(2,4)"}, pruner=PrunerConfig("halving", "20 steps"))
    with pytest.raises(ConfigError, match=r"pruner\.first=20 steps is step 20 and trials end at step 20"):
        make_plan(spec, base)


def test_every_adapter_target_of_a_space_must_be_in_the_model(world: World, tmp_path: Path) -> None:
    base = compose(world.words(f"home={tmp_path}"))
    spec = SweepConfig(name="s", space={"adapter.targets": "choice([q_proj],[q_proj,w_proj])"})
    with pytest.raises(ModelError, match="has no linear layer called w_proj"):
        make_plan(spec, base)


def sweep_of(world: World, home: Path, space: str, *words: str) -> SweepPlan:
    """The plan of a sweep file with these lines."""
    file = home / "s.yaml"
    base = json.dumps(world.words(f"home={home}", *words))
    file.write_text(f"name: s\nbase: {base}\n{space}")
    return make_plan(*read_sweep(file, []))


def proposed(plan: SweepPlan, folder: Path) -> list[RunRow]:
    """All trials, one after the other."""
    trials: list[RunRow] = []
    while found := next_trial(plan, folder, trials, {}) if len(trials) < plan.trials else None:
        assert not found[1]
        trials.append(found[0])
    return trials


NAMED = """\
space: {adapter.rank: "2,4", adapter.alpha: "8,16"}
always:
  usual: [adapter.rank=4, adapter.alpha=8]
  wide: [adapter.rank=32]
sampler: {name: grid}
"""


def test_named_trials_come_first_and_what_they_try_is_not_proposed_again(world: World, tmp_path: Path) -> None:
    plan = sweep_of(world, tmp_path, NAMED, "adapter.alpha=16")
    trials = proposed(plan, tmp_path)
    assert [(t.overrides.get("named"), t.config["adapter"]["rank"], t.config["adapter"]["alpha"]) for t in trials] == [
        ("usual", 4, 8),
        ("wide", 32, 16),
        (None, 2, 8),
        (None, 2, 16),
        (None, 4, 16),
    ]
    assert plan.trials == len(trials)
    assert next_trial(plan, tmp_path, trials, {}) is None


def test_trials_of_less_data_can_be_compared_and_of_other_held_out_rows_not(world: World, tmp_path: Path) -> None:
    assert sweep_of(world, tmp_path, "space: {data.limit: '20,0'}\nsampler: {name: grid}\n").trials == 2
    other = tmp_path / "other.jsonl"
    other.write_text("".join(world.rows.read_text().splitlines(keepends=True)[:60]))
    space = f"variants: {{rows: {{all: [seed=17], half: ['data.train=[{other}]']}}}}\nspace: {{}}\n"
    with pytest.raises(ConfigError) as caught:
        sweep_of(world, tmp_path, space)
    (problem,) = caught.value.problems
    assert problem.endswith("eval/loss would be measured on other rows or tokens than in the base.")
    assert "metric=eval/exact_match only" in caught.value.remedy
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(world.rows.read_text()[-2000:].partition("\n")[2])
    assert sweep_of(world, tmp_path, space, f"data.validation=[{held_out}]").trials == 2


def test_another_tokenizer_is_told_from_the_same_one(world: World, tmp_path: Path) -> None:
    same = tmp_path / "same"
    shutil.copytree(world.model, same)
    other = tmp_path / "other"
    create_tiny_model(other, ["What is it?"], hidden_size=32, layers=1, heads=2, kv_heads=2, vocabulary=290)
    assert sweep_of(world, tmp_path, f"space: {{model.path: [{world.model}, {same}]}}\n").trials == 2
    with pytest.raises(ConfigError, match="eval/loss would be measured on other rows or tokens than in the base"):
        sweep_of(world, tmp_path, f"space: {{model.path: [{world.model}, {other}]}}\n")
    answers = f"space: {{model.path: [{world.model}, {other}]}}\nmetric: eval/exact_match\ndirection: maximize\n"
    assert sweep_of(world, tmp_path, answers, "evaluation.generate=4").trials == 2


def test_each_point_is_trained_with_several_seeds_and_all_else_equal(world: World, tmp_path: Path) -> None:
    plan = sweep_of(world, tmp_path, NAMED + "repeats: 2\n", "adapter.alpha=16", "seed=3")
    trials = proposed(plan, tmp_path)
    assert plan.trials == len(trials) == 10
    told = [(t.overrides.get("named"), t.overrides.get("adapter.rank"), t.config["seed"]) for t in trials]
    assert told[:6] == [
        ("usual", 4, 3),
        ("usual", 4, 4),
        ("wide", 32, 3),
        ("wide", 32, 4),
        (None, 2, 3),
        (None, 2, 4),
    ]
    first, second = trials[4], trials[5]
    assert {**first.config, "seed": 0, "name": ""} == {**second.config, "seed": 0, "name": ""}
    assert first.overrides == {"adapter.rank": 2, "adapter.alpha": 8, "seed": 3}


EARLIER = """\
space: {adapter.rank: "2,4,8", optim.lr: "interval(0.001, 0.01)"}
sampler: {name: tpe, warm_start: [before]}
"""


def finished_sweep(world: World, home: Path, *words: str) -> SweepPlan:
    """A sweep ``before`` in the ledger with twelve trials that finished."""
    plan = sweep_of(world, home, EARLIER.replace("warm_start: [before]", "seed: 1"), *words)
    with Ledger.open(home) as ledger:
        sweep = register(replace(plan, name="before"), ledger)
        for number in range(12):
            point = {"adapter.rank": 2 + 2 * (number % 2), "optim.lr": 0.001 + number / 2000}
            config = plan.trial_config(number, override_words(point))
            name = f"before-{number:02}"
            ledger.add(RunRow(name, "trial", str(home / name), to_dict(config), point, parent="before", number=number))
            ledger.set_state(name, RunState.RUNNING)
            ledger.record(TrialReport(name, 24, {"eval/loss": float(number)}), 0)
            ledger.set_state(name, RunState.FINISHED)
    assert sweep.name == "before"
    return plan


def test_a_sweep_learns_from_an_earlier_one_and_keeps_what_it_learned(world: World, tmp_path: Path) -> None:
    cold = finished_sweep(world, tmp_path)
    warm = sweep_of(world, tmp_path, EARLIER)
    assert [each.value for each in warm.earlier] == [float(number) for number in range(12)]
    assert warm.earlier[0].point == {"adapter.rank": 2, "optim.lr": 0.001}
    asked = next_trial(warm, tmp_path, [], {})
    assert asked != next_trial(cold, tmp_path, [], {})
    with Ledger.open(tmp_path) as ledger:
        row = register(warm, ledger)
        ledger.set_state("before", RunState.RUNNING)
        ledger.set_state("before", RunState.KILLED)
        again = stored_plan(ledger.get(row.name))
    assert again.earlier == warm.earlier
    assert next_trial(again, tmp_path, [], {}) == asked


def test_an_earlier_sweep_whose_values_mean_something_else_is_refused(world: World, tmp_path: Path) -> None:
    finished_sweep(world, tmp_path, "data.validation_fraction=0.2")
    with pytest.raises(UsageError, match="before cannot be learned from: its eval/loss was measured on other held-out"):
        sweep_of(world, tmp_path, EARLIER)
    with pytest.raises(UsageError, match="its metric is eval/loss, not eval/perplexity"):
        sweep_of(world, tmp_path, EARLIER + "metric: eval/perplexity\n")
    with pytest.raises(UsageError, match="before-00 cannot be learned from: it is a trial, not a sweep"):
        sweep_of(world, tmp_path, EARLIER.replace("[before]", "[before-00]"))
    with pytest.raises(UsageError, match="no trial of it has a result within the space"):
        sweep_of(world, tmp_path, EARLIER.replace('"2,4,8"', '"16,32"'), "data.validation_fraction=0.2")


def test_a_notebook_has_to_say_whether_it_goes_on_with_the_same_sweep(world: World, tmp_path: Path) -> None:
    plan = sweep_of(world, tmp_path, 'space: {adapter.rank: "2,4"}\n')
    with Ledger.open(tmp_path) as ledger:
        register(plan, ledger)
    with pytest.raises(UsageError, match=r"s is the same sweep and is waiting\n  -> resume=True goes on with it"):
        ftcluster.sweep(tmp_path / "s.yaml")


def test_what_deepspeed_cannot_do_is_refused_in_the_base_unless_trials_decide_it(world: World, tmp_path: Path) -> None:
    sharded = world.words("engine.name=deepspeed", "cluster.ranks=2", f"home={tmp_path}")
    offload = compose([*sharded, "engine.offload_parameters=cpu"])
    with pytest.raises(ConfigError, match=r"engine.offload_parameters needs engine.stage=3"):
        make_plan(SweepConfig(name="s", space={"adapter.rank": "choice(2, 4)"}), offload)
    made = make_plan(SweepConfig(name="s", space={"engine.stage": "choice(2, 3)"}), offload)
    assert made.trial_config(0, ["engine.stage=3"]).engine.stage == 3
    with pytest.raises(ConfigError, match=r"engine.offload_parameters needs engine.stage=3"):
        made.trial_config(0, ["engine.stage=2"])
