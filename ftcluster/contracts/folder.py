"""Where a run keeps its things, so that no two modules spell a file name twice.

::

    <home>/ledger.db mlflow.db mlartifacts/ prepared/ demo/
    <home>/<run>/                 a training;  <home>/<sweep>/<trial>/ for a trial
        run.yaml                  the resolved config
        facts.json                prepared data, base revision, total steps: what start-up found out
        data.html                 the report on its data
        spool.jsonl mlflow.json   records on their way to MLflow
        checkpoints/step-*/       resumable states
        adapter/ or model/        the result: PEFT format, or a Hugging Face folder
        memory.json               bytes foretold and measured, and the micro-batch that fits where the config's did not
        test.json                 answers and losses on the test rows, once somebody compared or promoted
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunFolder:
    """Names inside one run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "run.yaml"

    @property
    def facts(self) -> Path:
        return self.path / "facts.json"

    @property
    def data_page(self) -> Path:
        return self.path / "data.html"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def memory(self) -> Path:
        return self.path / "memory.json"

    @property
    def test(self) -> Path:
        return self.path / "test.json"

    def read_facts(self) -> dict[str, Any]:
        """What start-up found out; empty before the run started."""
        return json.loads(self.facts.read_text()) if self.facts.exists() else {}

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        write_atomically(self.facts, json.dumps(dict(facts), indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file so that readers, and a crash, see the old text or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Wait until a file, or which names a folder holds, would survive a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
