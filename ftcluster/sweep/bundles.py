"""Groups, variants and named trials of a sweep file -> the config keys that they set.

A group in a space (``adapter: choice(lora, none)``), an option of a variant and a trial under ``always`` are each a
list of words. They are put together with the sweep's base here, once, so that a spec says by itself what its trials
are: a resumed sweep needs no config folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcluster.config import words as override_grammar
from ftcluster.config.catalog import flat, groups
from ftcluster.config.compose import compose, override
from ftcluster.config.grammar import Choice, parse_space
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.errors import ConfigError, Problems
from ftcluster.sweep.space import Point, Settings, Space, override_words

OUTSIDE = ("name", "home", "tracking", "cluster", "evaluation")  # they do not change what a trial learns


def settled(spec: SweepConfig, base: RunConfig, config_dir: Path | None, found: Problems) -> SweepConfig:
    """The spec with words of single keys only: groups in its space have become variants.

    Words that make no config, and two places that set the same key, are noted and left out.
    """
    options = groups(config_dir)
    variants: dict[str, dict[str, list[str]]] = {}
    for name, choices in spec.variants.items():
        variants[name] = {
            option: _written(words, spec, base, config_dir, f"variants.{name}.{option}", found)
            for option, words in choices.items()
        }
    found.texts += _set_twice(variants, spec.space)
    for key in [key for key in spec.space if key in options]:
        with found.collected():
            variants[key] = {
                option: _written([f"{key}={option}"], spec, base, config_dir, f"space.{key}", found)
                for option in _options(spec.space, key)
            }
    found.texts += _set_twice(variants, {})
    always = {
        name: _written(words, spec, base, config_dir, f"always.{name}", found) for name, words in spec.always.items()
    }
    filled = {name: _filled(choices, base) for name, choices in variants.items()}
    return replace(spec, variants=filled, always={name: words for name, words in always.items() if words})


def _filled(choices: Mapping[str, Sequence[str]], base: RunConfig) -> dict[str, list[str]]:
    """Every option with all keys that any of them sets, so that a config tells which option it has."""
    values = flat(base)
    keys = dict.fromkeys(_key(word) for words in choices.values() for word in words)
    return {
        option: [*words, *override_words({key: values[key] for key in keys if key not in set(map(_key, words))})]
        for option, words in choices.items()
    }


def settings_of(spec: SweepConfig) -> Settings:
    """What the options of a settled spec's groups and variants set."""
    return {
        name: {option: read_words(words) for option, words in choices.items()}
        for name, choices in spec.variants.items()
    }


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """``["optim.lr=1e-3"]`` -> ``{"optim.lr": 0.001}``."""
    return {word.key: word.value for word in map(override_grammar.parse, words)}


def named_values(spec: SweepConfig, name: str) -> dict[str, Any]:
    """The config keys that a trial under ``always`` sets; its own words beat those of its variants."""
    given, settings = read_words(spec.always[name]), settings_of(spec)
    chosen: dict[str, Any] = {}
    for key in [key for key in given if key in settings]:
        chosen |= settings[key][str(given[key])]
    return {**chosen, **{key: value for key, value in given.items() if key not in settings}}


def named_point(spec: SweepConfig, space: Space, name: str) -> Point | None:
    """The point of the space that a trial under ``always`` is at; None: at none."""
    values = {**space.base, **named_values(spec, name)}
    given = {key: value for key, value in read_words(spec.always[name]).items() if key in space.settings}
    point = space.located({**values, **given})
    if point is None or any(space.config_values(point)[key] != value for key, value in values.items()):
        return None
    return point


def trials_at_most(spec: SweepConfig) -> int:
    """How many trials there can be, if the space has points enough."""
    return (spec.budget.trials + len(spec.always)) * spec.repeats


def swept_keys(spec: SweepConfig) -> frozenset[str]:
    """All config keys in which trials of a settled spec may differ."""
    words = [word for choices in spec.variants.values() for option in choices.values() for word in option]
    words += [word for option in spec.always.values() for word in option]
    return frozenset(key for key in (*spec.space, *map(_key, words)) if key not in spec.variants)


def _options(space: Mapping[str, Any], key: str) -> list[str]:
    dimension = parse_space({key: space[key]})[key]
    if not isinstance(dimension, Choice):
        raise ConfigError([f"space.{key}: {key} is a group; list its options, such as {key}: choice(a, b)."])
    return [str(value) for value in dimension.values]


def _written(
    words: Sequence[str], spec: SweepConfig, base: RunConfig, config_dir: Path | None, place: str, found: Problems
) -> list[str]:
    """The words, with groups written out as the keys that they change."""
    own, given = apart(words, spec)
    swept = {_key(word) for word in given}
    kept = [word for word in spec.base if _key(word) not in swept]
    try:
        check_options(own, spec)
        config = compose([*kept, *given], config_dir=config_dir)
        before, after = flat(base), flat(config)
        named = {key for key in swept if key in after}
        changed = {
            key: value
            for key, value in after.items()
            if (value != before[key] or key in named) and key.split(".")[0] not in OUTSIDE
        }
        outside = [key for key in named if key.split(".")[0] in OUTSIDE and key != "cluster.ranks"]
        if outside:
            raise ConfigError([f"{key} does not change what a trial learns." for key in sorted(outside)])
        written = override_words(changed)
        again = override(base, written)
        if any(flat(again)[key] != value for key, value in changed.items()):
            raise ConfigError(["sets of pairs, such as data.sources, cannot be swapped; name them in the base."])
    except ConfigError as error:
        found.texts += [f"{place}: {problem}" for problem in error.problems]
        return []
    return [*own, *written]


def apart(words: Sequence[str], spec: SweepConfig) -> tuple[list[str], list[str]]:
    """Those that choose options of variants, and the others."""
    own = [word for word in words if _key(word) in spec.variants]
    return own, [word for word in words if word not in own]


def check_options(own: Sequence[str], spec: SweepConfig) -> None:
    """Refuse options that variants do not have.

    Raises:
        ConfigError: naming them.
    """
    if wrong := [word for word in own if word.partition("=")[2] not in spec.variants[_key(word)]]:
        raise ConfigError([f"{word}: there is no such option." for word in wrong])


def _key(word: str) -> str:
    return word.partition("=")[0]


def _set_twice(variants: Mapping[str, Mapping[str, Sequence[str]]], space: Mapping[str, Any]) -> list[str]:
    """Keys that a variant and something else set: which of them holds would be anybody's guess."""
    by_key: dict[str, list[str]] = {}
    for name, choices in variants.items():
        for key in dict.fromkeys(_key(word) for words in choices.values() for word in words):
            by_key.setdefault(key, []).append(name)
    twice = [(key, names) for key, names in by_key.items() if len(names) > 1]
    return [
        *(f"{key} is set by {' and by '.join(names)}; keep one of them." for key, names in twice),
        *(
            f"space.{key} is set by the variants of {by_key[key][0]} too; keep one of them."
            for key in space
            if key in by_key
        ),
    ]
