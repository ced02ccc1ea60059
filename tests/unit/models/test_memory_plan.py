"""Bytes of layouts by hand, the order in which layouts are tried, and what is said where none fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_samples import save_sample

from ftcluster.contracts.ports import OptimizerSettings
from ftcluster.engine.memory import peak
from ftcluster.engine.packed.adamw import Update
from ftcluster.engine.packed.bank import Bank, Site
from ftcluster.models.base import skeleton
from ftcluster.models.memory import (
    BUCKET,
    STEP,
    Footprint,
    Head,
    Layout,
    Line,
    Numbers,
    Passes,
    Training,
    count,
    footprint,
    trials_beside,
)
from ftcluster.models.parallel import Choice, Wishes, choose, describe, layouts, room, what_would_fit
from ftcluster.models.size import parameters

GIB = 2**30
NOTHING = Line(0, 0)
NO_HEAD = Head(vocabulary=0, hidden=0, width=2)


def numbers(total: int) -> Numbers:
    return Numbers(0, total, 0, 0, layers=1, widest=total // 10, vocabulary=0, hidden=0)


def passes(layout: Layout) -> Passes:
    """1 MiB for a token, a tenth of it where activations are computed again."""
    kept = Line(0, 2**20 / (10 if layout.checkpointing else 1))
    return Passes(kept, kept, NO_HEAD)


def full(total: int, weight: int = 2) -> Training:
    return Training(numbers(total), weight, 2, length=512, passes=passes)


def lora(total: int, adapter: int) -> Training:
    return replace(full(total), adapter=adapter, adapter_state=18 * adapter)


def resident(training: Training, layout: Layout) -> int:
    made = footprint(training, layout)
    return made.weights + made.gradients + made.optimizer


def test_the_example_of_the_zero_paper() -> None:
    """Figure 1 there: 7.5 billion numbers on 64 GPUs, in bytes of 1e9."""
    training = full(7_500_000_000)
    held = [resident(training, Layout(64, stage)) / 1e9 for stage in range(4)]
    assert held == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)


def test_fp32_weights_are_their_own_masters_but_where_deepspeed_copies_them() -> None:
    training = full(1000, weight=4)
    assert resident(training, Layout()) == 16_000
    assert resident(training, Layout(2, 1)) == 4000 + 4000 + 6000
    assert resident(training, Layout(2, 3)) == 2000 + 2000 + 4000


def test_offload_moves_optimizer_gradients_and_then_weights_to_main_memory() -> None:
    training = full(1000)
    optimizer = footprint(training, Layout(2, 2, "optimizer"))
    assert (optimizer.weights, optimizer.gradients, optimizer.optimizer) == (2000, 0, 0)
    assert optimizer.host == 500 * 12 + 500 * 4
    weights = footprint(training, Layout(2, 3, "parameters"))
    assert (weights.weights, weights.gradients, weights.optimizer) == (0, 0, 0)
    assert weights.host == optimizer.host + 1000


def test_buffers_are_bounded_by_buckets_and_by_what_there_is() -> None:
    large, small = full(7_500_000_000), full(1000)
    assert footprint(small, Layout()).buffers == 0
    assert footprint(small, Layout(2, 1)).buffers == 3 * 1000 * 2
    assert footprint(large, Layout(2, 1)).buffers == 3 * BUCKET * 2
    assert footprint(small, Layout(2, 3)).buffers == 3 * 1000 * 2 + 1000 * 2
    assert footprint(large, Layout(2, 3)).buffers == 3 * BUCKET * 2 + 10**9 * 2


def test_a_frozen_base_costs_its_weights_and_is_divided_at_stage_3_alone() -> None:
    training = lora(1_000_000, 1000)
    alone, sharded = footprint(training, Layout()), footprint(training, Layout(4, 3))
    assert (alone.weights, alone.gradients, alone.optimizer, alone.adapter) == (2_000_000, 0, 0, 18_000)
    assert footprint(training, Layout(4, 0)).weights == 2_000_000
    assert (sharded.weights, sharded.adapter) == (500_000, 18_000)


def test_what_counts_is_the_larger_of_a_pass_and_a_step() -> None:
    assert Footprint(weights=5, activations=3, logits=2, step=4).on_gpu == 10
    assert Footprint(weights=5, activations=1, logits=2, step=4).on_gpu == 9


def test_a_step_of_packed_trials_takes_what_its_numbers_say() -> None:
    bank = Bank([Site("a", 64, 96)], 8, master=torch.float32, compute=torch.bfloat16, device=torch.device("cpu"))
    row = bank.take()
    update = Update(1, 1e-3, OptimizerSettings(lora_plus=2.0))
    numbers_of_a_row = 8 * (64 + 96)
    assert peak(lambda: bank.step({row: update}), torch.device("cpu")) == pytest.approx(
        STEP * 4 * numbers_of_a_row, rel=0.01
    )
    assert bank.row_bytes == 18 * numbers_of_a_row


def test_all_logits_take_three_tables_in_fp32_and_a_chunk_no_more_than_itself() -> None:
    whole = Head(vocabulary=1000, hidden=10, width=4)
    assert whole.at_most(50) == 3 * 4 * 50 * 1000
    assert replace(whole, width=2).at_most(50) == 3 * 4 * 50 * 1000, "losses are computed in fp32 all the same"
    chunked = replace(whole, chunk=20_000)  # 20 rows
    assert chunked.at_most(10) == 2 * 4 * 10 * 1000 + 4 * 10 * 10 * 4
    assert chunked.at_most(50) - chunked.at_most(40) == 4 * 10 * 10 * 4, "only hidden states grow"


def test_the_highest_moment_is_at_the_head_or_below_it() -> None:
    head = Head(vocabulary=100, hidden=10, width=4, gradient=4, tied=True)
    at_head = Passes(Line(0, 1000), Line(0, 1200), head)
    assert at_head.of(10) == (10_000, head.at_most(10))
    below = Passes(Line(0, 1000), Line(0, 5000), head)
    assert below.of(10) == (50_000 + 4 * 100 * 10, 0), "the tied head's gradient waits for the embedding's"


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3", "gpt2", "gpt_neox"])
def test_numbers_by_kind_add_up_to_the_models(architecture: str, tmp_path: Path) -> None:
    model = skeleton(save_sample(architecture, tmp_path))
    found = count(model)
    assert found.total == parameters(model)
    assert (found.layers, found.vocabulary, found.hidden) == (2, 320, 32)
    assert found.head in (0, 320 * 32)
    assert found.linear > found.other > 0
    assert max(found.embedding, found.linear // 2) <= found.widest < found.total


# Choosing --------------------------------------------------------------------------------------------------------


def ways(training: Training, gpus: int, wishes: Wishes) -> list[tuple[int, str, bool, int]]:
    return [(each.stage, each.offload, each.checkpointing, each.rows) for each in layouts(training, gpus, wishes)]


def test_layouts_are_tried_in_the_stated_order() -> None:
    tried = ways(full(1000), 2, Wishes(rows=4))
    assert tried[:9] == [
        (0, "none", False, 4),
        (1, "none", False, 4),
        (2, "none", False, 4),
        (0, "none", False, 2),  # 1,024 tokens: still enough for a GPU
        (1, "none", False, 2),
        (2, "none", False, 2),
        (0, "none", True, 4),
        (1, "none", True, 4),
        (2, "none", True, 4),
    ]
    assert tried.index((3, "none", True, 2)) < tried.index((0, "none", False, 1)), "stage 3 before small passes"
    assert tried[-1] == (3, "parameters", True, 1)
    assert [way[1] for way in tried] == sorted((way[1] for way in tried), key=["none", "optimizer", "parameters"].index)


def test_micro_batches_stay_equal() -> None:
    assert [way[3] for way in ways(lora(1000, 10), 1, Wishes(12, stage=0, checkpointing=False))] == [12, 6, 3, 1]
    assert [way[3] for way in ways(lora(1000, 10), 1, Wishes(7, stage=0, checkpointing=False))] == [7, 1]


def test_adapters_are_not_sharded_and_one_gpu_shards_nothing_unless_asked() -> None:
    free = Wishes(1, checkpointing=False)
    assert ways(lora(1000, 10), 2, free) == [
        (0, "none", False, 1),
        (3, "none", False, 1),
        (3, "parameters", False, 1),
    ]
    assert (1, "none", False, 1) not in ways(full(1000), 1, free)
    assert ways(full(1000), 1, replace(free, stage=1)) == [(1, "none", False, 1)]
    assert ways(full(1000), 2, replace(free, stage=0, offload="parameters")) == []


def test_the_first_layout_that_fits_is_taken_with_its_reasons() -> None:
    # 1 G numbers: 16 GB at stage 0, 10 GB at stage 1, 9 GB at stage 2 of 2 GPUs; 4 rows are 2 GiB, 4 GB of buffers
    wishes = Wishes(4)
    everything = choose(full(10**9), 80 * GIB, 2, wishes)
    assert everything is not None
    assert everything.layout == Layout(2, 0, "none", False, 4)
    assert everything.reasons == ("nothing has to be saved, so this is the fastest way",)
    sharded = choose(full(10**9), 15 * GIB, 2, wishes)
    assert sharded is not None
    assert sharded.layout == Layout(2, 1, "none", False, 4)
    assert sharded.footprint.on_gpu <= room(15 * GIB)
    assert len(sharded.reasons) == 1
    assert sharded.reasons[0].startswith("with a stage below 1 it takes 17.2 GiB at least, and 13.2 GiB")
    moved = choose(full(10**9), 8 * GIB, 1, wishes)
    assert moved is not None
    assert moved.layout.offload != "none"
    assert any("without main memory" in reason for reason in moved.reasons)
    assert choose(full(10**12), 8 * GIB, 1, wishes) is None


def test_some_memory_is_left_for_what_cannot_be_foretold() -> None:
    assert room(100 * GIB) == 94 * GIB
    assert room(GIB // 2) == 0


def test_a_layout_is_described_in_words() -> None:
    assert describe(Layout()) == "one GPU on its own, 1 row in a pass of each GPU"
    assert describe(Layout(8, 3, "parameters", True, 4)) == (
        "ZeRO-3, weights in main memory, activation checkpointing, 4 rows in a pass of each GPU"
    )


def test_what_would_fit_changes_one_thing_at_a_time() -> None:
    alone = Wishes(4, stage=0, offload="none")
    texts = what_would_fit(full(10**9), 12 * GIB, 1, alone)
    assert any(text.startswith("a GPU of 24 GiB: one GPU on its own") for text in texts)
    assert any(text.startswith("the same GPUs, left to choose: ") for text in texts)
    long = replace(full(1000), length=65_536)
    texts = what_would_fit(long, 8 * GIB, 1, Wishes(1, checkpointing=False))
    assert any(text.startswith("data.max_length=4096: ") for text in texts)
    texts = what_would_fit(full(4 * 10**9), 24 * GIB, 1, Wishes(4, offload="none"))
    assert any(text.startswith("4 GPUs of 24.0 GiB: ZeRO-3") for text in texts)
    texts = what_would_fit(lora(1000, 10**9), 12 * GIB, 1, Wishes(1))
    assert any(text.startswith("adapter.rank divided by 8: ") for text in texts)
    assert what_would_fit(full(10**15), 8 * GIB, 1, Wishes(1)) == []


def test_trials_beside_each_other_are_a_power_of_two_and_the_next_one_does_not_fit() -> None:
    training = lora(10**9, 10**6)  # 2 GB of base, 18 MB for each trial, 32 MB for its step
    tokens = 1024  # 1 GiB
    free = 4 * GIB
    fitting = trials_beside(training, free, tokens, checkpointing=False)
    assert fitting == 32
    base, each = 2 * 10**9, 18 * 10**6
    assert base + fitting * each + max(GIB, fitting * STEP * 4 * 10**6) <= free
    assert base + 2 * fitting * each + 2 * fitting * STEP * 4 * 10**6 > free
    assert trials_beside(training, GIB, tokens, checkpointing=False) == 0


def test_a_choice_tells_its_layout() -> None:
    made = Choice(Layout(), Footprint())
    assert made.words == describe(made.layout)
