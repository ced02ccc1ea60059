"""What to read and what to make of it: plain values, in which a config's data group arrives here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ftcluster.config.schema import RunConfig, SourceConfig
from ftcluster.data.files.places import resolve
from ftcluster.data.rows.formats import check_format
from ftcluster.data.rows.reading import DataFile
from ftcluster.data.rows.split import Split
from ftcluster.errors import DataError

ALL = "train"  # name of the only source of data that is not mixed


@dataclass(frozen=True)
class Source:
    """One data set. Without weight and count each of its documents is read once per epoch."""

    name: str
    files: tuple[str, ...]
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float = 0.0
    count: int = 0
    limit: int = 0


@dataclass(frozen=True)
class DataSettings:
    """The fields are those of the config group ``data``, and the objective; either ``train`` or ``mixed`` is given."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    mixed: tuple[Source, ...] = ()
    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    max_length: int = 512
    too_long: str = "drop"
    max_bad_rows: float = 0.01
    limit: int = 0
    objective: str = "sft"
    loss_on: str = "answers"

    @property
    def sources(self) -> tuple[Source, ...]:
        """What the training rows come from."""
        return self.mixed or (Source(ALL, self.train, self.format, self.columns),)

    def fraction(self, split: Split) -> float:
        """The share of the training files that is held out for a side; 0 where it has files of its own."""
        shares = {"train": 0.0, "validation": self.validation_fraction, "test": self.test_fraction}
        return 0.0 if {"train": (), "validation": self.validation, "test": self.test}[split] else shares[split]

    def files(self) -> list[DataFile]:
        """All files in the order in which they are read: held-out files first, as their rows may not be trained on."""
        held_out: list[tuple[Split, tuple[str, ...]]] = [("test", self.test), ("validation", self.validation)]
        found = [
            DataFile(0, name, side, format=self.format, columns=self.columns)
            for side, names in held_out
            for name in names
        ]
        for index, source in enumerate(self.sources):
            of = source.name if self.mixed else ""
            found += (DataFile(0, name, None, index, of, source.format, source.columns) for name in source.files)
        return [replace(file, number=number) for number, file in enumerate(found)]

    def check(self) -> None:
        """Refuse what cannot work whatever the files hold.

        Raises:
            DataError: no training file, an unknown format, fractions that leave nothing to train on.
        """
        if not any(source.files for source in self.sources):
            raise DataError("no training file", where="data.train", remedy="name one or more data files")
        for source in (Source("", (), self.format, self.columns), *self.sources):
            if source.format != "auto":
                check_format(source.format, source.columns)
        held_out = self.fraction("validation") + self.fraction("test")
        if min(self.validation_fraction, self.test_fraction) < 0 or held_out >= 1:
            raise DataError(
                f"validation and test take {held_out:g} of the rows, which leaves none to train on",
                where="data.validation_fraction, data.test_fraction",
                remedy="give fractions from 0 to 1 whose sum is below 1",
            )


def data_settings(config: RunConfig, downloads: Path) -> DataSettings:
    """A config's data as ``prepare`` takes it, with every name a local file; remote ones are downloaded once.

    Raises:
        DataError: a file that is not there, or cannot be had.
    """
    data = config.data

    def local(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(str(file) for file in resolve(names, downloads))

    def mixed(name: str, source: SourceConfig) -> Source:
        return Source(
            name,
            local(source.files),
            source.format or data.format,
            source.columns or data.columns,
            source.weight,
            source.count,
            source.limit,
        )

    return DataSettings(
        train=local(data.train),
        validation=local(data.validation),
        test=local(data.test),
        mixed=tuple(mixed(name, source) for name, source in data.sources.items()),
        format=data.format,
        columns=dict(data.columns),
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        max_length=data.max_length,
        too_long=data.too_long,
        max_bad_rows=data.max_bad_rows,
        limit=data.limit,
        objective=config.objective.name,
        loss_on=config.objective.loss_on,
    )
