"""A small safe expression over config keys: ``optim.batch_size % optim.micro_batch == 0``.

Read with Python's own parser and worked out here, node by node; nothing is ever evaluated by Python, so an
expression can do arithmetic and comparisons, and nothing else. Owns no keys: the caller says which there are.

    numbers, "text", true, false, [lists]      adapter.rank, optim.lr
    + - * / // %                               == != < <= > >=  in  not in
    and or not, (brackets)                     len(x) min(a, b) max(a, b) abs(x)
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ftcluster.config.suggest import did_you_mean
from ftcluster.errors import ConfigError

_LONGEST = 1000
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"len": len, "min": min, "max": max, "abs": abs}
_WORDS: Mapping[str, Any] = {"true": True, "false": False}
_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
_UNARY: Mapping[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}


@dataclass(frozen=True)
class Expression:
    """One that was read; two of the same text are equal."""

    text: str

    @property
    def keys(self) -> frozenset[str]:
        """The config keys it looks at."""
        return frozenset(_keys(self._tree))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true of these values; one that cannot be worked out, such as a division by 0, is not."""
        try:
            return bool(_value(self._tree, values))
        except (TypeError, ZeroDivisionError, ValueError, OverflowError):
            return False

    def check(self, values: Mapping[str, Any]) -> None:
        """Work it out for values that are typical.

        Raises:
            ConfigError: the kinds of its parts do not go together, such as text and a number.
        """
        try:
            _value(self._tree, values)
        except (TypeError, ValueError) as error:
            raise ConfigError([f'"{self.text}" cannot be worked out: {error}.']) from None
        except (ZeroDivisionError, OverflowError):
            return

    @property
    def _tree(self) -> ast.expr:
        return _parsed(self.text)


def read_expression(text: str, known: Collection[str]) -> Expression:
    """Read one.

    Raises:
        ConfigError: it is no expression, has parts that are not allowed, or names keys that are not ``known``.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST} characters")
        found = Expression(text)
        problems = list(dict.fromkeys(_refused(_parsed(text), known)))
    except SyntaxError as error:
        problems = [f'"{text}" cannot be read at character {error.offset or 1}; write for example {_EXAMPLE}.']
    except (ValueError, RecursionError, MemoryError) as error:
        problems = [f'"{text[:40]}..." cannot be read: {error}.']
    if problems:
        raise ConfigError(problems)
    return found


_QUOTED = ' Text stands in quotes: "{}".'
_EXAMPLE = "optim.batch_size % optim.micro_batch == 0"


@lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def _key(node: ast.AST) -> str:
    """``optim.lr`` of its node, nothing of nodes that are no key."""
    if isinstance(node, ast.Attribute):
        above = _key(node.value)
        return f"{above}.{node.attr}" if above else ""
    return node.id if isinstance(node, ast.Name) and node.id not in {*_WORDS, *_FUNCTIONS} else ""


def _keys(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute | ast.Name):
        yield from filter(None, [_key(node)])
    else:
        for part in ast.iter_child_nodes(node):
            yield from _keys(part)


def _refused(node: ast.AST, known: Collection[str]) -> list[str]:
    """What is wrong with a node and those below it."""
    if isinstance(node, ast.Attribute | ast.Name):
        if isinstance(node, ast.Name) and node.id in _WORDS:
            return []
        key = _key(node)
        if not key:
            return [f"{ast.unparse(node)} is not a config key."]
        if key in known:
            return []
        return [f"{key} is not a config key.{did_you_mean(key, known) if '.' in key else _QUOTED.format(key)}"]
    if isinstance(node, ast.Constant):
        fine = isinstance(node.value, str | int | float)
        return [] if fine else [f"{ast.unparse(node)} is neither a number nor text."]
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        if not named or node.keywords:
            return [f"{ast.unparse(node)}: only {', '.join(_FUNCTIONS)} can be called."]
        return [problem for argument in node.args for problem in _refused(argument, known)]
    parts = _parts(node)
    if parts is None:
        return [f"{ast.unparse(node)} is not allowed; write for example {_EXAMPLE}."]
    return [problem for part in parts for problem in _refused(part, known)]


def _parts(node: ast.AST) -> list[ast.expr] | None:
    """What a node is made of; None where it is not allowed."""
    match node:
        case ast.BoolOp(values=values) | ast.List(elts=values) | ast.Tuple(elts=values):
            return values
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return [left, right]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return [operand]
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            return [left, *others]
    return None


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.Name() | ast.Attribute():
            return values[_key(node)]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, values) for item in items]
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_value(part, values) for part in parts)
        case ast.UnaryOp(op=unary, operand=operand):
            return _UNARY[type(unary)](_value(operand, values))
        case ast.BinOp(left=left, op=binary, right=right):
            return _BINARY[type(binary)](_number(_value(left, values)), _number(_value(right, values)))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _FUNCTIONS[name](*(_value(argument, values) for argument in arguments))
        case ast.Compare(left=first, ops=ops, comparators=others):
            chain = [_value(part, values) for part in (first, *others)]
            return all(_COMPARISONS[type(op)](chain[i], chain[i + 1]) for i, op in enumerate(ops))
    raise AssertionError(ast.dump(node))  # refused when it was read


def _number(value: Any) -> Any:
    if isinstance(value, int | float):
        return value
    raise TypeError(f"{value!r} is no number to calculate with")  # texts and lists could grow without end
