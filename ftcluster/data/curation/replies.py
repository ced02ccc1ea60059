"""Replies of an endpoint, kept on disk as they come, so that none is paid for twice."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO


@dataclass
class Replies:
    """Replies by key, on disk as one JSON object per line."""

    file: Path
    known: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, file: Path) -> Replies:
        """What an earlier start got; a line that a kill cut short is as if it was never asked."""
        known: dict[str, str] = {}
        with suppress(FileNotFoundError):
            for line in file.read_bytes().split(b"\n"):
                with suppress(ValueError, KeyError, TypeError):
                    reply = json.loads(line)
                    known[reply["key"]] = reply["reply"]
        return cls(file, known)

    def add(self, handle: BinaryIO, key: str, reply: str) -> None:
        """Keep a reply: it is on disk when this returns."""
        self.known[key] = reply
        handle.write(json.dumps({"key": key, "reply": reply}, ensure_ascii=False).encode() + b"\n")
        handle.flush()
        os.fsync(handle.fileno())


def replies_file(out: Path) -> Path:
    """Where the replies for a result are kept."""
    return out.with_name(f"{out.name}.replies.jsonl")
