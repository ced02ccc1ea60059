"""What an error tells its reader, and that it arrives whole from another process."""

from __future__ import annotations

import copy

import pytest

from ftcluster import errors
from ftcluster.errors import ConfigError, EndpointError, FtclusterError, Problems, TrackingError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FtclusterError)]


def in_another_process(error: FtclusterError) -> FtclusterError:
    """What arrives there: Ray takes an error apart and makes it again by its ``__reduce__``, as a copy does."""
    return copy.copy(error)


def made(kind: type[FtclusterError]) -> FtclusterError:
    if issubclass(kind, ConfigError):
        return kind(["first problem", "second problem"], where="optim.lr", remedy="lower it")
    return kind("what happened", where="optim.lr", remedy="lower it")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_arrives_whole_from_another_process(kind: type[FtclusterError]) -> None:
    error = made(kind)
    again = in_another_process(error)
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_an_error_shows_where_what_and_the_remedy() -> None:
    error = FtclusterError("the disk is full", where="runs/a", remedy="free space")
    assert str(error) == "runs/a: the disk is full\n  -> free space"
    assert str(FtclusterError("the disk is full")) == "the disk is full"


def test_a_config_error_lists_every_problem() -> None:
    assert str(made(ConfigError)) == "optim.lr: 2 problems:\n  - first problem\n  - second problem\n  -> lower it"
    assert str(ConfigError(["only this"], where="file:3")) == "file:3: only this"


def test_exit_codes_are_those_of_the_table_in_the_module() -> None:
    table = errors.__doc__ or ""
    for kind in KINDS:
        (line,) = [line for line in table.splitlines() if kind.__name__ in line.split("exit")[0].split()]
        assert f"exit {kind.exit_code} " in line + " ", kind


def test_only_an_outage_is_worth_another_try_unchanged() -> None:
    assert {kind for kind in KINDS if kind.retryable} == {TrackingError, EndpointError}


def test_problems_of_several_checks_are_collected_and_told_once_each() -> None:
    found = Problems()
    for text in ("one", "two", "one"):
        with found.collected():
            raise ConfigError([text], remedy=f"mend {text}")
    with pytest.raises(ConfigError) as told:
        found.refuse(where="here")
    assert (told.value.problems, told.value.where, told.value.remedy) == (["one", "two"], "here", "mend one")
    Problems().refuse()
