"""The history of an alias: what it reads as, whatever is killed between two writes."""

from __future__ import annotations

import random

import pytest

from ftcluster.registry.history import LONGEST, after_promotion, decode_history, encode_history, read_history


class Alias:
    """The two records MLflow keeps, and a process that may be killed before either write."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.current: str | None = None

    def promote(self, version: str, writes: int = 2) -> None:
        self._write(after_promotion(self.read(), version), version, writes)

    def roll_back(self, writes: int = 2) -> None:
        self._write(self.read(), self.read()[-2], writes)

    def read(self) -> list[str]:
        return read_history(self.written, self.current)

    def _write(self, history: list[str], version: str, writes: int) -> None:
        if writes >= 1:
            self.written = history
        if writes >= 2:
            self.current = version


def test_an_alias_that_was_never_set_has_no_history() -> None:
    assert read_history(["1", "2"], None) == []


def test_each_promotion_is_remembered_in_order() -> None:
    alias = Alias()
    for version in ("1", "2", "5"):
        alias.promote(version)
    assert alias.read() == ["1", "2", "5"]


def test_a_rollback_goes_one_champion_back_each_time() -> None:
    alias = Alias()
    for version in ("1", "2", "5"):
        alias.promote(version)
    alias.roll_back()
    assert (alias.current, alias.read()) == ("2", ["1", "2"])
    alias.roll_back()
    assert (alias.current, alias.read()) == ("1", ["1"])


def test_a_version_may_be_champion_twice_and_both_are_rolled_back() -> None:
    alias = Alias()
    for version in ("1", "2", "1"):
        alias.promote(version)
    assert alias.read() == ["1", "2", "1"]
    alias.roll_back()
    alias.roll_back()
    assert (alias.current, alias.read()) == ("1", ["1"])


def test_promoting_the_champion_again_adds_nothing() -> None:
    alias = Alias()
    alias.promote("1")
    alias.promote("1")
    assert alias.read() == ["1"]


def test_an_alias_moved_by_other_means_has_no_known_predecessor() -> None:
    alias = Alias()
    alias.promote("1")
    alias.promote("2")
    alias.current = "9"
    assert alias.read() == ["9"]


@pytest.mark.parametrize("seed", range(20))
def test_history_is_that_of_the_completed_moves_whatever_was_killed_in_between(seed: int) -> None:
    draw = random.Random(seed)
    alias, truth = Alias(), []
    for _ in range(200):
        writes = draw.choice([0, 1, 2, 2])
        if len(truth) > 1 and draw.random() < 0.4:
            alias.roll_back(writes)
            truth = truth[:-1] if writes == 2 else truth
        else:
            version = str(draw.randint(1, 4))
            alias.promote(version, writes)
            truth = [*truth, version] if writes == 2 and truth[-1:] != [version] else truth
        assert alias.read() == truth[-LONGEST:]
        assert alias.current == (truth[-1] if truth else None)


def test_a_long_history_forgets_its_beginning() -> None:
    alias = Alias()
    for version in range(LONGEST + 5):
        alias.promote(str(version))
    assert alias.read() == [str(version) for version in range(5, LONGEST + 5)]


def test_a_history_survives_being_written_as_a_tag() -> None:
    assert decode_history(encode_history(["1", "12"])) == ["1", "12"]


@pytest.mark.parametrize("text", [None, "", "{}", "no json", '"3"'])
def test_a_damaged_tag_reads_as_no_history(text: str | None) -> None:
    assert decode_history(text) == []
