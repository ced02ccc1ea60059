"""How data files are named in a config: paths, URLs of object stores, and data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType

HUB = "hub:"
KINDS: Mapping[str, str] = MappingProxyType(
    {
        ".json": "a list of objects",
        ".jsonl": "one object per line",
        ".ndjson": "one object per line",
        ".csv": "a table, with commas, semicolons or tabs",
        ".tsv": "a table, with tabs",
        ".xlsx": "an Excel workbook",
        ".parquet": "a Parquet file",
    }
)
COMPRESSED_IN_THEMSELVES = (".xlsx", ".parquet")
COMPRESSED = (".gz", ".zst")  # may follow the other kinds


def is_remote(name: str) -> bool:
    """True for ``s3://bucket/rows.jsonl`` and its like, and for ``hub:owner/name``; False for paths."""
    return "://" in name or name.startswith(HUB)


def kind_of(file: PurePath) -> str:
    """Which of KINDS a file is by its name, behind which may be .gz or .zst; empty: none that is read."""
    suffix = file.suffix.lower()
    if suffix in COMPRESSED:
        inner = PurePath(file.stem).suffix.lower()
        return inner if inner in KINDS and inner not in COMPRESSED_IN_THEMSELVES else ""
    return suffix if suffix in KINDS else ""
