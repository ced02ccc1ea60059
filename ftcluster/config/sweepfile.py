"""A sweep file and the command-line words that change it -> ``SweepConfig`` and the words left for its trials.

Owns names and types. What the expressions of ``space`` mean is ``grammar``'s business, whether the parts fit
together is decided by ``checks.check_sweep``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftcluster.config import words as override_words
from ftcluster.config.catalog import groups, known_keys
from ftcluster.config.environment import sweeps_folder
from ftcluster.config.objectives import usual_direction
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.suggest import did_you_mean
from ftcluster.config.values import build, dotted_keys, merged, nested, settable, unknown_key
from ftcluster.config.words import Word
from ftcluster.config.yamlfile import YamlFile, read
from ftcluster.errors import ConfigError

_SWEEP_KEYS = tuple(key for key in known_keys(SweepConfig) if key not in ("base", "space"))
_ONCE = ("tracking", "cluster", "evaluation")  # groups that are the same for every trial
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def load_sweep(
    path: str | Path, overrides: Sequence[str] = (), *, config_dir: Path | None = None
) -> tuple[SweepConfig, list[str]]:
    """Read a sweep file; ``path`` may be the bare name of a shipped one.

    Words such as ``budget.trials=4`` or ``metric=eval/loss`` set fields of the sweep, ``+recipe=[[optim.lr=1e-4],
    [optim.lr=3e-3]]`` adds variants; the others (``optim.lr=choice(1e-3, 1e-4)``, ``model=tiny``) come back for its
    trials.

    Raises:
        ConfigError: no such file, unknown keys, wrong types; all of them, with their lines.
    """
    file = read(find_sweep(path))
    words, problems = _words([text for text in overrides if not text.startswith("+")])
    added, more = _words([text[1:] for text in overrides if text.startswith("+")])
    problems += more
    content = file.content
    for word in added:
        content = merged(content, {"variants": {word.key: _variants(word, problems)}})
    mine = [word for word in words if word.key in _SWEEP_KEYS and not word.sweep]
    own = [word for word in words if word.key in _named(content, "variants")]
    rest = [word for word in words if word not in mine and word not in own and word.key not in _SWEEP_KEYS]
    for word in mine:
        content = merged(content, nested(word.key, word.value))
    space = {name: list(options) for name, options in _named(content, "variants").items() if isinstance(options, dict)}
    if space and "space" in content:
        content = merged({"space": space}, content)
    content = merged(content, {"space": {**space, **{word.key: word.text for word in own}}}) if own else content
    content = _objectives(content, problems)
    try:
        sweep = build(SweepConfig, content, file.place)
    except ConfigError as error:
        problems += error.problems
    else:
        problems += _variant_names(file, sweep, config_dir)
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


def _variants(word: Word, problems: list[str]) -> dict[str, list[str]]:
    """Lists of overrides as options: under their names, or numbered where they have none."""
    given = word.value
    if isinstance(given, list) and given:
        given = {f"option-{number}": each for number, each in enumerate(given, 1)}
    options = {name: [each] if isinstance(each, str) else each for name, each in _mapping(given).items()}
    if options and all(
        isinstance(each, list) and all(isinstance(one, str) for one in each) for each in options.values()
    ):
        return options
    example = f"+{word.key}=[[optim.lr=1e-4,optim.warmup=0.1],[optim.lr=3e-3]]"
    problems.append(f"+{word}: variants are lists of overrides that belong together; write for example '{example}'.")
    return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _named(content: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """The names below a field, as long as it is not known to be well-formed."""
    return _mapping(content.get(field))


def _objectives(content: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Several metrics in a list -> the first one, and ``also``; directions that are not given are the usual ones."""
    metrics = content.get("metric")
    if not isinstance(metrics, list):
        return content
    given = content.get("direction")
    directions = given if isinstance(given, list) else [usual_direction(str(metric)) for metric in metrics]
    if not metrics or len(directions) != len(metrics) or (given is not None and not isinstance(given, list)):
        problems.append("direction must be a list like metric, with minimize or maximize for each of its entries.")
        return {**content, "metric": "eval/loss", "direction": "minimize"}
    named = dict(zip(map(str, metrics), map(str, directions), strict=True))
    if len(named) < len(metrics):
        problems.append("metric: names a metric twice.")
    first = str(metrics[0])
    also = {metric: direction for metric, direction in named.items() if metric != first}
    return {**content, "metric": first, "direction": named[first], "also": also}


def _variant_names(file: YamlFile, sweep: SweepConfig, config_dir: Path | None) -> Iterator[str]:
    taken = {*known_keys(RunConfig), *groups(config_dir), *_SWEEP_KEYS}
    for name, options in sweep.variants.items():
        place = file.place(f"variants.{name}")
        if name in taken or not _OPTION.fullmatch(name):
            yield f"{place}: variants.{name} must be a plain word of your own, not a key or group of the config."
        if not options:
            yield f"{place}: variants.{name} has no options; write {name}: {{careful: [optim.lr=1e-4], ...}}."
        yield from (
            f"{place}: variants.{name}.{option} must be a plain word, such as careful."
            for option in options
            if not _OPTION.fullmatch(option)
        )


def _space_keys(file: YamlFile, sweep: SweepConfig, config_dir: Path | None) -> Iterator[str]:
    options = groups(config_dir)
    known = (*known_keys(RunConfig), *options, *sweep.variants)
    for key in sweep.space:
        place = file.place(f"space.{key}")
        if key in _ONCE:
            yield f"{place}: space.{key} {_SAME}"
        elif key not in known:
            yield f"{place}: space.{unknown_key(key, known)}"


def _unknown(word: Word, config_dir: Path | None) -> Iterator[str]:
    options = groups(config_dir)
    known = (*dotted_keys(RunConfig), *options)
    if word.sweep and word.key in _ONCE:
        yield f"{word}: {word.key} {_SAME}"
    elif word.key in options:
        return
    elif word.key.split(".")[0] in ("space", "base"):
        yield f"{word}: write the key itself, such as optim.lr=choice(1e-3,1e-4), to change what is swept."
    elif not settable(RunConfig, word.key):
        yield unknown_key(word.key, (*known, *_SWEEP_KEYS))


_SAME = "is the same for all trials of a sweep; choose it once."


def _name_of(path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:63] or "sweep"
