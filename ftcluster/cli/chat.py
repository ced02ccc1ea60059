"""``ftcluster chat``: a conversation in the terminal, or one answer for a script."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftcluster.cli.arguments import Home, Json
from ftcluster.cli.complete import complete_run
from ftcluster.cli.output import console, notices, print_json

if TYPE_CHECKING:
    from ftcluster.registry.conversation import Conversation, Reply
    from ftcluster.registry.speaker import Speaker

_HELP = "/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops an answer"


def chat(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="[REF]",
            autocompletion=complete_run,
            help="A run, a sweep (its best trial), MODEL@ALIAS, or a model's folder; default: what finished last.",
            show_default=False,
        ),
    ] = "",
    once: Annotated[str | None, typer.Option(metavar="PROMPT", help="Print the answer to this, and end.")] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="System prompt.")] = "",
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer.")] = 256,
    base: Annotated[bool, typer.Option("--base", help="The same model without its adapter.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Talk to a base model, a run or a registered adapter. Answers are greedy: the same question, the same answer.

    ftcluster chat my-sweep
    ftcluster chat assistant@champion --once "Book a table for two"
    ftcluster chat assistant@champion --base --once "Book a table for two"
    ftcluster chat ./qwen
    """
    from ftcluster.config.environment import default_home
    from ftcluster.registry.conversation import Conversation
    from ftcluster.registry.speaker import find_speaker, load_speaker
    from ftcluster.registry.store import Registry
    from ftcluster.training.records import store_uri

    place = (home or default_home()).expanduser().absolute()
    with tempfile.TemporaryDirectory(prefix="ftcluster-chat-") as scratch:
        speaker = find_speaker(reference, place, Registry(store_uri(place, "")), Path(scratch))
        if base:
            speaker = replace(speaker, title=f"the base of {speaker.title}", adapter=None)
        conversation = Conversation(load_speaker(speaker), system=system, max_new_tokens=max_new_tokens)
    if once is not None:
        _answer_once(conversation, once, speaker, as_json=as_json)
    else:
        _talk(conversation, speaker, as_json=as_json)


def _answer_once(conversation: Conversation, prompt: str, speaker: Speaker, *, as_json: bool) -> None:
    if as_json:
        print_json(_as_object(conversation.say(prompt), speaker))
        return
    reply = conversation.say(prompt, _write)
    print()
    _remark(reply)


def _talk(conversation: Conversation, speaker: Speaker, *, as_json: bool) -> None:
    """Read questions until the end of input; with ``as_json`` each line in gives one object out."""
    person = sys.stdin.isatty() and not as_json
    if person:
        notices().print(f"{speaker.title}. {_HELP}", soft_wrap=True)
    for line in iter(lambda: _read(person), None):
        match line.strip():
            case "":
                continue
            case "/quit":
                return
            case "/reset":
                conversation.reset()
                notices().print("forgotten")
            case command if command.startswith("/"):
                notices().print(f"{command} is not a command; {_HELP}", soft_wrap=True, markup=False)
            case text if as_json:
                print_json(_as_object(conversation.say(text), speaker))
            case text:
                _exchange(conversation, text)


def _read(person: bool) -> str | None:
    """The next line; None at the end of input."""
    try:
        return console().input("[bold]> [/bold]") if person else input()
    except EOFError:
        if person:
            print()
        return None


def _exchange(conversation: Conversation, text: str) -> None:
    try:
        reply = conversation.say(text, _write)
    except KeyboardInterrupt:
        print()
        notices().print("stopped; this question is forgotten")
        return
    print()
    _remark(reply)


def _remark(reply: Reply) -> None:
    if reply.forgotten:
        notices().print(f"the model has no more room: the {reply.forgotten} oldest turns are forgotten")
    if not reply.finished:
        notices().print("cut off at the longest answer; --max-new-tokens allows more")


def _write(piece: str) -> None:
    print(piece, end="", flush=True)


def _as_object(reply: Reply, speaker: Speaker) -> dict[str, object]:
    return {"model": speaker.title, "answer": reply.text, "finished": reply.finished, "tokens": reply.tokens}
