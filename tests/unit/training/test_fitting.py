"""Smaller micro-batches of the same batch, remembered by the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftcluster.config.schema import ClusterConfig, OptimConfig, RunConfig
from ftcluster.engine.shortage import leave_word, word_left
from ftcluster.training.fitting import does_not_fit, halve, in_use, in_words, smaller
from ftcluster.training.memory_record import read_memory


def config(**optim: int) -> RunConfig:
    return replace(RunConfig(), optim=replace(OptimConfig(), **optim))


@pytest.mark.parametrize(
    ("batch", "micro", "expected"),
    [(16, 16, 8), (12, 12, 6), (12, 4, 2), (15, 15, 5), (9, 3, 1), (7, 7, 1), (6, 1, None)],
)
def test_rows_become_the_largest_divisor_of_the_batch_that_is_at_most_half(
    batch: int, micro: int, expected: int | None
) -> None:
    made = smaller(config(batch_size=batch, micro_batch=micro), 1000, 10)
    assert (made.optim.micro_batch if made else None) == expected
    assert made is None or made.optim.batch_size == batch


@pytest.mark.parametrize(
    ("tokens", "widest", "longest", "expected"),
    [(4096, 4096, 300, 2048), (4096, 4096, 3000, 3000), (65_536, 5000, 300, 2500), (512, 512, 512, None)],
)
def test_tokens_become_half_of_what_there_really_was_but_hold_the_longest_row(
    tokens: int, widest: int, longest: int, expected: int | None
) -> None:
    made = smaller(config(micro_tokens=tokens), widest, longest)
    assert (made.optim.micro_tokens if made else None) == expected


def test_every_rank_keeps_a_row() -> None:
    several = replace(config(batch_size=16, micro_batch=4), cluster=replace(ClusterConfig(), ranks=4))
    assert smaller(several, 1000, 10) is None


def test_a_run_remembers_what_fits_and_is_halved_twice_at_most(tmp_path: Path) -> None:
    own = config(batch_size=16, micro_batch=16)
    assert in_use(own, tmp_path) == own
    words = []
    now: RunConfig | None = own
    while now := halve(now, tmp_path, 1000, 10):
        words.append(in_words(now))
        assert in_use(own, tmp_path) == now
    assert words == ["optim.micro_batch=8", "optim.micro_batch=4"]
    assert read_memory(tmp_path).halved == 2


def test_what_a_rank_left_word_of_is_dealt_with_by_halving(tmp_path: Path) -> None:
    leave_word(tmp_path, 1, MemoryError("none left"))
    assert halve(config(batch_size=16, micro_batch=16), tmp_path, 1000, 10)
    assert word_left(tmp_path) == ""


def test_what_cannot_be_made_smaller_is_told_with_what_was_tried_and_what_helps(tmp_path: Path) -> None:
    run = tmp_path / "a-run"
    run.mkdir()
    assert str(does_not_fit(config(micro_tokens=512), run, MemoryError())).startswith(
        "a-run: out of memory with optim.micro_tokens=512: MemoryError\n  -> set engine.activation_checkpointing=true"
    )
    made = halve(config(batch_size=4, micro_batch=4), run, 1000, 10)
    assert made is not None
    told = does_not_fit(made, run, RuntimeError("no memory\nmore lines"))
    assert told.message == "out of memory with optim.micro_batch=2, after halving it once: no memory"


def test_a_damaged_record_is_none(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"halved": "twice", "micro_batch": null}'):
        (tmp_path / "memory.json").write_text(text)
        assert in_use(config(micro_batch=4), tmp_path) == config(micro_batch=4)
