"""Which files of a data set on the hub hold its training rows: told by their names, never guessed.

A data set may hold several subsets and splits, or the same rows as files of several kinds. Files that are read together
differ in their number alone: ``data/train-00000-of-00002.parquet`` and its like.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from ftcluster.config.locations import COMPRESSED
from ftcluster.errors import DataError

METADATA = ("dataset_info.json", "dataset_infos.json")  # not rows
_TRAIN = re.compile(r"(?<![a-z])train(ing)?(?![a-z])")
_HELD_OUT = re.compile(r"(?<![a-z])(valid(ation)?|dev|val|test(ing)?|eval(uation)?)(?![a-z])")
_SHOWN = 8


def training_files(paths: Sequence[str], name: str) -> list[str]:
    """Of the data files of a data set, by their paths in it, those for training; all if none is of another split.

    Raises:
        DataError: none is, or they differ in more than their number.
    """
    chosen = [path for path in paths if _TRAIN.search(path.lower())]
    chosen = chosen or [path for path in paths if not _HELD_OUT.search(path.lower())]
    series = sorted({_series(path) for path in chosen})
    if len(series) == 1:
        return chosen
    found = series or sorted(paths)
    problem = "has several sets of files: " if series else "has no file for training among its files: "
    raise DataError(
        problem + ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""),
        where=name,
        remedy=f"name what to read, for example {name}/{found[0]}",
    )


def _series(path: str) -> str:
    """The path with * for what tells files of one series apart."""
    file = PurePosixPath(path)
    suffix = "".join(file.suffixes[-2:]) if file.suffix in COMPRESSED else file.suffix
    stem = re.sub(r"-[0-9a-f]{16}$", "-0", file.name.removesuffix(suffix))
    return str(file.with_name(re.sub(r"\d+(-of-\d+)?(-\d+)?", "*", stem) + suffix))
