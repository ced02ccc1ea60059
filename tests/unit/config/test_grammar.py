"""Search-space expressions, read with Hydra's own override grammar."""

import pytest

from ftcluster.config.grammar import Choice, Interval, IntRange, parse_space, split_overrides
from ftcluster.errors import ConfigError


def one(expression):
    return parse_space({"optim.lr": expression})["optim.lr"]


@pytest.mark.parametrize(
    ("expression", "dimension"),
    [
        ("choice(4, 8, 16)", Choice((4, 8, 16))),
        ("choice(0.1,1e-5)", Choice((0.1, 1e-5))),
        ("choice(true,false)", Choice((True, False))),
        ("choice([q_proj,v_proj],[all-linear])", Choice((["q_proj", "v_proj"], ["all-linear"]))),
        ("""choice('a, b',"it's",[ 'x:y' ])""", Choice(("a, b", "it's", ["x:y"]))),
        ("choice(200 steps, 1 epochs)", Choice(("200 steps", "1 epochs"))),
        ("choice('中文', b)", Choice(("中文", "b"))),
        ("1e-3,1e-4", Choice((1e-3, 1e-4))),
        ("sort(3,1,2)", Choice((1, 2, 3))),
        ("range(1,10,2)", IntRange(1, 9, 2)),
        ("range(5)", IntRange(0, 4, 1)),
        ("range(10,1,-3)", IntRange(4, 10, 3)),
        ("range(0,0.4,0.1)", Choice((0.0, 0.1, 0.2, 0.3))),
        ("interval(1e-5,1e-2)", Interval(1e-5, 1e-2)),
        ("tag(log, interval(1e-5, 1e-2))", Interval(1e-5, 1e-2, log=True)),
        ("tag(int, interval(1, 64))", Interval(1, 64, integer=True)),
        ("tag(log, int, interval(1, 64))", Interval(1, 64, log=True, integer=True)),
        ("int(interval(1, 64))", Interval(1, 64, integer=True)),
        ("cosine", Choice(("cosine",))),
        ("'choice(1,2)'", Choice(("choice(1,2)",))),
        (" 8\n", Choice((8,))),
        (8, Choice((8,))),
        (True, Choice((True,))),
        ([4, 8], Choice((4, 8))),
        ([["q_proj"], ["q_proj", "v_proj"]], Choice((["q_proj"], ["q_proj", "v_proj"]))),
        (["1,2", "choice(3)"], Choice(("1,2", "choice(3)"))),
    ],
)
def test_an_expression_is_read_as(expression, dimension):
    assert one(expression) == dimension


def test_whole_numbers_stay_whole_and_floats_stay_floats():
    assert [type(value) for value in one("choice(1,2.0,true,'3')").values] == [int, float, bool, str]
    assert type(one("tag(int, interval(1, 64))").low) is int


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("choice(4,8", r'"choice\(4,8" cannot be read .*; write for example optim.lr: choice\(4, 8, 16\)'),
        ("interval(1,", r'"interval\(1," cannot be read .*; write for example optim.lr: interval\(0, 0.3\)'),
        ("interval(a,b)", r"cannot be read \(mismatch type argument start: str"),
        ("choice(1,2) 3", "cannot be read"),
        ("choice()", r"cannot be read \(empty choice is not legal\)"),
        ("foo(1)", r"cannot be read \(Unknown function 'foo'\)"),
        ([], "has no values to choose from"),
        ([4, 8, 4], "lists 4 twice"),
        ("1,1", "lists 1 twice"),
        ("shuffle(1,2)", "shuffle is not repeatable; list the values"),
        ("shuffle([1,2])", "shuffle is not repeatable"),
        ("glob(*)", "glob is not supported; name the options"),
        ("range(1,1)", r"range\(1, 1, 1\) is empty; write for example optim.lr: range\(1, 10, 2\)"),
        ("range(1,5,0)", "a step other than 0"),
        ("range(0,1e9,0.1)", "the range has 10000000000 values; use an interval"),
        ("interval(2,1)", r"interval\(2, 1\) needs a low end below its high end"),
        ("interval(0,inf)", "needs a low end below its high end"),
        ("tag(log,interval(0,1))", r"must start above 0, not at 0; write for example optim.lr: tag\(log"),
        ("tag(int,interval(0.5,2))", "needs whole ends"),
        ("tag(fast,interval(0,1))", "unknown tag fast; known: log, int"),
        ("tag(log,choice(1,2))", "only an interval can be tagged"),
        ("choice(1,nan)", "nan is not a finite number"),
        ("choice(中文, b)", r"cannot be read .*; write for example optim.lr: choice\('中文', 'a, b'\)"),
        ("choice(null,1)", r"cannot be read \(mismatch type argument args\[0\]: NoneType\)"),
        ("null,1", "null is not a value to choose"),
        (None, "null is not a value to choose"),
        ({"a": 1}, "a mapping is not a value to choose"),
        ("[choice(1,2),3]", "a sweep inside a value is not a value to choose"),
    ],
)
def test_a_wrong_expression_is_refused_with_its_key_and_a_right_example(expression, message):
    with pytest.raises(ConfigError, match=f"^space.optim.lr: .*{message}"):
        one(expression)


@pytest.mark.parametrize("key", ["", "a b", "~optim", 3, "a=b"])
def test_a_key_that_cannot_be_overridden_is_refused(key):
    with pytest.raises(ConfigError, match=r"is not a config key; use names and dots, such as optim\.lr"):
        parse_space({key: "1,2"})


def test_all_problems_of_a_space_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_space({"optim.lr": "interval(2,1)", "adapter.rank": "choice(", "a b": 1, "seed": "1,2"})
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "space.optim.lr",
        "space.adapter.rank",
        "space.a b",
    ]


def test_every_example_given_in_a_message_is_itself_right():
    with pytest.raises(ConfigError) as caught:
        parse_space({"a": "choice(", "b": "range(1,1)", "c": "tag(x,interval(0,1))", "d": "interval(1,0)"})
    for problem in caught.value.problems:
        key, _, expression = problem.split("write for example ")[1].partition(": ")
        assert parse_space({key: expression})


def test_words_that_sweep_are_parted_from_words_that_set():
    words = [
        "experiment=lora_sft",
        "optim.lr=1e-3,1e-4",
        "+new.key=choice(1,2)",
        "~data",
        "model=tiny,small",
        "a='x,y'",
    ]
    fixed, swept = split_overrides(words)
    assert fixed == ["experiment=lora_sft", "~data", "a='x,y'"]
    assert swept == {
        "optim.lr": Choice((1e-3, 1e-4)),
        "+new.key": Choice((1, 2)),
        "model": Choice(("tiny", "small")),
    }


def test_all_wrong_words_are_told_at_once_with_a_right_one_for_the_shell():
    with pytest.raises(ConfigError) as caught:
        split_overrides(["optim.lr=1e-3,", "foo", "a=1,2", "a=3,4", "b=1", "b=1,2", "c=shuffle(1,2)"])
    first, second, third, fourth, fifth = caught.value.problems
    assert first.startswith('optim.lr=1e-3,: "1e-3," cannot be read')
    assert first.endswith("write for example 'optim.lr=choice(4, 8, 16)'")
    assert second.startswith('foo: "" cannot be read (missing EQUAL')
    assert third == "a=3,4: is swept twice; write for example 'a=1e-3,1e-4'"
    assert fourth.startswith("c=shuffle(1,2): shuffle is not repeatable")
    assert fifth == "b is both set (b=1) and swept; keep one of them"
