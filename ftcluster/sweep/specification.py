"""A sweep file and command-line words -> one self-contained spec, refused here if its trials could not run.

Owns what can be known without data, model or cluster, so that a check takes no longer than reading the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcluster.config.checks import check, check_fields, check_sweep
from ftcluster.config.compose import compose, override
from ftcluster.config.grammar import Choice, Dimension, IntRange, parse_space, split_overrides
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.sweepfile import load_sweep
from ftcluster.errors import ConfigError, Problems
from ftcluster.sweep.space import Space, grid, override_words


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
    settled = {word.partition("=")[0] for word in fixed}
    space = {key: text for key, text in spec.space.items() if key not in settled}
    spec = replace(spec, base=[*spec.base, *fixed], space={**space, **expressions})
    base = compose(spec.base, config_dir=config_dir)
    found = Problems()
    for look in (lambda: check(base), lambda: check_sweep(spec, base), lambda: read_space(spec, base)):
        with found.collected():
            look()
    found.refuse(where=str(file))
    return spec, base


def read_space(spec: SweepConfig, base: RunConfig) -> Space:
    """The space of a sweep, checked against its sampler and the keys it varies.

    Raises:
        ConfigError: it cannot be read, cannot be enumerated, or has keys or values that are none.
    """
    space = parse_space(spec.space)
    check_space(space, base)
    if spec.sampler.name == "grid":
        grid(space)
    return space


def check_space(space: Space, base: RunConfig) -> None:
    """Refuse keys and values now that would make trials fail later.

    Raises:
        ConfigError: unknown keys, and values that a key cannot have; all of them.
    """
    problems: dict[str, None] = {}
    for key, dimension in space.items():
        for value in _samples(dimension):
            try:
                check_fields(override(base, override_words({key: value})))
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
