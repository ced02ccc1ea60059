"""Chat templates: the text that ``data.template`` names, and rendering one exactly as transformers does.

A template is compiled once and rendered several times per row, which transformers' own call makes slow. Its sandbox
and functions are those of ``transformers.utils.chat_template_utils``; tests hold the two equal. Owns no spans.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ftcluster.config.suggest import did_you_mean
from ftcluster.errors import DataError

_SHIPPED = {file.stem: file for file in sorted((Path(__file__).parent / "templates").glob("*.jinja"))}
_PROBE: Mapping[str, Any] = {
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    "tools": None,
    "documents": None,
    "add_generation_prompt": False,
    "bos_token": "",
    "eos_token": "",
}
Chat = Mapping[str, Any]  # one turn, as a chat template takes it


class HasTemplate(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any

    @property
    def special_tokens_map(self) -> Mapping[str, Any]: ...

    def get_chat_template(self, chat_template: str | None = None, tools: list[dict[str, Any]] | None = None) -> str: ...


def template_text(name: str) -> str | None:
    """The Jinja text that ``data.template`` names, a shipped one or a file's; None for the model's own.

    Raises:
        DataError: no such template, or one that is not valid Jinja or fails on a question and its answer.
    """
    if name == "model":
        return None
    file = _SHIPPED.get(name) or Path(name)
    if file.suffix != ".jinja":
        known = ["model", *_SHIPPED]
        raise DataError(
            f'no chat template "{name}".{did_you_mean(name, known)}',
            where="data.template",
            remedy=f"known: {', '.join(known)}, or a .jinja file of your own",
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        remedy = f"name a file that is there; a relative path starts at {Path.cwd()}"
        raise DataError(f"the chat template cannot be read: {reason}", where=str(file), remedy=remedy) from error
    _try_out(compiled(text, str(file)), file)
    return text


def _try_out(template: Any, file: Path) -> None:
    try:
        template.render(_PROBE)
    except Exception as error:
        if type(error) is TemplateError:  # raise_exception: it asks for other turns than these
            return
        steps = [step.lineno for step in traceback.extract_tb(error.__traceback__) if step.filename == "<template>"]
        raise DataError(
            f"the chat template fails on a question and its answer: {error}",
            where=f"{file}:{steps[-1] if steps else 1}",
            remedy="correct this line; it has messages (role, content), tools, add_generation_prompt, bos_token, "
            "eos_token",
        ) from error


class ChatTemplate:
    """The chat template of a tokenizer that has one.

    Raises:
        DataError: it is not valid Jinja.
    """

    def __init__(self, tokenizer: HasTemplate) -> None:
        self._plain = compiled(tokenizer.get_chat_template(), "chat_template")
        self._with_tools = compiled(tokenizer.get_chat_template(tools=[{}]), "chat_template")
        # Jinja would put these together anew for every rendering, which takes as long as the rendering.
        self._names = {**self._plain.globals, "documents": None, **tokenizer.special_tokens_map}

    def __call__(self, chats: Sequence[Chat], tools: Sequence[Chat] | None = None, *, prompt: bool = False) -> str:
        """The conversation as one text, with the opening of an answer behind it when ``prompt``.

        Raises:
            TemplateError, TypeError, ValueError, and whatever else the template's own code brings about.
        """
        template = self._with_tools if tools else self._plain
        names = {**self._names, "messages": chats, "tools": tools, "add_generation_prompt": prompt}
        return "".join(template.root_render_func(template.new_context(names, shared=True)))


@lru_cache(maxsize=16)
def compiled(text: str, name: str) -> Any:
    """The template of this text; ``name`` is how errors call it.

    Raises:
        DataError: it is not valid Jinja.
    """
    try:
        return _environment().from_string(text)
    except TemplateSyntaxError as error:
        raise DataError(
            f"the chat template is not valid Jinja: {error.message}",
            where=f"{name}:{error.lineno}",
            remedy="correct this line, or choose another with data.template=chatml|alpaca|plain",
        ) from error


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda format: datetime.now().strftime(format),
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return made


class _Generation(Extension):
    """``{% generation %}`` marks what a model writes; here it is only written."""

    tags: set[str] = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller: Macro) -> str:
        return str(caller())


class _Dict:
    """Only what templates need of ``dict``, so that none reaches its type's attributes."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:
        return dict(*pairs, **named)

    def fromkeys(self, *keys: Any) -> dict[Any, Any]:
        return dict.fromkeys(*keys)


class _Namespace(Namespace):
    """As Jinja's, without attributes that could reach Python's internals."""

    def __init__(*args: Any, **named: Any) -> None:  # as Jinja's: a template may name an attribute "self"
        self, *pairs = args
        attributes = dict(*pairs, **named)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"chat templates cannot store underscore-prefixed attributes such as {name!r}")


def _refuse(message: str) -> str:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
