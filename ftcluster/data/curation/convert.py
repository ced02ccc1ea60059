"""Any format as messages: one JSON object per line, in the form that reads back as the same example.

{"messages": [{"role", "content"}, ...], "tools": [...]}            conversations, tools only where there are any
{"messages": [...], "chosen": [...], "rejected": [...]}             preference pairs: the prompt, and two answers
{"messages": [...], "label": true}                                  thumbs up and down
{"text": "..."}                                                     plain text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcluster.data.files.source import BadRow
from ftcluster.data.files.writing import new_file
from ftcluster.data.prepared.report import Dropped, Reasons
from ftcluster.data.rows.example import Example
from ftcluster.data.rows.examples import Progress, Read, note, read_files
from ftcluster.data.rows.reading import DataFile, works
from ftcluster.errors import UsageError

# field -> rows that have it
_KINDS = {"chosen": "preference pairs", "label": "thumbs up and down", "text": "plain texts"}


@dataclass(frozen=True)
class Converted:
    """What was written, from which formats, and what could not be."""

    file: Path
    rows: int
    formats: Mapping[str, int]  # format -> rows
    dropped: tuple[Dropped, ...]


def convert(
    files: Sequence[DataFile], out: Path, *, force: bool = False, progress: Progress | None = None
) -> Converted:
    """Write all usable rows of the files as messages; line ends and every character of a text stay what they are.

    Raises:
        DataError: a file that cannot be read.
        UsageError: ``out`` is there and ``force`` is not given, or the rows are of kinds that no file can mix.
        StoreError: it cannot be written.
    """
    dropped = Reasons()
    formats: dict[str, int] = {}
    as_messages = _OneKind()
    with new_file(out, force=force, read=[file.name for file in files]) as write:
        for read in read_files(files, progress):
            if isinstance(read.example, BadRow):
                note(dropped, read.example)
                continue
            write(as_messages(read))
            formats[read.format] = formats.get(read.format, 0) + 1
    return Converted(out, sum(formats.values()), formats, dropped.counted())


def row_maker(files: Sequence[DataFile]) -> Callable[[Read], Mapping[str, Any]]:
    """How usable rows of these files go into one file: as they stand, or as messages where the files are not alike.

    Raises:
        DataError: a file that cannot be read, or whose format is unknown.
    """
    formats = {next((work.format for work in works(file)), "") for file in files}
    alike = len(formats) == 1 and len({tuple(sorted(file.columns.items())) for file in files}) == 1
    return _as_it_stands if alike else _OneKind()


def _as_it_stands(read: Read) -> Mapping[str, Any]:
    assert read.row is not None
    return read.row.values


class _OneKind:
    """Rows as messages; all are of the kind of the first, or the file could not be read back."""

    def __init__(self) -> None:
        self._kind = ""

    def __call__(self, read: Read) -> Mapping[str, Any]:
        assert isinstance(read.example, Example)
        row = as_row(read.example)
        kind = next((_KINDS[field] for field in _KINDS if field in row), "conversations")
        self._kind = self._kind or kind
        if kind != self._kind:
            raise UsageError(
                f"{kind} and {self._kind} cannot be in one file",
                where=f"{read.example.file}:{read.example.line}",
                remedy="write one file of each kind",
            )
        return row


def as_row(example: Example) -> dict[str, Any]:
    """The example as a row of the format "messages", or of its relative that it needs."""
    if not example.messages:
        return {"text": example.text}
    turns = [message.as_chat() for message in example.messages]
    row: dict[str, Any] = {"messages": turns}
    if example.rejected:
        first = _first_of_answer(example)
        rejected = [message.as_chat() for message in example.rejected]
        row = {"messages": turns[:first], "chosen": turns[first:], "rejected": rejected}
    if example.label is not None:
        row["label"] = example.label
    if example.tools:
        row["tools"] = [dict(tool) for tool in example.tools]
    return row


def _first_of_answer(example: Example) -> int:
    """Where the chosen answer of a pair begins: it is as long as the rejected one, or all that follows the question."""
    roles = [message.role for message in example.messages]
    alike = len(roles) - len(example.rejected)
    if alike > 0 and roles[alike] == "assistant":
        return alike
    asked = max(index for index, role in enumerate(roles) if role == "user")
    return roles.index("assistant", asked)
