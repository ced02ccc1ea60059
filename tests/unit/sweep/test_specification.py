"""What a sweep file and words come to, and what is refused before the first trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftcluster.config.grammar import parse_space
from ftcluster.config.schema import RunConfig
from ftcluster.errors import ConfigError
from ftcluster.sweep.specification import check_space, read_sweep

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
    assert refused(file, "adapter.kind=none,lora") == [
        "space.adapter.kind with space.adapter.rank would train the same full fine-tune once for each of its values; "
        "sweep full fine-tunes and adapters separately, and compare the two."
    ]
    read_sweep(file, ["adapter.rank=8", "adapter.kind=none,lora"])
    read_sweep(file, ["adapter=none", "adapter.rank=8"])


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
        check_space(parse_space(expression), RunConfig())
    assert [found[: len(problem)] for found in caught.value.problems] == [problem]


def test_ends_of_an_interval_that_no_trial_draws_are_no_problem() -> None:
    check_space(parse_space({"optim.lr": "interval(0, 1)", "adapter.dropout": "interval(0, 1)"}), RunConfig())


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
        check_space(space, RunConfig())
    unknown, *wrong = caught.value.problems
    assert unknown == "optim.rl is not a known key. Did you mean optim.lr or optim.clip?"
    assert [problem.split(":")[1] for problem in wrong] == [
        " expected a whole number, got a fraction.",
        " expected a whole number, got text.",
        " expected a whole number, got a fraction.",
    ]
    assert [problem.split("=")[0] for problem in wrong] == ["adapter.rank", "adapter.rank", "optim.batch_size"]
    assert caught.value.where == "space"
