"""Enumerating a space and writing its points as override words."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.config.grammar import Choice, parse_space
from ftcluster.errors import ConfigError
from ftcluster.sweep.space import Space, describe, grid, grid_point, override_words, size


def space_of(entries, **rules):
    return Space(parse_space(entries), **rules)


SPACE = space_of({"adapter.rank": "choice(4,8)", "targets": "choice([q],[q,v],all)", "seed": "range(1,6,2)"})

values = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.text(alphabet="\\'\"ab ,[]{}$()=:\n\t#中"),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def test_the_grid_holds_every_combination_once_and_the_last_key_changes_fastest():
    points = list(grid(SPACE))
    expected = itertools.product([4, 8], [["q"], ["q", "v"], "all"], [1, 3, 5])
    assert [tuple(point.values()) for point in points] == list(expected)
    assert size(SPACE) == len(points) == 18


def test_a_grid_point_is_found_by_its_number_and_there_is_none_after_the_last():
    assert [grid_point(SPACE, number) for number in range(18)] == list(grid(SPACE))
    assert grid_point(SPACE, 18) is None


def test_a_space_without_keys_has_one_point_that_changes_nothing():
    assert list(grid(Space({}))) == [{}]
    assert override_words({}) == []


def test_an_interval_cannot_be_enumerated_and_every_one_is_named():
    space = space_of({"optim.lr": "interval(0,1)", "rank": "choice(1,2)", "k": "tag(int,interval(1,9))"})
    with pytest.raises(ConfigError) as caught:
        grid(space)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["space.optim.lr", "space.k"]
    assert "cannot enumerate an interval; use range(1, 10, 2), choice(1e-4, 1e-3)" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (8, "a.b=8"),
        (1e-5, "a.b=1e-05"),
        (True, "a.b=true"),
        ("tiny", "a.b=tiny"),
        ("true", "a.b='true'"),
        ("3 epochs", "a.b='3 epochs'"),
        ("it's", r"a.b='it\'s'"),
        (["q_proj", "v_proj"], "a.b=[q_proj,v_proj]"),
        ([], "a.b=[]"),
    ],
)
def test_a_value_is_written_so_that_a_person_can_type_it(value, word):
    assert override_words({"a.b": value}) == [word]


@given(values)
def test_every_written_value_is_read_back_exactly(value):
    (word,) = override_words({"a.b": value})
    read = parse_space({"a.b": word.removeprefix("a.b=")})["a.b"]
    assert isinstance(read, Choice)
    assert repr(read.values) == repr((value,))  # repr tells 1 from 1.0 and True, and -0.0 from 0.0


def test_a_description_lists_each_key_and_counts_the_points():
    space = space_of({"lr": "tag(log,interval(1e-5,1e-2))", "rank": "range(1,10,2)", "k": "int(interval(1,3))"})
    assert describe(space) == (
        "lr    1e-05 to 0.01 (log)\nrank  1 to 9 in steps of 2\nk     1 to 3 (whole numbers)\npoints without end"
    )
    assert describe(SPACE).splitlines()[1:] == [
        "targets       [q], [q,v], all",
        "seed          1 to 5 in steps of 2",
        "18 points",
    ]
