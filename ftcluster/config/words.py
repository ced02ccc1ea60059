"""One override word of a command line, ``key=value`` in Hydra's own grammar, as a value.

Owns the grammar only: whether a key exists is decided by ``compose``, what a sweep expression means by ``grammar``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from ftcluster.config.yamlfile import refused_reference
from ftcluster.errors import ConfigError

_KEY = re.compile(r"^[A-Za-z_][\w-]*(\.[\w/-]+)*$")
_QUOTED = r"""(?P<quoted>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")
_PIECE = re.compile(_QUOTED + r"""|(?P<bare>[^\s,\[\]{}()"'](?:[^,\[\]{}()"']*[^\s,\[\]{}()"'])?)""")
_PIECE_OF_PAIRS = re.compile(_QUOTED + r"""|(?P<bare>[^\s:,\[\]{}()"'](?:[^:,\[\]{}()"']*[^\s:,\[\]{}()"'])?)""")


@dataclass(frozen=True)
class Word:
    """``key=text``. ``value`` is what the text means; a sweep word such as ``choice(1, 2)`` has none."""

    key: str
    value: Any
    text: str
    sweep: bool = False

    def __str__(self) -> str:
        return f"{self.key}={self.text}"


def parse(word: str) -> Word:
    """Read one word.

    Raises:
        ConfigError: no ``key=value``, a value outside the grammar, or something configs may not hold.
    """
    key, equals, text = word.partition("=")
    if key[:1] in ("+", "~"):
        raise ConfigError([f'"{word}": keys are neither added nor removed; write it without "{key[0]}".'])
    if not equals or not _KEY.match(key):
        raise ConfigError([f'"{word}" is not an override; write key=value, such as optim.lr=1e-3 or model=tiny.'])
    if key.split(".")[0] == "hydra":
        raise ConfigError([f'"{word}": Hydra\'s own settings are fixed.'])
    if any(part.startswith("_") and part.endswith("_") for part in key.split(".")):
        raise ConfigError([f'"{word}": config never names code to run.'])
    if bad := refused_reference(text):
        raise ConfigError([f'"{word}": {bad} is not allowed; only plain references such as ${{optim.lr}} are.'])
    # What the grammar makes of plain numbers, without the milliseconds it takes: a sweep reads thousands of them.
    for number, form in ((int, _INTEGER), (float, _FLOAT)):
        if form.fullmatch(text):
            return Word(key, number(text), text)
    for attempt in _attempts(text):
        with suppress(HydraException):
            parsed = _parser().parse_override(f"value={attempt}")
            sweep = parsed.is_sweep_override()
            return Word(key, None if sweep else _unquoted(parsed.value()), attempt, sweep)
    raise ConfigError(
        [f'"{word}": the value cannot be read; close brackets and quotes, quote special characters.'],
        remedy=f"put quotes around the text, and others around the word for the shell: '{key}=\"...\"'",
    )


def _attempts(text: str) -> Iterator[str]:
    """The text in forms that Hydra's grammar may take: as typed, or with quotes around what it reserves."""
    yield text if text.isascii() and "=" not in text else quote_special_words(text)
    if "/" in text and text[0] not in "[{\"'":  # a path, such as one with the parentheses of "model (copy)"
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        yield f'"{escaped}"'


def quote_special_words(text: str) -> str:
    """Quote the parts of a value that have letters outside ASCII, or an equals sign: Hydra's grammar wants that."""

    def quote(found: re.Match[str]) -> str:
        bare = found["bare"]
        return f'"{bare}"' if bare and (not bare.isascii() or "=" in bare) else found[0]

    return (_PIECE_OF_PAIRS if "{" in text else _PIECE).sub(quote, text)


def _unquoted(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {str(_unquoted(key)): _unquoted(item) for key, item in value.items()}
    return [_unquoted(item) for item in value] if isinstance(value, list) else value


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
