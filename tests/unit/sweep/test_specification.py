"""What a sweep file and words come to, and what is refused before the first trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftcluster.config.catalog import flat
from ftcluster.config.compose import override
from ftcluster.config.grammar import parse_space
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.values import build, to_dict
from ftcluster.errors import ConfigError
from ftcluster.sweep.bundles import named_point, named_values, swept_keys
from ftcluster.sweep.space import Space, describe, grid
from ftcluster.sweep.specification import check_space, read_space, read_sweep

FILE = """\
name: rates
base: [experiment=lora_sft]
space:
  adapter.rank: choice(4, 8)
  optim.lr: tag(log, interval(1e-4, 1e-2))
sampler: {name: random}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rates.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def refused(file: Path, *words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_sweep(file, words)
    assert caught.value.where == str(file)
    return caught.value.problems


def test_a_fixed_word_takes_its_key_out_of_the_space(file: Path) -> None:
    spec, base = read_sweep(file, ["adapter.rank=16"])
    assert spec.space == {"optim.lr": "tag(log, interval(1e-4, 1e-2))"}
    assert base.adapter.rank == 16


def test_a_swept_word_changes_or_joins_the_space(file: Path) -> None:
    spec, _ = read_sweep(file, ["adapter.rank=2,3", "optim.warmup=choice(0.0,0.1)"])
    assert spec.space == {
        "adapter.rank": "2,3",
        "optim.lr": "tag(log, interval(1e-4, 1e-2))",
        "optim.warmup": "choice(0.0,0.1)",
    }


def test_a_grid_over_an_interval_is_refused_when_the_file_is_read(file: Path) -> None:
    (problem,) = refused(file, "sampler.name=grid")
    assert problem.startswith("space.optim.lr: the grid sampler cannot enumerate an interval; use range(1, 10, 2)")


def test_adapter_keys_that_a_full_fine_tune_ignores_are_refused(file: Path) -> None:
    assert refused(file, "adapter=none") == [
        "space.adapter.rank changes nothing in a full fine-tune (adapter=none); leave it out."
    ]
    read_sweep(file, ["adapter=none", "adapter.rank=8"])


def points(file: Path, *words: str) -> list[dict[str, Any]]:
    spec, base = read_sweep(file, ["sampler.name=grid", "optim.lr=1e-3", *words])
    return list(grid(read_space(spec, base)))


def test_where_some_trials_have_no_adapter_its_keys_belong_to_the_others(file: Path) -> None:
    assert points(file, "adapter.kind=none,lora") == [
        {"adapter.kind": "none"},
        {"adapter.rank": 4, "adapter.kind": "lora"},
        {"adapter.rank": 8, "adapter.kind": "lora"},
    ]


def test_keys_of_sharding_are_left_alone_without_it(file: Path) -> None:
    found = points(file, "adapter.rank=4", "engine.name=local,deepspeed", "engine.stage=1,2")
    assert [point.get("engine.stage") for point in found] == [None, 1, 2]
    assert refused(file, "engine.stage=1,2") == [
        "space.engine.stage changes nothing without DeepSpeed (engine=deepspeed); leave it out."
    ]


def test_patience_is_refused_where_a_full_fine_tune_would_have_no_result(file: Path) -> None:
    assert refused(file, "adapter.kind=none,lora", "pruner.patience=2") == [
        "pruner.patience ends trials early, and a full fine-tune writes its model at its end only."
    ]


def test_a_group_in_a_space_stands_for_the_keys_that_its_options_set(file: Path) -> None:
    spec, base = read_sweep(file, ["sampler.name=grid", "optim.lr=1e-3", "adapter=lora,none", "adapter.rank=4,8"])
    space = read_space(spec, base)
    assert list(grid(space)) == [
        {"adapter.rank": 4, "adapter": "lora"},
        {"adapter": "none"},
        {"adapter.rank": 8, "adapter": "lora"},
    ]
    (full,) = [point for point in grid(space) if point["adapter"] == "none"]
    assert space.words(full)[0] == "adapter.kind=none"
    lora = override(base, space.words({"adapter": "lora", "adapter.rank": 4}))
    assert lora.adapter.rank == 4
    assert space.located(flat(lora)) == {"adapter.rank": 4, "adapter": "lora"}
    assert space.located(flat(override(base, space.words(full)))) == full
    assert swept_keys(spec) >= {"adapter.kind", "adapter.rank"}


def test_an_option_of_a_group_that_is_not_there_is_refused(file: Path) -> None:
    (problem,) = refused(file, "adapter=lora,nome")
    assert problem.startswith("space.adapter: adapter=nome: adapter has no such option. Did you mean none?")


RULES = """\
name: rules
base: [experiment=lora_sft, optim.micro_batch=4]
space:
  adapter.rank: choice(4, 8)
  optim.batch_size: choice(8, 12)
variants:
  recipe:
    careful: [optim.lr=1e-4, adapter=lora_qv]
    bold: [optim.lr=1e-2]
when:
  adapter.rank: recipe == 'bold'
constraints:
  - optim.batch_size % 8 == 0 or adapter.rank < 8
always:
  baseline: [recipe=bold, adapter.rank=4, optim.batch_size=8]
  wide: [adapter.rank=64, optim.lr=1e-3]
sampler: {name: grid}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES, encoding="utf-8")
    return path


def test_variants_conditions_and_constraints_make_the_points_of_a_space(rules: Path) -> None:
    spec, base = read_sweep(rules, [])
    space = read_space(spec, base)
    assert [tuple(point.values()) for point in grid(space)] == [
        ("careful", 8),
        ("bold", 4, 8),
        ("bold", 4, 12),
        ("bold", 8, 8),
    ]  # rank 8 is the base's, so careful with 12 breaks the constraint too
    config = override(base, space.words({"optim.batch_size": 8, "recipe": "careful"}))
    assert (config.optim.lr, config.adapter.targets) == (1e-4, ["q_proj", "v_proj"])
    said = describe(space).splitlines()
    assert said[1] == "adapter.rank      4, 8   where recipe == 'bold'"
    assert said[-2:] == [
        "only where optim.batch_size % 8 == 0 or adapter.rank < 8",
        "4 points; 2 more would break a constraint and are left out",
    ]


def test_a_spec_that_was_read_says_by_itself_what_its_trials_are(rules: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf" / "adapter"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text("rank: 3\n")
    spec, base = read_sweep(rules, ["adapter=mine,lora"], config_dir=tmp_path / "conf")
    again = build(SweepConfig, to_dict(spec))
    assert again == spec
    space = read_space(again, base)
    assert override(base, space.words({"adapter": "mine"})).adapter.rank == 3


def test_a_named_trial_is_where_its_words_put_it_and_may_be_outside_the_space(rules: Path) -> None:
    spec, base = read_sweep(rules, [])
    space = read_space(spec, base)
    assert named_point(spec, space, "baseline") == {"adapter.rank": 4, "optim.batch_size": 8, "recipe": "bold"}
    assert named_point(spec, space, "wide") is None
    assert {"optim.lr": 1e-2, "adapter.rank": 4, "optim.batch_size": 8}.items() <= named_values(
        spec, "baseline"
    ).items()


def test_all_that_is_wrong_with_rules_variants_and_named_trials_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        """\
name: wrong
base: [experiment=lora_sft]
space: {optim.lr: "1e-3,1e-4", adapter.rank: "choice(4, 8)"}
variants:
  recipe: {bold: [optim.lr=1e-2, optim.clap=1], calm: [home=x]}
when: {adapter.rank: "adapter.rang > 3", optim.clip: "optim.lr > 1"}
constraints: ["optim.clip > 0", "optim.schedule < 3 and optim.lr > 0"]
always: {odd: [adapter.rank=0], lost: [recipe=none]}
"""
    )
    assert refused(path) == [
        "variants.recipe.bold: optim.clap is not a known key. Did you mean optim.clip?",
        "variants.recipe.calm: home does not change what a trial learns.",
        "always.lost: recipe=none: there is no such option.",
        "when.adapter.rank: adapter.rang is not a config key. Did you mean adapter.rank or adapter.dora?",
        'constraints: "optim.clip > 0" looks at no key of the space, so it is the same for every trial.',
        'constraints: "optim.schedule < 3 and optim.lr > 0" cannot be worked out: '
        "'<' not supported between instances of 'str' and 'int'.",
        "when.optim.clip: the space has no such key.",
        "always.odd: adapter.rank=0 must be at least 1.",
    ]


def test_a_key_that_two_places_set_is_refused(rules: Path) -> None:
    assert refused(rules, "optim.lr=1e-3,1e-4") == [
        "space.optim.lr is set by the variants of recipe too; keep one of them."
    ]


def test_conditions_that_wait_for_each_other_and_constraints_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "circle.yaml"
    path.write_text(
        FILE + "when: {adapter.rank: optim.lr > 1e-3, optim.lr: adapter.rank > 4}\nconstraints: [adapter.rank > 9]\n"
    )
    assert refused(path) == ["when: the conditions of adapter.rank, optim.lr depend on each other."]
    path.write_text(FILE.replace("tag(log, interval(1e-4, 1e-2))", "1e-3") + "constraints: [adapter.rank > 9]\n")
    assert refused(path) == ["no point of it keeps all constraints."]
    path.write_text(FILE + "constraints: [optim.lr > 1]\n")
    assert refused(path) == ["no point of it keeps all constraints."]


def test_problems_of_base_sweep_and_space_come_at_once(file: Path) -> None:
    assert refused(file, "optim.clip=-1", "metric=eval/los", "adapter.dropout=choice(0.1,7)") == [
        "optim.clip=-1 must be at least 0.",
        "metric=eval/los does not exist. Did you mean eval/loss? Known: eval/loss, eval/perplexity, eval/exact_match.",
        "adapter.dropout=7 must be at least 0 and below 1.",
    ]


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ({"adapter.rank": "range(0, 9, 4)"}, "adapter.rank=0 must be at least 1."),
        ({"optim.warmup": "interval(0.0, 1.5)"}, "optim.warmup=1.5 must be at least 0 and below 1."),
        ({"optim.schedule": "choice(cosine, cosin)"}, "optim.schedule=cosin does not exist. Did you mean cosine?"),
        ({"optim.duration": "choice(1 epochs, 3 weeks)"}, 'optim.duration: "3 weeks" is not a duration'),
    ],
)
def test_values_out_of_range_are_refused_before_the_first_trial(expression: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_space(Space(parse_space(expression)), RunConfig())
    assert [found[: len(problem)] for found in caught.value.problems] == [problem]


def test_ends_of_an_interval_that_no_trial_draws_are_no_problem() -> None:
    space = parse_space({"optim.lr": "interval(0, 1)", "adapter.dropout": "interval(0, 1)"})
    check_space(Space(space), RunConfig())


def test_every_value_of_a_space_is_tried_before_the_first_trial() -> None:
    space = parse_space(
        {
            "optim.rl": "choice(1e-3, 1e-4)",
            "adapter.rank": "choice(4, 8.5, many)",
            "optim.batch_size": "interval(4.0, 16)",
            "seed": "range(1, 4)",
            "optim.lr": "tag(log, interval(1e-5, 1e-2))",
            "adapter.targets": "choice([all-linear], [q_proj, v_proj])",
        }
    )
    with pytest.raises(ConfigError) as caught:
        check_space(Space(space), RunConfig())
    unknown, *wrong = caught.value.problems
    assert unknown == "optim.rl is not a known key. Did you mean optim.lr or optim.clip?"
    assert [problem.split(":")[1] for problem in wrong] == [
        " expected a whole number, got a fraction.",
        " expected a whole number, got text.",
        " expected a whole number, got a fraction.",
    ]
    assert [problem.split("=")[0] for problem in wrong] == ["adapter.rank", "adapter.rank", "optim.batch_size"]
    assert caught.value.where == "space"
