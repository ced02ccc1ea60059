"""Expressions over config keys: what they mean, and what they cannot do."""

from __future__ import annotations

import pytest

from ftcluster.config.expression import Expression, read_expression
from ftcluster.errors import ConfigError

KEYS = ("optim.lr", "optim.batch_size", "optim.micro_batch", "adapter.kind", "adapter.targets", "seed")
VALUES = {
    "optim.lr": 1e-3,
    "optim.batch_size": 16,
    "optim.micro_batch": 4,
    "adapter.kind": "lora",
    "adapter.targets": ["q_proj"],
    "seed": 0,
}


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_expression(text, KEYS)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("optim.batch_size % optim.micro_batch == 0", True),
        ("optim.batch_size // 3 * 3 == optim.batch_size", False),
        ("1e-4 < optim.lr <= 1e-3", True),
        ("adapter.kind == 'none' or optim.lr > 0", True),
        ("not (adapter.kind in ['lora', \"none\"])", False),
        ("len(adapter.targets) + 1 == 2 and max(optim.micro_batch, 8) == 8", True),
        ("'q_proj' in adapter.targets", True),
        ("-optim.micro_batch + abs(-4) == false", True),
        ("optim.batch_size / seed > 1", False),
    ],
)
def test_an_expression_means_what_it_says(text: str, meaning: bool) -> None:
    assert read_expression(text, KEYS).holds(VALUES) is meaning


def test_an_expression_knows_the_keys_it_looks_at() -> None:
    assert Expression("optim.lr > 1 and len(adapter.targets) > seed").keys == {"optim.lr", "adapter.targets", "seed"}


def test_unknown_keys_and_bare_words_are_named_all_at_once() -> None:
    assert refused("optim.rl > 1 and adapter.kind == lora") == [
        "optim.rl is not a config key. Did you mean optim.lr?",
        'lora is not a config key. Text stands in quotes: "lora".',
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("__import__('os').system('true')", "only len, min, max, abs can be called."),
        ("adapter.kind.upper() == 'X'", "only len, min, max, abs can be called."),
        ("min(1, key=len)", "only len, min, max, abs can be called."),
        ("[x for x in adapter.targets]", "is not allowed"),
        ("2 ** 99999999", "is not allowed"),
        ("adapter.targets[0] == 'a'", "is not allowed"),
        ("lambda: 1", "is not allowed"),
        ("(seed := 1)", "is not allowed"),
        ("().__class__", "is not a config key"),
        ("None == 1", "is neither a number nor text"),
        ("optim.lr >", "cannot be read at character"),
        ("", "cannot be read at character"),
        ("1+" * 600 + "1", "more than 1000 characters"),
    ],
)
def test_nothing_but_arithmetic_and_comparisons_is_let_in(text: str, problem: str) -> None:
    assert problem in refused(text)[0]


def test_texts_cannot_be_made_to_grow() -> None:
    assert not read_expression("adapter.kind * 999999999 == ''", KEYS).holds(VALUES)
    assert not read_expression("'%999999999d' % seed == ''", KEYS).holds(VALUES)


def test_parts_that_do_not_go_together_are_told() -> None:
    with pytest.raises(ConfigError, match=r'"adapter.kind > 3" cannot be worked out: .*str'):
        read_expression("adapter.kind > 3", KEYS).check(VALUES)
    read_expression("1 / seed > 3", KEYS).check(VALUES)
