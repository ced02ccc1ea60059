"""A sweep file and command-line words -> one self-contained spec, refused here if its trials could not run.

Owns what can be known without data, model or cluster, so that a check takes no longer than reading the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcluster.config.catalog import flat
from ftcluster.config.checks import check, check_fields, check_sweep
from ftcluster.config.compose import compose, override
from ftcluster.config.expression import Expression, read_expression
from ftcluster.config.grammar import Choice, Dimension, IntRange, parse_space, split_overrides
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.sweepfile import load_sweep
from ftcluster.errors import ConfigError, Problems
from ftcluster.sweep.bundles import named_values, settings_of, settled
from ftcluster.sweep.space import Space, grid, override_words
from ftcluster.sweep.study import cut_share

# Keys that only some trials have a use for. Without a condition, trials would differ in nothing but such a key.
_ADAPTER = Expression("adapter.kind != 'none'")
_DEEPSPEED = Expression("engine.name == 'deepspeed' or engine.name in ('auto', 'packed') and cluster.ranks > 1")
_SHARDING = ("stage", "offload_optimizer", "offload_parameters", "nvme", "hpz", "deepspeed_json")


def read_sweep(
    file: str | Path, words: Sequence[str], *, config_dir: Path | None = None
) -> tuple[SweepConfig, RunConfig]:
    """A sweep file and command-line words as one self-contained spec, and the config its trials start from.

    Whether the files it names are there is ``check_files``' business.

    Fixed words join the spec's ``base`` and take their keys out of its ``space``; swept ones join the ``space``.

    Raises:
        ConfigError: all problems of the file, the words and the base config.
    """
    spec, rest = load_sweep(file, words, config_dir=config_dir)
    fixed, swept = split_overrides(rest)
    expressions = {key: text for key, _, text in (word.partition("=") for word in rest) if key in swept}
    taken = {word.partition("=")[0] for word in fixed}
    space = {key: text for key, text in spec.space.items() if key not in taken}
    when = {key: text for key, text in spec.when.items() if key not in taken}
    spec = replace(spec, base=[*spec.base, *fixed], space={**space, **expressions}, when=when)
    base = compose(spec.base, config_dir=config_dir)
    found = Problems()
    spec = settled(spec, base, config_dir, found)
    for look in (lambda: check(base), lambda: check_sweep(spec, base), lambda: read_space(spec, base)):
        with found.collected():
            look()
    found.refuse(where=str(file))
    return spec, base


def read_space(spec: SweepConfig, base: RunConfig) -> Space:
    """The space of a sweep, checked against its sampler and the keys it varies.

    Raises:
        ConfigError: it cannot be read, cannot be enumerated, or has keys, values or rules that are none.
    """
    found = Problems()
    plain = Space(parse_space(spec.space), settings_of(spec), base=flat(base))
    when, constraints = _rules(spec, plain, found)
    when |= _implied(plain, when, found)
    space = replace(plain, when=when, constraints=constraints)
    full = base.adapter.kind == "none" or "adapter.kind" in space.config_keys
    if spec.pruner.patience and full:
        found.texts.append("pruner.patience ends trials early, and a full fine-tune writes its model at its end only.")
    looks: tuple[Callable[[], object], ...] = (
        lambda: check_space(space, base),
        lambda: _check_always(spec, base),
        lambda: space.order,
    )
    for look in looks:
        with found.collected():
            look()
    found.refuse(where="space")
    if spec.sampler.name == "grid":
        grid(space)
    if (space.listed and not space.listed[0]) or cut_share(space) == 1:
        raise ConfigError(["no point of it keeps all constraints."], where="space")
    return space


def _rules(spec: SweepConfig, space: Space, found: Problems) -> tuple[dict[str, Expression], tuple[Expression, ...]]:
    """What ``when`` and ``constraints`` say."""
    known = [*space.base, *space.settings]
    when: dict[str, Expression] = {}
    constraints: list[Expression] = []
    typical = {**space.base, **{name: next(iter(options)) for name, options in space.settings.items()}}
    rules = [(f"when.{key}", text) for key, text in spec.when.items()]
    for place, text in [*rules, *(("constraints", text) for text in spec.constraints)]:
        try:
            read = read_expression(text, known)
            read.check(typical)
            if not read.keys & {*space.config_keys, *space}:
                raise ConfigError([f'"{text}" looks at no key of the space, so it is the same for every trial.'])
        except ConfigError as error:
            found.texts += [f"{place}: {problem}" for problem in error.problems]
            continue
        if place == "constraints":
            constraints.append(read)
        else:
            when[place.removeprefix("when.")] = read
    found.texts += [f"when.{key}: the space has no such key." for key in spec.when if key not in space]
    return {key: rule for key, rule in when.items() if key in space}, tuple(constraints)


def _implied(space: Space, given: Mapping[str, Expression], found: Problems) -> dict[str, Expression]:
    """Conditions that follow from what a key is about."""
    implied: dict[str, Expression] = {}
    for key in space:
        if key in given or not (rule := _use(key)):
            continue
        if rule.keys & {*space.config_keys}:
            implied[key] = rule
        elif not rule.holds(space.base):
            found.texts.append(f"space.{key} changes nothing {_WHERE[rule]}; leave it out.")
    return implied


_WHERE = {_ADAPTER: "in a full fine-tune (adapter=none)", _DEEPSPEED: "without DeepSpeed (engine=deepspeed)"}


def _use(key: str) -> Expression | None:
    section, _, name = key.partition(".")
    if key == "optim.lora_plus" or (section == "adapter" and name not in ("", "kind")):
        return _ADAPTER
    return _DEEPSPEED if section == "engine" and name in _SHARDING else None


def _check_always(spec: SweepConfig, base: RunConfig) -> None:
    """Refuse named trials that are no config.

    Raises:
        ConfigError: all of their problems, with their names.
    """
    found: list[str] = []
    for name in spec.always:
        try:
            check(override(base, override_words(named_values(spec, name))))
        except ConfigError as error:
            found += [f"always.{name}: {problem}" for problem in error.problems]
    if found:
        raise ConfigError(found)


def check_space(space: Space, base: RunConfig) -> None:
    """Refuse keys and values now that would make trials fail later.

    Raises:
        ConfigError: unknown keys, and values that a key cannot have; all of them.
    """
    problems: dict[str, None] = {}
    for key, dimension in space.items():
        for value in _samples(dimension):
            try:
                check_fields(override(base, space.words({key: value})))
            except ConfigError as error:
                problems |= dict.fromkeys(error.problems)
                if not isinstance(dimension, Choice):
                    break  # its other end is as wrong
    if problems:
        raise ConfigError(list(problems), where="space")


def _samples(dimension: Dimension) -> Sequence[Any]:
    """All values of a choice; of a range or interval its ends, for fractions as near as they are no whole numbers."""
    if isinstance(dimension, Choice):
        return dimension.values
    low, high = dimension.low, dimension.high
    if isinstance(dimension, IntRange) or dimension.integer:
        return low, high
    return math.nextafter(low, high), math.nextafter(high, low)
