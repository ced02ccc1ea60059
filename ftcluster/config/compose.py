"""Override words and YAML groups -> one frozen ``RunConfig``.

    words -> groups chosen, and checked against what there is
          -> ``layers`` puts the YAML files together
          -> ``key=value`` words are laid on top, references resolved, paths made absolute
          -> ``values.build`` checks every key and type

Whether values make sense together is decided by ``checks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftcluster.config import layers
from ftcluster.config import words as override_words
from ftcluster.config.catalog import experiments, groups, known_keys
from ftcluster.config.environment import default_home
from ftcluster.config.locations import is_remote
from ftcluster.config.schema import RunConfig
from ftcluster.config.suggest import did_you_mean
from ftcluster.config.values import build, dotted_keys, from_dict, merged, nested, settable, to_dict, unknown_key
from ftcluster.config.words import Word
from ftcluster.errors import ConfigError, Problems

__all__ = ["compose", "experiments", "from_dict", "groups", "known_keys", "override", "resolve_home", "to_dict"]

_WITH_PATHS = ("home", "model", "data")  # parts of a config


def compose(overrides: Sequence[str], *, config_dir: Path | None = None) -> RunConfig:
    """The config that these words describe, e.g. ``["experiment=lora_sft", "optim.lr=1e-3"]``.

    Raises:
        ConfigError: unknown keys, options or types, an unreadable or forbidden YAML file.
    """
    found = Problems()
    words = _parsed(overrides, found)
    options = groups(config_dir)
    choices = _sound([word for word in words if word.key in options], lambda word: _bad_choice(word, options), found)
    settings = _sound([word for word in words if word.key not in options], lambda word: _bad_key(word, options), found)
    with found.collected():  # the words that can be read are checked further, so that all problems are told at once
        files = layers.load([str(word) for word in choices], config_dir)
        tree = _with(merged(to_dict(RunConfig()), files.content), settings)
        tree["home"] = tree["home"] or str(default_home())
        config = _absolute_paths(build(RunConfig, _resolved(tree), files.place))
    found.refuse()
    return config


def override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """``config`` with some keys changed: as strict as ``compose`` at a fraction of its cost, for one call per trial.

    Raises:
        ConfigError: unknown keys, wrong types, or a group (those are chosen when a config is composed).
    """
    if not overrides:
        return config
    found = Problems()
    words = _parsed(overrides, found)
    # A sweep asks this for thousands of trials: groups are files, and what no word is about is left as it is.
    options = groups() if any("." not in word.key for word in words) else {}
    words = _sound(words, lambda word: _bad_key(word, options), found)
    with found.collected():
        parts = {word.key.partition(".")[0] for word in words}
        tree = _with(to_dict(config) if _has([word.value for word in words], "${") else to_dict(config, parts), words)
        made = build(RunConfig, _resolved(tree))
        changed = replace(config, **{part: getattr(made, part) for part in tree})
        changed = _absolute_paths(changed) if not parts.isdisjoint(_WITH_PATHS) else changed
    found.refuse()
    return changed


def resolve_home(config: RunConfig) -> Path:
    """Folder of ledger, runs and embedded MLflow; ``FTCLUSTER_HOME`` or ``./runs`` where the config names none."""
    return Path(config.home).expanduser().absolute() if config.home else default_home()


def _parsed(overrides: Sequence[str], found: Problems) -> list[Word]:
    words: list[Word] = []
    for text in overrides:
        with found.collected():
            words.append(override_words.parse(text))
    found.texts += [
        f"{word}: several values make a sweep; give one, or use ftcluster sweep." for word in words if word.sweep
    ]
    return [word for word in words if not word.sweep]


def _sound(words: Sequence[Word], problems: Callable[[Word], Iterator[str]], found: Problems) -> list[Word]:
    """The words without problems; those of the others are noted."""
    told = [(word, list(problems(word))) for word in words]
    found.texts += [text for _, texts in told for text in texts]
    return [word for word, texts in told if not texts]


def _bad_choice(word: Word, options: Mapping[str, list[str]]) -> Iterator[str]:
    known = options[word.key]
    if isinstance(word.value, Mapping | list):
        yield f"{word}: choose one option, {word.key}=NAME, and set single keys with {word.key}.KEY=VALUE."
    elif word.text not in known and not (word.key == "experiment" and word.value is None):
        hint = did_you_mean(word.text, known)
        if word.key in _OWN_FILES and any(mark in word.text for mark in "/."):
            hint = f" For your own, write {_OWN_FILES[word.key].format(word.text)}."
        yield f"{word}: {word.key} has no such option.{hint} Options: {', '.join(known)}."


_OWN_FILES = {"data": "data=jsonl data.train=[{}]", "model": "model=folder model.path={}"}


def _bad_key(word: Word, options: Mapping[str, list[str]]) -> Iterator[str]:
    known = dotted_keys(RunConfig)
    if word.key in options:
        yield f"{word}: a group is chosen when a config is composed, not afterwards; set single keys instead."
    elif not settable(RunConfig, word.key):
        yield unknown_key(word.key, known if "." in word.key else (*known, *options))


def _with(tree: dict[str, Any], words: Sequence[Word]) -> dict[str, Any]:
    for word in words:
        known = known_keys().get(word.key)
        # 007 and 1e5 stay as they were typed where text is wanted
        as_typed = known is not None and known.type is str and isinstance(word.value, int | float)
        value: Any = word.text if as_typed and not isinstance(word.value, bool) else word.value
        tree = merged(tree, nested(word.key, value))
    return tree


def _resolved(tree: dict[str, Any]) -> dict[str, Any]:
    if _has(tree, "???") and (missing := [key for key in known_keys() if _lookup(tree, key) == "???"]):
        raise ConfigError([f"{key} has no value yet; write {key}=..." for key in missing])
    if not _has(tree, "${"):  # to follow references takes OmegaConf 10 ms, if there are none, too
        return tree
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        cause = str(error.msg or error).splitlines()[0]
        raise ConfigError(
            [f"a ${{...}} reference cannot be followed: {cause}."], where=str(error.full_key or "")
        ) from None
    return dict(plain)


def _has(value: Any, mark: str) -> bool:
    """Whether a text in there has it."""
    if isinstance(value, str):
        return mark in value
    if isinstance(value, Mapping):
        return any(_has(each, mark) for each in value.values())
    return isinstance(value, list | tuple) and any(_has(each, mark) for each in value)


def _lookup(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _absolute_paths(config: RunConfig) -> RunConfig:
    """Workers run in other folders, so a path means what it meant where it was written."""

    def absolute(path: str) -> str:
        return path if not path or is_remote(path) else str(Path(path).expanduser().absolute())

    def all_absolute(paths: Sequence[str]) -> list[str]:
        return [absolute(path) for path in paths]

    data = replace(
        config.data,
        template=absolute(config.data.template) if config.data.template.endswith(".jinja") else config.data.template,
        train=all_absolute(config.data.train),
        validation=all_absolute(config.data.validation),
        test=all_absolute(config.data.test),
        sources={
            name: replace(source, files=all_absolute(source.files)) for name, source in config.data.sources.items()
        },
    )
    model = replace(config.model, path=absolute(config.model.path))
    return replace(config, home=absolute(config.home), model=model, data=data)
