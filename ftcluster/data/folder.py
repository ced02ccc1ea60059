"""A prepared folder: writes it whole or not at all, and opens it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ftcluster.data.documents import Documents
from ftcluster.data.formats import Example, Message
from ftcluster.data.report import Report
from ftcluster.data.split import SPLITS, Split
from ftcluster.data.template import prompt_of
from ftcluster.errors import StoreError

HeldOutSplit = Literal["validation", "test"]
_HELD_OUT: tuple[HeldOutSplit, ...] = ("validation", "test")


@dataclass(frozen=True)
class Side:
    """One side of the split before it is written; ``examples`` and documents are aligned."""

    examples: tuple[Example, ...]
    documents: Documents


@dataclass(frozen=True)
class HeldOut:
    """A held-out example as a question; ``messages`` is empty for plain text, which asks nothing."""

    messages: tuple[Message, ...]
    reference: str
    file: str
    line: int


@dataclass(frozen=True)
class PreparedData:
    """An opened folder. Its name is the hash of everything that went in."""

    folder: Path
    train: Documents
    validation: Documents
    test: Documents
    report: Report

    def held_out(self, split: HeldOutSplit) -> list[HeldOut]:
        """Questions of the validation or test side; entry i belongs to its document i."""
        lines = (self.folder / f"{split}.examples.jsonl").read_text(encoding="utf-8").split("\n")
        values = (json.loads(line) for line in lines if line)
        return [
            HeldOut(tuple(Message(**message) for message in v["messages"]), v["reference"], v["file"], v["line"])
            for v in values
        ]


def write_prepared(folder: Path, sides: Mapping[Split, Side], report: Report) -> None:
    """Write a folder into its place; one that another process has put there meanwhile is as good and stays."""
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for split, side in sides.items():
            side.documents.save(scratch, split)
        for split in _HELD_OUT:
            lines = "".join(_line(example) + "\n" for example in sides[split].examples)
            (scratch / f"{split}.examples.jsonl").write_text(lines, encoding="utf-8")
        (scratch / "report.json").write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False), encoding="utf-8")
        for file in scratch.iterdir():
            _to_disk(file)
        scratch.chmod(0o755)  # a temporary folder is private; the store may be a team's
        _move(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _line(example: Example) -> str:
    messages, reference = prompt_of(example)
    place = {"file": example.file, "line": example.line}
    return json.dumps(
        {"messages": [asdict(message) for message in messages], "reference": reference, **place}, ensure_ascii=False
    )


def _to_disk(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _move(scratch: Path, folder: Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def open_prepared(folder: Path) -> PreparedData:
    """Open a folder that ``prepare`` made; arrays stay on disk until they are read.

    Raises:
        StoreError: the folder is not one, or has been damaged.
    """
    try:
        report = Report.from_json(json.loads((folder / "report.json").read_text(encoding="utf-8")))
        train, validation, test = (Documents.open(folder, split) for split in SPLITS)
        found = [(len(documents), documents.tokens) for documents in (train, validation, test)]
        if found != [(report.splits[split].rows, report.splits[split].tokens) for split in SPLITS]:
            raise ValueError("its arrays do not have the lengths its report states")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"not a complete folder of prepared data: {error}", where=str(folder), remedy="delete it and prepare again"
        ) from error
    return PreparedData(folder, train, validation, test, report)
