"""The YAML side of a config: ``conf/``, a user's folder laid over it, and Hydra's defaults lists.

Hydra's role is names and order: which files make up a config, and which comes last. It sees a user's file
only after ``yamlfile`` has read it, and its messages never reach a user.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftcluster.config.catalog import groups
from ftcluster.config.environment import conf_folder
from ftcluster.config.suggest import did_you_mean
from ftcluster.config.yamlfile import YamlFile, read
from ftcluster.errors import ConfigError

_hydra_is_a_singleton = threading.Lock()


@dataclass(frozen=True)
class Layers:
    """What the chosen files say together, references such as ``${home}`` still unresolved."""

    content: dict[str, Any]
    user_files: tuple[tuple[str, YamlFile], ...]  # those in use, each with the section its keys belong to

    def place(self, key: str) -> str:
        """``file:line`` in the user's folder that sets a dotted key, or nothing."""
        for section, file in reversed(self.user_files):
            local = key.removeprefix(f"{section}.") if section else key
            if (not section or local != key) and (place := file.place(local)):
                return place
        return ""


def load(choices: Sequence[str], config_dir: Path | None = None) -> Layers:
    """Put together the files that ``["model=tiny", "experiment=smoke"]`` choose.

    Raises:
        ConfigError: a file is unreadable or holds something refused, or a ``defaults:`` list names what is not there.
    """
    if config_dir is None:
        return Layers(_shipped(tuple(choices)), ())
    files = _user_files(config_dir)
    options = groups(config_dir)
    problems = [problem for file in files for problem in _bad_defaults(file, options)]
    if problems:
        raise ConfigError(problems)
    with _laid_over(files, config_dir) as folder:
        content, used = _compose(folder, choices)
    return Layers(content, tuple((_section(f, config_dir), f) for f in files if _name(f, config_dir) in used))


@lru_cache(maxsize=64)
def _shipped(choices: tuple[str, ...]) -> dict[str, Any]:
    # A sweep composes the same files for every trial; Hydra needs 50 ms for that.
    return _compose(conf_folder(), choices)[0]


def _user_files(config_dir: Path) -> list[YamlFile]:
    if not config_dir.is_dir():
        raise ConfigError(["the config folder does not exist."], where=str(config_dir))
    return [read(path) for path in sorted([*config_dir.glob("*.yaml"), *config_dir.glob("*/*.yaml")])]


@contextmanager
def _laid_over(files: Sequence[YamlFile], config_dir: Path) -> Iterator[Path]:
    """``conf/`` with the user's files over it; Hydra's own search path would let the shipped files win."""
    with tempfile.TemporaryDirectory(prefix="ftcluster-conf-") as name:
        folder = Path(name)
        shutil.copytree(conf_folder(), folder, dirs_exist_ok=True)
        for file in files:
            target = folder / file.path.relative_to(config_dir)
            target.parent.mkdir(exist_ok=True)
            target.write_text(file.text, encoding="utf-8")
        yield folder


def _compose(folder: Path, choices: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    try:
        with _hydra_is_a_singleton, initialize_config_dir(config_dir=str(folder), version_base="1.3"):
            composed = compose("config", list(choices), return_hydra_config=True)
        used = {f"{group}/{option}" for group, option in composed.hydra.runtime.choices.items()} | {"config"}
        content: Any = OmegaConf.to_container(composed, resolve=False)
        del content["hydra"]
    except (HydraException, OmegaConfBaseException) as error:
        cause = str(error).splitlines()[0].replace(f"{folder}/", "")
        raise ConfigError(
            [f"the YAML files do not fit together: {cause}"],
            remedy="look at the `defaults:` lists in your config folder",
        ) from None
    return content, used


def _bad_defaults(file: YamlFile, options: Mapping[str, Sequence[str]]) -> Iterator[str]:
    where = file.place("defaults")
    entries = file.content.get("defaults", [])
    if not isinstance(entries, list):
        yield f"{where}: defaults must be a list such as `- override /model: tiny`."
        return
    for entry in entries:
        for key, option in entry.items() if isinstance(entry, dict) else ():
            group = str(key).split()[-1].strip("/")
            if group not in options:
                yield f"{where}: {group} is not a config group.{did_you_mean(group, options)}"
            elif option is not None and str(option) not in options[group]:
                known = ", ".join(options[group])
                yield f"{where}: {group} has no option {option}; it has {known}."


def _name(file: YamlFile, config_dir: Path) -> str:
    return file.path.stem if file.path.parent == config_dir else f"{file.path.parent.name}/{file.path.stem}"


def _section(file: YamlFile, config_dir: Path) -> str:
    if file.path.parent == config_dir or file.package == "_global_":
        return ""
    return file.package or file.path.parent.name
