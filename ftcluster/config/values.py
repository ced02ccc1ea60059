"""Plain values to the schema's frozen dataclasses and back, strictly: every unknown key and wrong type is listed."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from ftcluster.config.schema import RunConfig
from ftcluster.config.suggest import did_you_mean
from ftcluster.errors import ConfigError

Kind = TypeVar("Kind")
_SCALARS = frozenset({str, int, float, bool, type(None)})


def to_dict(config: Any, parts: Collection[str] | None = None) -> dict[str, Any]:
    """A config as plain dicts, lists and scalars: what JSON, YAML and other processes are given.

    ``parts``: only these fields.
    """
    return {each.name: plain(getattr(config, each.name)) for each in fields(config) if not parts or each.name in parts}


def to_dict_like(config: RunConfig, base: RunConfig, shared: Mapping[str, Any]) -> dict[str, Any]:
    """``to_dict`` of a config made from ``base``, whose dict is ``shared``: what both have in common is shared.

    Nobody may change what it holds. Thousands of trials take little memory and little time this way.
    """
    return {
        each.name: shared[each.name]
        if getattr(config, each.name) is getattr(base, each.name)
        else plain(getattr(config, each.name))
        for each in fields(config)
    }


def plain(value: Any) -> Any:
    """Dicts, lists and scalars that share nothing with ``value``; ``dataclasses.asdict`` copies every number, too."""
    if type(value) in _SCALARS:  # most of them, and this is asked for each
        return value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return to_dict(value) if is_dataclass(value) else value


def from_dict(content: Mapping[str, Any]) -> RunConfig:
    """The RunConfig that ``to_dict`` made plain; absent keys get their defaults.

    Raises:
        ConfigError: unknown keys and wrong types, all of them.
    """
    return build(RunConfig, content)


def build(kind: type[Kind], content: Mapping[str, Any], where: Callable[[str], str] | None = None) -> Kind:
    """Fill one schema class. ``where(dotted key)`` says which line of which file a value came from, or nothing.

    Raises:
        ConfigError: unknown keys and wrong types, all of them.
    """
    problems: list[tuple[str, str]] = []
    keys: Callable[[Any], tuple[str, ...]] = dotted_keys
    made = _section(kind, content, "", keys(kind), problems)
    if problems:
        placed = [(where(key) if where else "", text) for key, text in problems]
        raise ConfigError([f"{place}: {text}" if place else text for place, text in placed])
    return typing.cast(Kind, made)


@cache
def dotted_keys(kind: type) -> tuple[str, ...]:
    """Every key that can be set, sections included."""
    found: list[str] = []
    for name, hint in field_types(kind).items():
        found.append(name)
        if is_dataclass(hint) and isinstance(hint, type):
            found += [f"{name}.{inner}" for inner in dotted_keys(hint)]
    return tuple(found)


def settable(kind: type, key: str) -> bool:
    """Whether a dotted key can be set: a field, a section, or a name of the user's own below a field of pairs."""
    first, _, rest = key.partition(".")
    hint = field_types(kind).get(first)
    if hint is None or not rest:
        return hint is not None
    if is_dataclass(hint) and isinstance(hint, type):
        return settable(hint, rest)
    name, _, inner = rest.partition(".")
    section = section_of(hint)
    return (
        typing.get_origin(hint) is dict
        and bool(name)
        and (settable(section, inner) if section and inner else not inner)
    )


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Field name -> resolved type, in order."""
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in fields(typing.cast(Any, kind))}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, section by section; neither is changed."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(typing.cast(Any, inner), value) if both else value
    return result


def nested(key: str, value: Any) -> dict[str, Any]:
    """``("optim.lr", 1)`` -> ``{"optim": {"lr": 1}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence about a key that does not exist."""
    return f"{key} is not a known key.{did_you_mean(key, known)}"


def _section(kind: Any, content: Any, prefix: str, known: Iterable[str], problems: list[tuple[str, str]]) -> Any:
    if not isinstance(content, Mapping):
        key = prefix.rstrip(".")
        inside = ", ".join(field_types(kind))
        problems.append((key, f"{key}={show(content)}: expected a section with the keys {inside}."))
        return None
    hints = field_types(kind)
    values: dict[str, Any] = {}
    for name, value in content.items():
        dotted = f"{prefix}{name}"
        if name not in hints:
            nested = "." in str(name) and dotted in known
            advice = f'{dotted} must be written nested: "{str(name).replace(".", ": {")}: ..."' if nested else ""
            problems.append((dotted, advice or unknown_key(dotted, known)))
        elif is_dataclass(hints[name]):
            values[name] = _section(hints[name], value, f"{dotted}.", known, problems)
        elif inner := section_of(hints[name]):
            values[name] = _named_sections(inner, value, dotted, problems)
        else:
            values[name] = _value(hints[name], value, dotted, problems)
    return None if problems else kind(**values)


def section_of(hint: Any) -> Any:
    """The schema class of a ``dict[str, Class]`` field, whose keys are names of the user's; None for other fields."""
    arguments = typing.get_args(hint) if typing.get_origin(hint) is dict else ()
    return arguments[1] if arguments and is_dataclass(arguments[1]) else None


def _named_sections(kind: Any, content: Any, key: str, problems: list[tuple[str, str]]) -> Any:
    if not isinstance(content, Mapping):
        problems.append((key, f"{key}={show(content)}: expected sections by name, such as {{my_name: {{...}}}}."))
        return None
    known = [f"{key}.{name}.{inner}" for name in content for inner in field_types(kind)]
    return {str(name): _section(kind, inner, f"{key}.{name}.", known, problems) for name, inner in content.items()}


def _value(hint: Any, value: Any, dotted: str, problems: list[tuple[str, str]]) -> Any:
    try:
        return _coerced(hint, value)
    except TypeError:
        problems.append((dotted, f"{dotted}={show(value)}: expected {expected(hint)}, got {_kind_of(value)}."))
        return None


def _coerced(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is list:
        items = [value] if isinstance(value, str) else value  # one file or module name is a list of one
        return [_coerced(typing.get_args(hint)[0], item) for item in _require(items, list | tuple)]
    if origin is dict:
        inner = typing.get_args(hint)[1]
        return {str(key): _coerced(inner, item) for key, item in _require(value, Mapping).items()}
    if hint is Any:
        return value
    if hint is bool:
        return _require(value, bool)
    if isinstance(value, bool):
        raise TypeError
    if hint is str:
        return str(_require(value, str | int | float))
    number = _require(value, int | float)
    if not math.isfinite(number) or (hint is int and number != int(number)):
        raise TypeError
    return hint(number)


def _require(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def expected(hint: Any) -> str:
    """A type in words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if hint in words:
        return words[hint]
    return "a list such as [a, b]" if typing.get_origin(hint) is list else "pairs such as {a: b}"


def show(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    return str(value)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is not finite"
    names: list[tuple[Any, str]] = [(int, "a whole number"), (float, "a fraction"), (str, "text"), (list, "a list")]
    return next((name for kind, name in names if isinstance(value, kind)), "nothing" if value is None else "pairs")
