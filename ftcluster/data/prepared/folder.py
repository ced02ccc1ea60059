"""A prepared folder: what lies in it, and how it is opened.

{train,validation,test}.arrow   see ``documents``
epoch.arrow                     document numbers of an epoch, where sources are mixed; see ``mixing``
chat_template.json              the template conversations were written with
report.json                     see ``report``
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ftcluster.data.prepared.documents import Documents, read_numbers
from ftcluster.data.prepared.report import Report
from ftcluster.data.rows.example import Message, message_from
from ftcluster.data.rows.split import SPLITS
from ftcluster.errors import StoreError

HeldOutSplit = Literal["validation", "test"]
EPOCH, REPORT, TEMPLATE = "epoch.arrow", "report.json", "chat_template.json"


@dataclass(frozen=True)
class HeldOut:
    """A held-out document as a question.

    ``messages`` is empty where nothing is asked: for plain text, for a prompt longer than the model reads, and for
    all but the first of the windows that a long row was split into.
    """

    messages: tuple[Message, ...]
    reference: str
    file: str
    line: int
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class PreparedData:
    """An opened folder. Its name is the hash of everything that went in."""

    folder: Path
    train: Documents
    validation: Documents
    test: Documents
    epoch: NDArray[np.int64]  # numbers of the training documents that one epoch reads
    chat_template: str | None  # what conversations were written with; None: the tokenizer's own, or none
    report: Report

    def held_out(self, split: HeldOutSplit) -> list[HeldOut]:
        """Questions of the validation or test side; entry i belongs to its document i."""
        documents = {"validation": self.validation, "test": self.test}[split]
        return [
            HeldOut(
                tuple(message_from(message) for message in question["messages"]),
                question["reference"],
                file,
                line,
                tuple(question.get("tools", ())),
            )
            for question, file, line in documents.questions()
        ]


def open_prepared(folder: Path) -> PreparedData:
    """Open a folder that ``prepare`` made; tokens stay on disk until they are read.

    Raises:
        StoreError: the folder is not one, or has been damaged.
    """
    try:
        report = Report.from_json(json.loads((folder / REPORT).read_text(encoding="utf-8")))
        train, validation, test = (Documents.open(folder, split) for split in SPLITS)
        found = [(len(documents), documents.tokens) for documents in (train, validation, test)]
        if found != [(report.splits[split].documents, report.splits[split].tokens) for split in SPLITS]:
            raise ValueError("its arrays do not have the lengths its report states")
        mixed = (folder / EPOCH).exists()
        epoch = read_numbers(folder / EPOCH) if mixed else np.arange(len(train), dtype=np.int64)
        if len(epoch) != report.epoch.documents:
            raise ValueError("its epoch does not have the length its report states")
        template = json.loads((folder / TEMPLATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"not a complete folder of prepared data: {error}", where=str(folder), remedy="delete it and prepare again"
        ) from error
    return PreparedData(folder, train, validation, test, epoch, template, report)
