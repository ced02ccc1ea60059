"""Greedy answers: the most likely token each time, whatever the folder's own settings say."""

from __future__ import annotations

import pytest
import torch
from model_samples import save_sample

from ftcluster.models.base import Base, load_base
from ftcluster.models.generation import generate, stop_tokens

PROMPTS = [[5, 6, 7, 8], [9, 10], [11], [20, 21, 22, 23, 24, 25, 26], [30, 31]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    torch.set_num_threads(1)
    return load_base(save_sample("qwen2", tmp_path_factory.mktemp("models") / "qwen2"))


@torch.no_grad()
def most_likely(base: Base, prompt: list[int], count: int, stops: list[int]) -> list[int]:
    """The definition: append the token of the largest logit until there are enough or one stops."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count and not (len(tokens) > len(prompt) and tokens[-1] in stops):
        tokens.append(int(base.model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_answers_are_the_most_likely_tokens_one_by_one(base: Base) -> None:
    expected = [most_likely(base, prompt, 12, stops=[2]) for prompt in PROMPTS]
    assert len({tuple(row) for row in expected}) > 1
    assert generate(base, PROMPTS, 12) == expected


def test_an_answer_ends_with_the_first_stop_token(base: Base) -> None:
    free = most_likely(base, PROMPTS[0], 12, stops=[])
    stop = free[3]
    (found,) = generate(base, [PROMPTS[0]], 12, stops=[stop])
    assert found == free[: free.index(stop) + 1]
    assert found == most_likely(base, PROMPTS[0], 12, stops=[stop])


def test_batches_of_any_size_give_the_same_answers_in_the_order_of_the_prompts(base: Base) -> None:
    together = generate(base, PROMPTS, 6)
    assert generate(base, PROMPTS, 6, batch=2) == together
    assert generate(base, PROMPTS[::-1], 6, batch=1) == together[::-1]
    assert generate(base, [], 6) == []


def test_penalties_beams_and_sampling_of_the_folder_do_not_make_answers_less_greedy(base: Base) -> None:
    expected = generate(base, PROMPTS, 8)
    own = base.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.num_beams = 5.0, 1, 3
    own.do_sample, own.temperature, own.top_p = True, 0.3, 0.5
    try:
        assert generate(base, PROMPTS, 8) == expected
        assert base.model.generation_config is own, "the folder's settings are those of the exported model too"
    finally:
        own.repetition_penalty, own.no_repeat_ngram_size, own.num_beams, own.do_sample = 1.0, 0, 1, False


def test_a_model_stops_at_its_own_ends_and_its_tokenizers(base: Base) -> None:
    tokenizer_end = base.tokenizer.eos_token_id
    assert stop_tokens(base) == sorted({2, tokenizer_end})
    base.model.generation_config.eos_token_id = [7, 9]
    try:
        assert stop_tokens(base) == sorted({7, 9, tokenizer_end})
    finally:
        base.model.generation_config.eos_token_id = 2
