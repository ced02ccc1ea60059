"""A sweep file and the words that change it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.config.schema import BudgetConfig, PrunerConfig, SamplerConfig, SweepConfig
from ftcluster.config.sweepfile import is_sweep, load_sweep
from ftcluster.config.yamlfile import read
from ftcluster.errors import ConfigError

GOOD = """\
# ftcluster sweep lr_and_rank.yaml
base: [experiment=lora_sft]
space:
  optim.lr: tag(log, interval(1e-5, 1e-2))
  adapter.rank: choice(4, 8)
  adapter.targets: [[q_proj], [q_proj, v_proj]]
sampler: {name: grid}
pruner:
  name: halving
  first: 20 steps
budget: {trials: 6}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, GOOD)


def write(folder: Path, text: str) -> Path:
    path = folder / "LR_and rank.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | str, *words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_sweep(path, words)
    return caught.value.problems if len(caught.value.problems) > 1 else str(caught.value).splitlines()


def test_a_file_becomes_a_sweep_with_a_name_made_from_the_files(file: Path) -> None:
    sweep, rest = load_sweep(file)
    assert sweep == SweepConfig(
        name="lr-and-rank",
        base=["experiment=lora_sft"],
        space={
            "optim.lr": "tag(log, interval(1e-5, 1e-2))",
            "adapter.rank": "choice(4, 8)",
            "adapter.targets": [["q_proj"], ["q_proj", "v_proj"]],
        },
        sampler=SamplerConfig(name="grid"),
        pruner=PrunerConfig(name="halving", first="20 steps"),
        budget=BudgetConfig(trials=6),
    )
    assert rest == []


def test_words_set_fields_of_the_sweep_and_the_others_are_left_for_its_trials(file: Path) -> None:
    words = ["budget.trials=4", "optim.lr=choice(1e-3,1e-4)", "sampler.name=random", "model=tiny", "pruner.eta=3"]
    words += ["name=other", "metric=eval/perplexity", "direction=minimize", "seed=3", "data.train=[数据.jsonl]"]
    sweep, rest = load_sweep(file, words)
    assert (sweep.budget.trials, sweep.sampler.name, sweep.pruner.eta, sweep.pruner.first) == (
        4,
        "random",
        3,
        "20 steps",
    )
    assert (sweep.name, sweep.metric) == ("other", "eval/perplexity")
    assert rest == ["optim.lr=choice(1e-3,1e-4)", "model=tiny", "seed=3", 'data.train=["数据.jsonl"]']


def test_wrong_keys_and_types_come_with_their_lines_all_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "bass: [x]\nspace:\n  optim.rl: choice(1, 2)\nsampler:\n  nam: grid\nbudget:\n  trials: many\n",
    )
    assert refused(path) == [
        f"{path}:1: bass is not a known key. Did you mean base?",
        f"{path}:5: sampler.nam is not a known key. Did you mean sampler.name?",
        f"{path}:7: budget.trials=many: expected a whole number, got text.",
    ]


def test_a_key_that_no_trial_has_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "space:\n  optim.rl: choice(1, 2)\n")
    assert refused(path) == [f"{path}:2: space.optim.rl is not a known key. Did you mean optim.lr or optim.clip?"]


def test_groups_that_every_trial_shares_are_not_swept(tmp_path: Path) -> None:
    path = write(tmp_path, "space:\n  tracking: [mlflow]\n  adapter: [lora_all, lora_qv]\n")
    said = "is the same for all trials of a sweep; choose it once."
    assert refused(path, "cluster=ray,embedded", "model=tiny,folder", "data=demo") == [
        f"{path}:2: space.tracking {said}",
        f"cluster=ray,embedded: cluster {said}",
    ]


VARIANTS = """\
variants:
  recipe:
    careful: [optim.lr=1e-4, "optim.warmup=0.1"]
    bold: optim.lr=1e-3
space: {}
"""


def test_a_variant_is_a_key_of_the_space_with_all_its_options_unless_words_choose(tmp_path: Path) -> None:
    path = write(tmp_path, VARIANTS)
    sweep, _ = load_sweep(path)
    assert sweep.space == {"recipe": ["careful", "bold"]}
    assert sweep.variants == {"recipe": {"careful": ["optim.lr=1e-4", "optim.warmup=0.1"], "bold": ["optim.lr=1e-3"]}}
    sweep, rest = load_sweep(path, ["recipe=bold", "optim.clip=1"])
    assert (sweep.space, rest) == ({"recipe": "bold"}, ["optim.clip=1"])


@pytest.mark.parametrize(
    ("word", "options"),
    [
        (
            "+recipe={careful: [optim.lr=1e-4, optim.warmup=0.1], bold: optim.lr=1e-3}",
            {"careful": ["optim.lr=1e-4", "optim.warmup=0.1"], "bold": ["optim.lr=1e-3"]},
        ),
        (
            "+recipe=[[optim.lr=1e-4,'adapter.targets=[q_proj]'],[],optim.lr=1e-3]",
            {"option-1": ["optim.lr=1e-4", "adapter.targets=[q_proj]"], "option-2": [], "option-3": ["optim.lr=1e-3"]},
        ),
    ],
)
def test_variants_can_be_added_on_the_command_line(file: Path, word: str, options: dict[str, list[str]]) -> None:
    sweep, rest = load_sweep(file, [word, "optim.clip=1"])
    assert (sweep.variants, rest) == ({"recipe": options}, ["optim.clip=1"])
    assert sweep.space["recipe"] == list(options)
    assert "optim.lr" in sweep.space


def test_variants_on_the_command_line_add_to_those_of_the_file_and_may_be_chosen_from(tmp_path: Path) -> None:
    path = write(tmp_path, VARIANTS)
    sweep, _ = load_sweep(path, ["+recipe={late: [optim.warmup=0.5]}", "recipe=late,bold"])
    assert sweep.variants["recipe"]["late"] == ["optim.warmup=0.5"]
    assert (list(sweep.variants["recipe"]), sweep.space) == (["careful", "bold", "late"], {"recipe": "late,bold"})


@pytest.mark.parametrize("value", ["3", "[]", "[1,2]", "{a: {b: c}}", "[[optim.lr=1],[2]]", "1,2"])
def test_what_is_no_list_of_overrides_is_refused_with_an_example(file: Path, value: str) -> None:
    assert (
        f"+recipe={value}: variants are lists of overrides that belong together; write for example "
        "'+recipe=[[optim.lr=1e-4,optim.warmup=0.1],[optim.lr=3e-3]]'."
    ) in [problem.replace('"', "") for problem in refused(file, f"+recipe={value}")]


def test_a_key_of_the_config_is_no_name_for_variants(file: Path) -> None:
    assert "variants.seed must be a plain word of your own" in refused(file, "+seed=[[optim.lr=1]]")[0]


def test_names_of_variants_are_plain_words_of_ones_own(tmp_path: Path) -> None:
    path = write(
        tmp_path, "variants:\n  adapter: {a: [seed=1]}\n  empty: {}\n  mine: {1e-4: [seed=1]}\nspace: {seed: 3}\n"
    )
    assert refused(path) == [
        f"{path}:2: variants.adapter must be a plain word of your own, not a key or group of the config.",
        f"{path}:3: variants.empty has no options; write empty: {{careful: [optim.lr=1e-4], ...}}.",
        f"{path}:4: variants.mine.0.0001 must be a plain word, such as careful.",
    ]


def test_unknown_words_are_compared_with_keys_of_sweeps_and_runs(file: Path) -> None:
    assert refused(file, "samplr.name=grid", "optm.lr=1", "space.optim.lr=1", "budget.trials=1,2", "oops") == [
        '"oops" is not an override; write key=value, such as optim.lr=1e-3 or model=tiny.',
        "budget.trials=1,2: a sweep has one budget.trials.",
        "samplr.name is not a known key. Did you mean sampler.name?",
        "optm.lr is not a known key. Did you mean optim.lr?",
        "space.optim.lr=1: write the key itself, such as optim.lr=choice(1e-3,1e-4), to change what is swept.",
    ]


def test_a_file_that_is_not_there_names_the_shipped_sweeps() -> None:
    (line,) = refused("no_such_sweep")
    assert line.startswith("no_such_sweep: no such sweep file.")


def test_every_shipped_sweep_loads_by_its_bare_name() -> None:
    from ftcluster.config.environment import sweeps_folder

    for shipped in sweeps_folder().glob("*.yaml"):
        sweep, _ = load_sweep(shipped.stem)
        assert sweep.space


def test_a_sweep_is_told_from_an_experiment(file: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "e.yaml"
    experiment.write_text("# @package _global_\noptim: {lr: 1}\n")
    assert is_sweep(read(file))
    assert not is_sweep(read(experiment))


def test_several_metrics_are_one_to_judge_by_and_others_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path, "space: {seed: 1}\nmetric: [eval/loss, trial/tokens_per_s]\n")
    sweep, _ = load_sweep(path)
    assert (sweep.metric, sweep.direction, sweep.also) == (
        "eval/loss",
        "minimize",
        {"trial/tokens_per_s": "maximize"},
    )
    sweep, _ = load_sweep(path, ["metric=[eval/exact_match,eval/loss]", "direction=[maximize,minimize]"])
    assert (sweep.metric, sweep.direction, sweep.also) == ("eval/exact_match", "maximize", {"eval/loss": "minimize"})
    assert refused(path, "direction=[minimize]") == [
        "direction must be a list like metric, with minimize or maximize for each of its entries."
    ]
