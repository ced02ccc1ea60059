"""A sweep file and the command-line words that change it -> ``SweepConfig`` and the words left for its trials.

Owns names and types. What the expressions of ``space`` mean is ``grammar``'s business, whether the parts fit
together is decided by ``checks.check_sweep``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ftcluster.config import words as override_words
from ftcluster.config.catalog import groups, known_keys
from ftcluster.config.environment import sweeps_folder
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.suggest import did_you_mean
from ftcluster.config.values import build, dotted_keys, merged, nested, settable, unknown_key
from ftcluster.config.words import Word
from ftcluster.config.yamlfile import YamlFile, read
from ftcluster.errors import ConfigError

_SWEEP_KEYS = tuple(key for key in known_keys(SweepConfig) if key not in ("base", "space"))


def load_sweep(
    path: str | Path, overrides: Sequence[str] = (), *, config_dir: Path | None = None
) -> tuple[SweepConfig, list[str]]:
    """Read a sweep file; ``path`` may be the bare name of a shipped one.

    Words such as ``budget.trials=4`` or ``metric=eval/loss`` set fields of the sweep; the others
    (``optim.lr=choice(1e-3, 1e-4)``, ``model=tiny``) come back for its trials.

    Raises:
        ConfigError: no such file, unknown keys, wrong types; all of them, with their lines.
    """
    file = read(find_sweep(path))
    words, problems = _words(overrides)
    mine = [word for word in words if word.key in _SWEEP_KEYS and not word.sweep]
    rest = [word for word in words if word.key not in _SWEEP_KEYS]
    content = file.content
    for word in mine:
        content = merged(content, nested(word.key, word.value))
    try:
        sweep = build(SweepConfig, content, file.place)
    except ConfigError as error:
        problems += error.problems
    else:
        problems += _space_keys(file, sweep, config_dir)
    problems += [problem for word in rest for problem in _unknown(word, config_dir)]
    if problems:
        raise ConfigError(problems)
    return replace(sweep, name=sweep.name or _name_of(file.path)), [str(word) for word in rest]


def find_sweep(path: str | Path) -> Path:
    """The file, or the shipped sweep of that name.

    Raises:
        ConfigError: neither exists; names the shipped ones.
    """
    given, shipped = Path(path), {file.stem: file for file in sorted(sweeps_folder().glob("*.yaml"))}
    if given.is_file():
        return given
    if str(path) in shipped:
        return shipped[str(path)]
    near = did_you_mean(given.stem, shipped)
    listed = f" Shipped sweeps: {', '.join(shipped)}." if shipped else ""
    raise ConfigError([f"no such sweep file.{near}{listed}"], where=str(path))


def is_sweep(file: YamlFile) -> bool:
    """True for a file that reads like a sweep rather than an experiment."""
    return "space" in file.content or "base" in file.content


def _words(overrides: Sequence[str]) -> tuple[list[Word], list[str]]:
    words: list[Word] = []
    problems: list[str] = []
    for text in overrides:
        try:
            words.append(override_words.parse(text))
        except ConfigError as error:
            problems += error.problems
    problems += [f"{word}: a sweep has one {word.key}." for word in words if word.sweep and word.key in _SWEEP_KEYS]
    return words, problems


def _space_keys(file: YamlFile, sweep: SweepConfig, config_dir: Path | None) -> Iterator[str]:
    options = groups(config_dir)
    for key in sweep.space:
        if key in options:
            yield f"{file.place(f'space.{key}')}: space.{_no_group(key)}"
        elif key not in known_keys(RunConfig):
            yield f"{file.place(f'space.{key}')}: space.{unknown_key(key, known_keys(RunConfig))}"


def _unknown(word: Word, config_dir: Path | None) -> Iterator[str]:
    options = groups(config_dir)
    known = (*dotted_keys(RunConfig), *options)
    if word.sweep and word.key in options:
        yield f"{word}: {_no_group(word.key)}"
    elif word.key.split(".")[0] in ("space", "base"):
        yield f"{word}: write the key itself, such as optim.lr=choice(1e-3,1e-4), to change what is swept."
    elif not settable(RunConfig, word.key):
        yield unknown_key(word.key, (*known, *_SWEEP_KEYS))


def _no_group(key: str) -> str:
    example = next((known for known in known_keys(RunConfig) if known.startswith(f"{key}.")), "optim.lr")
    return f"{key} is a group, chosen once for all trials; sweep single keys such as {example}."


def _name_of(path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:63] or "sweep"
