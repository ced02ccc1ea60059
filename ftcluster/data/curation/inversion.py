"""Texts in somebody's own voice -> (instruction -> text) pairs: a model writes what each text could answer.

    text -> prompt (Jinja file) -> reply of the endpoint -> {"messages": [user: reply, assistant: text]}

Every reply goes at once into a file beside the result, under a hash of prompt and model. So what was paid for is
kept whatever happens, nothing is asked twice, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from ftcluster.data.curation.endpoint import Asker, Endpoint, NoReplyError
from ftcluster.data.curation.replies import Replies, replies_file
from ftcluster.data.files.source import BadRow
from ftcluster.data.files.writing import new_file, refuse_existing
from ftcluster.data.prepared.report import Dropped, Reasons
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.examples import note, read_files
from ftcluster.data.rows.reading import DataFile
from ftcluster.data.text.template import prompt_of
from ftcluster.errors import DataError, UsageError

Progress = Callable[[int, int], None]  # texts with a reply, texts in all
_SHIPPED = Path(__file__).parent / "prompts"
TASKS = ("instruction", "translation")


@dataclass(frozen=True)
class Text:
    """A text, the prompt that asks about it, and what its reply is kept under."""

    example: Example
    text: str
    prompt: str
    key: str


@dataclass(frozen=True)
class Inverted:
    """Pairs that were written, replies that were there already or are new, and texts without a pair."""

    file: Path
    rows: int
    known: int
    asked: int
    dropped: tuple[Dropped, ...]


def read_prompt(name: str) -> Template:
    """The template of a task, or of a file of the user's own; it sees ``text``, ``instruction`` and ``language``.

    Raises:
        UsageError: no such task or file, or no Jinja.
    """
    path = _SHIPPED / f"{name}.jinja" if name in TASKS else Path(name)
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"no prompt template {name}", where="--prompt", remedy=f"{', '.join(TASKS)}, or a Jinja file"
        ) from error
    except TemplateError as error:
        raise UsageError(f"the prompt template is no Jinja: {error}", where=name, remedy="repair it") from error


def texts(
    files: Sequence[DataFile], template: Template, endpoint: Endpoint, language: str, left_out: Reasons
) -> Iterator[Text]:
    """Every text of the files, with its prompt; rows that cannot be used are counted.

    Raises:
        DataError: a file that cannot be read.
        UsageError: the template asks for something it is not given.
    """
    for read in read_files(files):
        if isinstance(read.example, BadRow):
            note(left_out, read.example)
            continue
        turns, text = prompt_of(read.example)
        asked = [turn.content for turn in turns if turn.role == "user"]
        try:
            prompt = template.render(text=text, instruction=asked[-1] if asked else "", language=language).strip()
        except TemplateError as error:
            raise UsageError(
                f"the prompt template cannot be filled: {error}",
                where="--prompt",
                remedy="it may use text, instruction and language",
            ) from error
        said = json.dumps([endpoint.model, endpoint.max_tokens, prompt])
        yield Text(read.example, text, prompt, hashlib.sha256(said.encode()).hexdigest())


def invert(
    files: Sequence[DataFile],
    out: Path,
    endpoint: Endpoint,
    template: Template,
    *,
    language: str = "",
    opening: str = "",
    force: bool = False,
    progress: Progress | None = None,
) -> Inverted:
    """Ask for what is not known yet, and write the pairs in the order of the texts.

    Raises:
        EndpointError: it refuses, or does not answer any more; what it said is kept.
        KeyboardInterrupt: likewise.
        DataError: a file that cannot be read, or no text in them.
        UsageError, StoreError: ``out`` is there already, or cannot be written.
    """
    refuse_existing(out, force=force)
    left_out = Reasons()
    wanted = list(texts(files, template, endpoint, language, left_out))
    if not wanted:
        raise DataError("no text to invert", where=", ".join(file.name for file in files), remedy="see data formats")
    out.parent.mkdir(parents=True, exist_ok=True)
    replies = Replies.open(replies_file(out))
    open_keys = dict.fromkeys(text.key for text in wanted if text.key not in replies.known)
    known = len({text.key for text in wanted}) - len(open_keys)
    prompts = {text.key: text.prompt for text in wanted if text.key in open_keys}
    problems = asyncio.run(_ask_all(prompts, endpoint, replies, known, progress)) if prompts else {}
    rows = 0
    with new_file(out, force=force, read=[file.name for file in files]) as write:
        for text in wanted:
            if (reply := replies.known.get(text.key)) is None:
                note(left_out, text.example, problems[text.key])
                continue
            turns = [{"role": "user", "content": opening + reply}, {"role": "assistant", "content": text.text}]
            write({"messages": turns})
            rows += 1
    return Inverted(out, rows, known, len(prompts) - len(problems), left_out.counted())


async def _ask_all(
    prompts: dict[str, str], endpoint: Endpoint, replies: Replies, known: int, progress: Progress | None
) -> dict[str, str]:
    """Ask every prompt, a few at a time; why each that has no reply has none."""
    problems: dict[str, str] = {}
    total, todo = known + len(prompts), iter(prompts.items())
    if replies.file.exists() and not replies.file.read_bytes().endswith(b"\n"):
        replies.file.write_bytes(replies.file.read_bytes() + b"\n")  # a kill may have cut its last line short

    async def work(handle: BinaryIO, asker: Asker) -> None:
        for key, prompt in todo:  # shared by all workers
            try:
                replies.add(handle, key, await asker.ask(prompt))
            except NoReplyError as problem:
                problems[key] = str(problem)
            if progress:
                progress(known + len(prompts.keys() & replies.known.keys()) + len(problems), total)

    with replies.file.open("ab") as handle:
        async with Asker(endpoint) as asker:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(endpoint.concurrency, len(prompts))):
                        group.create_task(work(handle, asker))
            except* Exception as errors:
                raise errors.exceptions[0] from None
    return problems
