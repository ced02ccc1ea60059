"""What words may say of a run or a sweep that goes on: how it is computed from now on, never what.

Owns the list of those keys. Checkpoints know of no layout, so the numbers change by rounding only, and by which dropout
masks are drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ftcluster.config import words as override_words
from ftcluster.config.catalog import flat
from ftcluster.config.checks import check
from ftcluster.config.compose import override
from ftcluster.config.schema import RunConfig
from ftcluster.config.values import settable, show
from ftcluster.config.words import Word
from ftcluster.errors import ConfigError, Problems

# Device and precision are not among them: products in other precision are other results.
_KEYS = (
    "engine.name",
    "engine.mode",
    "engine.activation_checkpointing",
    "engine.stage",
    "engine.offload_optimizer",
    "engine.offload_parameters",
    "engine.nvme",
    "engine.hpz",
    "engine.deepspeed_json",
    "engine.threads",
    "engine.keep_checkpoints",
    "engine.checkpoint_every",
    "optim.micro_batch",  # the rows of a step are the same, and its loss is a sum over all of them
    "optim.micro_tokens",
)
_SECTION = "cluster."  # where it runs and what it reserves, whatever the key


def resumed(config: RunConfig, words: Sequence[str], *, swept: Collection[str] = ()) -> RunConfig:
    """A stored config with the words for how it goes on; ``swept`` keys are what a sweep's space is about.

    Raises:
        ConfigError: words for other keys, or what they make of the config cannot be; every problem found.
    """
    found, sound = Problems(), list[str]()
    for text in words:
        with found.collected():
            word = override_words.parse(text)
            _check_key(word, swept)
            sound.append(text)
    with found.collected():
        config = override(config, sound)
        check(config)
    found.refuse()
    return config


def changes(before: RunConfig, after: RunConfig) -> dict[str, str]:
    """The keys in which two configs differ, with their later values as they would be typed."""
    old = flat(before)
    return {key: show(value) for key, value in flat(after).items() if value != old[key]}


def _check_key(word: Word, swept: Collection[str]) -> None:
    if word.key in swept:
        raise ConfigError([f"{word}: the sweep's space depends on {word.key}, so its trials keep theirs."])
    taken = word.key in _KEYS or word.key.startswith(_SECTION)
    if not taken and settable(RunConfig, word.key):  # of others `override` tells what they are not
        raise ConfigError(
            [f"{word} may change the result, and what goes on keeps what it began with."],
            remedy=f"start anew with it; these may change: {_SECTION}*, {', '.join(_KEYS)}",
        )
