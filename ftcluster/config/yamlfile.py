"""Reading YAML written by somebody else: strictly, with the line of every key, and nothing that acts.

A config is data. Refused here, before any other library sees the text: aliases and anchors (a few hundred
bytes of them keep a resolver busy for minutes), tags, ``_target_`` (names code to run), ``hydra`` settings,
resolvers such as ``${oc.env:X}`` (would read the server's secrets) and files over 1 MB. Plain references
such as ``${optim.lr}`` stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftcluster.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
_PLAIN_REFERENCE = re.compile(r"\$\{[A-Za-z_]\w*(\.\w+)*\}")


class _Loader(yaml.SafeLoader):
    """YAML as Hydra reads it: ``1e-3`` is a number, a date is text."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":timestamp", ":float"))]
    for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9_]+(?:[eE][-+]?[0-9]+)?"
        r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class YamlFile:
    """A YAML mapping and the line each of its dotted keys stands on."""

    path: Path
    text: str
    content: dict[str, Any]
    lines: dict[str, int]

    @property
    def package(self) -> str:
        """What ``# @package`` says, or nothing."""
        found = re.search(r"^#\s*@package\s+(\S+)", self.text, re.MULTILINE)
        return found[1] if found else ""

    def place(self, key: str) -> str:
        """``file:line`` of a key, or nothing where the file does not set it."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else ""


def read(path: Path) -> YamlFile:
    """Read one file.

    Raises:
        ConfigError: it cannot be read, is no YAML mapping, or holds something refused (all of it is listed).
    """
    text = _text(path)
    try:
        problems = list(_refused_syntax(text))
        if problems:
            raise ConfigError(problems, where=str(path))
        root = yaml.compose(text, Loader=_Loader)
        lines: dict[str, int] = {}
        problems = list(_refused_content(root, "", lines))
        content = {} if root is None else _construct(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"not valid YAML: {error.problem}."], where=f"{path}:{line}") from None
    except yaml.YAMLError as error:
        raise ConfigError([f"not valid YAML: {str(error).splitlines()[0]}."], where=str(path)) from None
    if not isinstance(content, dict):
        problems.append(f"line 1: the file must be `key: value` pairs, not {type(content).__name__}.")
    if problems:
        raise ConfigError(problems, where=str(path))
    return YamlFile(path, text, content, lines)


def refused_reference(value: str) -> str:
    """The part of a text that is an interpolation but no plain ``${a.b}``, or nothing."""
    starts = (found.start() for found in re.finditer(r"\$\{", value))
    return next((value[start:] for start in starts if not _PLAIN_REFERENCE.match(value, start)), "")


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError([f"the file has {size:,} bytes; a config has at most {MAX_BYTES:,}."], where=str(path))
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"not UTF-8 text (byte {error.start})."], where=str(path)) from None
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}."], where=str(path)) from None


def _refused_syntax(text: str) -> Iterator[str]:
    depth = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
    for event in events:
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            yield f"line {line}: nested deeper than {MAX_DEPTH} levels."
            return
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            yield f"line {line}: YAML anchors (&) and aliases (*) are not allowed; write the value out."
        if getattr(event, "tag", None) and not str(event.tag).startswith("tag:yaml.org,2002:str"):
            yield f"line {line}: YAML tags (!) are not allowed; config is plain values."


def _refused_content(node: Any, prefix: str, lines: dict[str, int]) -> Iterator[str]:
    line = node.start_mark.line + 1 if node is not None else 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            dotted = f"{prefix}{key}"
            if key in seen:
                yield f"line {line}: {dotted} is given twice."
            seen.add(key)
            lines.setdefault(dotted, line)
            if key.startswith("_") and key.endswith("_"):
                yield f"line {line}: {dotted} is not allowed; config never names code to run."
            elif re.match(r"(override\s+)?/?hydra($|[./@])", key):
                yield f"line {line}: {dotted} is not allowed; Hydra's own settings are fixed."
            yield from _refused_content(value_node, f"{dotted}.", lines)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _refused_content(item, prefix, lines)
    elif isinstance(node, yaml.ScalarNode) and (bad := refused_reference(node.value)):
        yield f"line {line}: {bad} is not allowed; only plain references such as ${{optim.lr}} are."


def _construct(root: Any) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()
