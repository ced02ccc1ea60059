"""The side an example is on depends on its content and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ftcluster.data.rows.example import Example, Message
from ftcluster.data.rows.split import assign, key


def _example(text: str, line: int = 1) -> Example:
    return Example("rows.jsonl", line, messages=(Message("user", text), Message("assistant", "yes")))


def test_sides_have_about_the_asked_shares() -> None:
    sides = [assign(key(_example(f"row {number}")), 0.2, 0.1) for number in range(5000)]
    assert abs(sides.count("validation") / 5000 - 0.2) < 0.02
    assert abs(sides.count("test") / 5000 - 0.1) < 0.02


@given(st.text(), st.floats(0, 0.5), st.floats(0, 0.49))
def test_a_row_stays_on_its_side_wherever_it_is_in_the_files(text: str, validation: float, test: float) -> None:
    sides = {
        assign(key(Example(file, line, text=text)), validation, test) for file, line in (("a.json", 1), ("b.jsonl", 99))
    }
    assert len(sides) == 1


def test_copies_that_differ_in_spaces_or_unicode_composition_are_the_same_row() -> None:
    assert key(_example("caf\u00e9  au lait\n")) == key(_example("cafe\u0301 au lait"))
    assert key(_example("a")) != key(_example("b"))
    assert key(Example("f", 1, text="a")) != key(_example("a"))


def test_turns_do_not_run_together() -> None:
    apart = Example("f", 1, messages=(Message("user", "a b"), Message("assistant", "c")))
    other = Example("f", 1, messages=(Message("user", "a"), Message("assistant", "b c")))
    assert key(apart) != key(other)


def test_holding_out_more_for_validation_leaves_the_test_side_as_it_was() -> None:
    keys = [key(_example(f"row {number}")) for number in range(500)]
    less = [assign(one, 0.1, 0.1) for one in keys]
    more = [assign(one, 0.3, 0.1) for one in keys]
    assert [side == "test" for side in less] == [side == "test" for side in more]
    assert all(after == "validation" for before, after in zip(less, more, strict=True) if before == "validation")


def test_nothing_is_held_out_at_fraction_zero() -> None:
    assert {assign(key(_example(f"row {number}")), 0.0, 0.0) for number in range(200)} == {"train"}
    assert assign(bytes(32), 0.0, 0.0) == assign(b"\xff" * 32, 0.0, 0.0) == "train"
