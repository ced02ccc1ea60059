"""The tools on data files: nothing is lost in silence, nothing is written by halves, and samples are nested."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftcluster.data.audit.repair import clean, mend
from ftcluster.data.audit.survey import survey
from ftcluster.data.curation.convert import as_row, convert
from ftcluster.data.curation.divide import divide
from ftcluster.data.curation.sampling import choose, sample
from ftcluster.data.files.source import Row
from ftcluster.data.files.writing import new_file
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.data.rows.example import Example, Message, ToolCall
from ftcluster.data.rows.examples import data_files, read_files
from ftcluster.data.rows.formats import detect, to_example
from ftcluster.data.rows.split import assign, key
from ftcluster.errors import StoreError, UsageError

Write = Callable[..., str]


def _pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"question": f"How many is {n}?", "answer": f"It is {n}, no more." + " Well." * (n % 40)}
        for n in range(start, start + count)
    ]


def _files(*names: str) -> Any:
    return data_files(names, "auto", {})


def _lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


# writing


def test_a_file_that_is_read_is_never_replaced(write_rows: Write) -> None:
    file = Path(write_rows([*_pairs(3), {"question": "no answer"}]))
    before = file.read_bytes()
    for write in (convert, clean, lambda files, out, force: sample(files, out, 0.5, force=force)):
        with pytest.raises(UsageError, match="is one of the files that are read"):
            write(_files(str(file)), file, force=True)
    assert file.read_bytes() == before


def test_a_file_that_is_there_is_not_replaced_unless_forced(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text("mine")
    with pytest.raises(UsageError, match="is there already") as caught, new_file(file):
        pass
    assert "--force" in str(caught.value)
    assert file.read_text() == "mine"
    with new_file(file, force=True) as write:
        write({"a": "好\u2028\r\n"})
    assert _lines(file) == [{"a": "好\u2028\r\n"}]


def test_an_error_leaves_neither_a_new_file_nor_half_of_one(tmp_path: Path) -> None:
    with pytest.raises(TypeError), new_file(tmp_path / "out.jsonl") as write:
        write({"a": 1, ("no", "name"): 2})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(StoreError, match="cannot be written") as caught, new_file(tmp_path / "taken" / "out.jsonl"):
        pass
    assert "taken/out.jsonl" in str(caught.value)
    with pytest.raises(UsageError, match="is a folder"), new_file(tmp_path):
        pass


# convert


QUESTION, ANSWER = Message("user", "Weather in Paris?\r\nThanks 😀"), Message("assistant", "Sunny.\u2028")
CALL = Message("assistant", "", (ToolCall("weather", {"city": "Paris"}),))
RESULT = Message("tool", '{"sky": "clear"}', name="weather")
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize(
    "example",
    [
        Example("rows.jsonl", 1, text="Plain text,\r\nas it is."),
        Example("rows.jsonl", 1, (Message("system", "Be kind."), QUESTION, ANSWER)),
        Example("rows.jsonl", 1, (QUESTION, CALL, RESULT, ANSWER), tools=(TOOL,)),
        Example("rows.jsonl", 1, (QUESTION, ANSWER), label=False),
        Example("rows.jsonl", 1, (QUESTION, ANSWER), rejected=(Message("assistant", "Rain."),)),
        Example("rows.jsonl", 1, (QUESTION, ANSWER, QUESTION, ANSWER), rejected=(Message("assistant", "Rain."),)),
        Example(
            "rows.jsonl", 1, (QUESTION, CALL, RESULT, ANSWER), rejected=(Message("assistant", "No."),), tools=(TOOL,)
        ),
    ],
)
def test_a_converted_row_reads_back_as_the_same_example(example: Example) -> None:
    row = Row(json.loads(json.dumps(as_row(example))), "rows.jsonl", 1)
    assert to_example(row, detect([row]), {}) == example


@pytest.mark.parametrize(
    "name",
    [
        "alpaca_en_demo.json",
        "c4_demo.jsonl",
        "dpo_en_demo.json",
        "glaive_toolcall_en_demo.json",
        "gsm8k_test.jsonl",
        "identity.json",
        "kto_en_demo.json",
    ],
)
def test_real_files_of_every_format_convert_without_loss(real_data: Path, name: str, tmp_path: Path) -> None:
    source, out = str(real_data / name), tmp_path / "out.jsonl"
    done = convert(_files(source), out)
    assert done.dropped == ()

    def said(file: str) -> list[Any]:
        return [
            replace(read.example, file="", line=0)
            for read in read_files(_files(file))
            if isinstance(read.example, Example)
        ]

    assert said(str(out)) == said(source)
    assert done.rows == len(said(source))


def test_kinds_of_rows_that_no_file_can_mix_are_refused(write_rows: Write, tmp_path: Path) -> None:
    pairs = write_rows([{"prompt": "a", "chosen": "b", "rejected": "c"}], "pairs.jsonl")
    thumbs = write_rows([{"prompt": "a", "completion": "b", "label": True}], "thumbs.jsonl")
    with pytest.raises(UsageError) as caught:
        convert(_files(pairs, thumbs), tmp_path / "out.jsonl")
    assert "thumbs up and down and preference pairs cannot be in one file" in str(caught.value)
    assert caught.value.remedy == "write one file of each kind"
    with pytest.raises(UsageError, match="cannot be in one file"):
        divide(_files(pairs, thumbs), tmp_path / "divided", 0.1, 0.1)
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_that_cannot_be_converted_are_listed(write_rows: Write, tmp_path: Path) -> None:
    done = convert(
        _files(write_rows([*_pairs(5), {"question": "Why?", "answer": " "}, {"question": "Who?"}])),
        tmp_path / "out.jsonl",
    )
    assert (done.rows, done.formats) == (5, {"question_answer": 5})
    assert sorted((each.reason, each.rows) for each in done.dropped) == [("answer is empty", 1), ('no "answer"', 1)]
    assert any(place.endswith("rows.jsonl:6") for each in done.dropped for place in each.where)


# split


def test_rows_go_as_they_stand_to_the_side_a_training_puts_them_on(write_rows: Write, tmp_path: Path) -> None:
    rows = [row | {"extra": [1, None]} for row in _pairs(200)]
    done = divide(_files(write_rows(rows)), tmp_path / "out", 0.1, 0.2)
    assert sum(done.rows.values()) == 200
    for side, file in done.files.items():
        for row in _lines(file):
            assert row in rows
            example = to_example(Row(row, "", 1), "question_answer", {})
            assert isinstance(example, Example)
            assert assign(key(example), 0.1, 0.2) == side


def test_a_row_stays_on_its_side_when_rows_are_added(write_rows: Write, tmp_path: Path) -> None:
    before = divide(_files(write_rows(_pairs(100))), tmp_path / "a", 0.1, 0.1)
    after = divide(_files(write_rows([*_pairs(100, 500), *_pairs(100)], "more.jsonl")), tmp_path / "b", 0.1, 0.1)
    for side, file in before.files.items():
        assert all(row in _lines(after.files[side]) for row in _lines(file))


def test_a_side_without_a_share_is_not_written_and_shares_leave_rows_to_train_on(
    write_rows: Write, tmp_path: Path
) -> None:
    done = divide(_files(write_rows(_pairs(20))), tmp_path / "out", 0.5, 0.0)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["train.jsonl", "validation.jsonl"]
    assert "test" not in done.files
    with pytest.raises(UsageError, match="leave no rows to train on"):
        divide(_files(write_rows(_pairs(20))), tmp_path / "other", 0.5, 0.5)


# sample


def test_the_smaller_sample_is_inside_the_larger_and_both_have_their_share(write_rows: Write, tmp_path: Path) -> None:
    files = _files(write_rows(_pairs(900)), write_rows(_pairs(100, 5000), "other.jsonl"))
    small, large = (sample(files, tmp_path / f"{share}.jsonl", share) for share in (0.01, 0.1))
    assert 5 <= small.rows <= 15
    assert 90 <= large.rows <= 110
    assert all(row in _lines(large.file) for row in _lines(small.file))
    assert large.by_file[files[1].name] in range(5, 16)
    every = sample(files, tmp_path / "all.jsonl", 1.0)
    assert every.rows == every.of == 1000


def test_a_share_is_more_than_nothing_and_at_most_everything(write_rows: Write, tmp_path: Path) -> None:
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(UsageError, match="is no share of the rows"):
            sample(_files(write_rows(_pairs(5))), tmp_path / "out.jsonl", share)
    assert sample(_files(write_rows(_pairs(5))), tmp_path / "out.jsonl", 0.001).rows == 1


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3)), min_size=1, max_size=80),
    st.floats(0.001, 1),
    st.floats(0.001, 1),
)
def test_samples_are_nested_whatever_the_rows(rows: list[tuple[int, int]], one: float, other: float) -> None:
    import numpy as np

    keys = np.array([row[0] for row in rows], np.uint64)
    strata = np.array([row[1] for row in rows], np.uint32)
    small, large = (choose(keys, strata, ("a", "b", "c", "d"), share) for share in sorted((one, other)))
    assert not (small & ~large).any()
    assert small.any()
    assert abs(int(large.sum()) - max(one, other) * len(rows)) <= 4


def test_files_of_different_formats_go_into_one_file_as_messages(write_rows: Write, tmp_path: Path) -> None:
    prompts = [{"prompt": f"Count to {n}.", "completion": "One, two."} for n in range(5)]
    done = sample(_files(write_rows(_pairs(5)), write_rows(prompts, "other.jsonl")), tmp_path / "out.jsonl", 1.0)
    assert [list(row) for row in _lines(done.file)] == [["messages"]] * 10


# repair


def test_a_cleaned_copy_has_no_bad_rows_copies_damage_or_empty_answers(write_rows: Write, tmp_path: Path) -> None:
    rows = [
        *_pairs(3),
        _pairs(1)[0],
        {"question": "Where?", "answer": "At the cafÃ© crÃ¨me.\nOr “here”.", "note": "trÃ¨s bien"},
        {"question": "What?", "answer": "N/A"},
        {"question": "Why?", "answer": ""},
        {"question": "Bell\x07?", "answer": "Yes, it rings."},
    ]
    told: list[tuple[str, str]] = []
    done = clean(
        _files(write_rows(rows)), tmp_path / "clean.jsonl", tell=lambda place, what: told.append((place[-1], what))
    )
    assert _lines(done.file) == [
        *_pairs(3),
        {"question": "Where?", "answer": "At the café crème.\nOr “here”.", "note": "très bien"},
        {"question": "Bell?", "answer": "Yes, it rings."},
    ]
    assert told == [
        ("4", "a copy of an earlier row"),
        ("5", "encoding repaired"),
        ("6", "its answer says nothing"),
        ("7", "answer is empty"),
        ("8", "control characters removed"),
    ]
    assert (done.rows, done.of) == (5, 8)
    assert sum(each.rows for each in done.removed) == 3
    assert sum(each.rows for each in done.repaired) == 2


def test_rows_with_another_thumb_or_rejected_answer_are_no_copies(write_rows: Write, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because it is."}]
    thumbs = [
        {"messages": turns, "label": True},
        {"messages": turns, "label": False},
        {"messages": turns, "label": True},
    ]
    assert clean(_files(write_rows(thumbs)), tmp_path / "thumbs.jsonl").rows == 2
    pairs = [{"prompt": "Why?", "chosen": "Because.", "rejected": text} for text in ("No.", "Never.", "No.")]
    assert clean(_files(write_rows(pairs, "pairs.jsonl")), tmp_path / "clean.jsonl").rows == 2


def test_a_cleaned_copy_of_a_cleaned_copy_is_the_same(write_rows: Write, tmp_path: Path) -> None:
    file = write_rows([*_pairs(3), *_pairs(3), {"question": "Ã©tÃ© chaud?", "answer": "Oui, dÃ©jÃ ."}])
    once = clean(_files(file), tmp_path / "once.jsonl")
    twice = clean(_files(str(once.file)), tmp_path / "twice.jsonl")
    assert twice.file.read_bytes() == once.file.read_bytes()
    assert (twice.repaired, twice.removed) == ((), ())


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=60))
def test_mending_a_text_twice_changes_nothing_more_unless_it_was_damaged_twice(text: str) -> None:
    mended, done = mend(text)
    assert (mended == text) == (not done)


def test_mended_text_keeps_line_ends_tabs_and_every_script() -> None:
    for text in ("a\r\nb\tc", "请帮我", "“quoted” – naïve café\r\n", "😀\u2028"):
        assert mend(text) == (text, [])


# survey


def test_a_survey_counts_what_needs_no_model(write_rows: Write) -> None:
    train = write_rows([*_pairs(60), _pairs(1)[0], {"question": "Why?", "answer": ""}])
    report = survey(DataSettings(train=(train,)))
    assert (report.rows_read, report.rows_used, report.rows_bad, report.duplicates) == (62, 61, 1, 1)
    assert sum(side.rows for side in report.splits.values()) == 61
    assert report.formats == {train: "question_answer"}
    assert report.audit["rows"] == 61


def test_a_survey_does_not_use_training_rows_that_a_held_out_file_has(write_rows: Write) -> None:
    train, test = write_rows(_pairs(50)), write_rows(_pairs(5, 45), "test.jsonl")
    report = survey(DataSettings(train=(train,), test=(test,), validation_fraction=0.0))
    assert report.splits["test"].rows == 5
    assert report.splits["train"].rows == 45
    assert [(each.reason, each.rows) for each in report.dropped] == [("the same row is held out", 5)]
