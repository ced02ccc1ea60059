"""The demo's data files, made on the spot from a seed.

    pretrain.jsonl   {"text": ...}       what the base model reads: sentences, records, repetitions
    tools.jsonl      {"messages": ...}   the task: a request and the JSON call that answers it

Owns how many rows there are and that no two are the same; what they say is made in ``pretraining`` and
``tools``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ftcluster.contracts.folder import write_atomically
from ftcluster.demo import pretraining, tools
from ftcluster.errors import StoreError

PRETRAIN_ROWS = 10_000
TOOL_ROWS = 4000


@dataclass(frozen=True)
class DemoData:
    """Where the files are."""

    pretrain: Path
    tools: Path


def write_demo_data(folder: Path, *, seed: int = 17) -> DemoData:
    """Write both files into ``folder``; the same seed gives the same bytes.

    Raises:
        StoreError: the folder cannot be written.
    """
    data = DemoData(pretrain=folder / "pretrain.jsonl", tools=folder / "tools.jsonl")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(data.pretrain, [{"text": text} for text in pretraining_texts(PRETRAIN_ROWS, seed=seed)])
        _write(data.tools, [{"messages": messages} for messages in tool_rows(TOOL_ROWS, seed=seed)])
    except OSError as problem:
        raise StoreError(
            f"the demo's data cannot be written: {problem}",
            where=str(folder),
            remedy="check its rights and the free space",
        ) from problem
    return data


def read_texts(data: DemoData) -> Iterator[str]:
    """All text of both files, for training a tokenizer."""
    for line in data.pretrain.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)["text"]
    for line in data.tools.read_text(encoding="utf-8").splitlines():
        yield from (message["content"] for message in json.loads(line)["messages"])


def pretraining_texts(count: int, *, seed: int) -> list[str]:
    """Distinct lines of plain text."""
    random = Random(f"pretraining {seed}")
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[pretraining.line(random)] = None
    return list(texts)


def tool_rows(count: int, *, seed: int) -> list[list[dict[str, str]]]:
    """Messages of distinct requests; tools and languages take turns, so each has its share."""
    random = Random(f"tools {seed}")
    answers: dict[str, str] = {}
    kinds = [(tool, language) for tool in tools.TOOLS for language in tools.LANGUAGES]
    for turn in range(count):
        tool, language = kinds[turn % len(kinds)]
        request, answer = tools.ask(tool, language, random)
        while request in answers:
            request, answer = tools.ask(tool, language, random)
        answers[request] = answer
    rows = [
        [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
        for request, answer in answers.items()
    ]
    random.shuffle(rows)
    return rows


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
