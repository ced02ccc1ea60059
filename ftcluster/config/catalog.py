"""What can be configured: every key with its type and comment, every group with its options.

Reads the schema and the files of ``conf/``; imports no Hydra, so that help and shell completion are quick.
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ftcluster.config import schema
from ftcluster.config.environment import conf_folder
from ftcluster.config.schema import RunConfig, SweepConfig
from ftcluster.config.values import plain


class KnownKey(NamedTuple):
    """A key a user can set."""

    type: Any
    default: Any
    comment: str


@cache
def known_keys(root: type = RunConfig) -> Mapping[str, KnownKey]:
    """Dotted key -> type, default and the comment written after the field in the schema."""
    return MappingProxyType(dict(_walk(root, "")))


def flat(config: RunConfig | SweepConfig) -> dict[str, Any]:
    """Every key of a config with its value, as ``to_dict`` makes it."""
    kind: Any = type(config)
    return {key: plain(value(config)) for key, value in _getters(kind).items()}


@cache
def _getters(kind: type) -> dict[str, Callable[[Any], Any]]:
    return {key: attrgetter(key) for key in known_keys(kind)}


@cache
def section_comments(root: type = RunConfig) -> Mapping[str, str]:
    """Section -> first line of its dataclass's docstring."""
    kinds = typing.get_type_hints(root)
    return {name: (inspect.getdoc(kind) or "").split("\n")[0] for name, kind in kinds.items() if is_dataclass(kind)}


def groups(config_dir: Path | None = None) -> dict[str, list[str]]:
    """Config group -> its options, the user's folder included; experiments come last."""
    found: dict[str, set[str]] = {}
    for folder in filter(None, (conf_folder(), config_dir)):
        for file in folder.glob("*/*.yaml"):
            found.setdefault(file.parent.name, set()).add(file.stem)
    return {name: sorted(found[name]) for name in sorted(found, key=lambda name: (name == "experiment", name))}


def experiments(config_dir: Path | None = None) -> list[str]:
    """The options of the group ``experiment``."""
    return groups(config_dir).get("experiment", [])


def describe(group: str, option: str, config_dir: Path | None = None) -> str:
    """What an option's file says it is: its first comment that is neither a directive nor the command to run it."""
    for folder in filter(None, (config_dir, conf_folder())):
        file = folder / group / f"{option}.yaml"
        if file.is_file():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
            return next((text for text in comments if not text.startswith(("@package", "ftcluster "))), "")
    return ""


def _walk(kind: type, prefix: str) -> typing.Iterator[tuple[str, KnownKey]]:
    comments = _comments().get(kind.__name__, {})
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        hint = hints[item.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _walk(hint, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", KnownKey(hint, _default(item), comments.get(item.name, ""))


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


@cache
def _comments() -> dict[str, dict[str, str]]:
    source = inspect.getsource(schema)
    lines = source.splitlines()
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                item.target.id: lines[item.lineno - 1][item.end_col_offset or 0 :].strip(" #")
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return found
