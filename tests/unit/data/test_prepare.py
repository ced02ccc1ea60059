"""Data is prepared once, whole or not at all, and nothing is dropped in silence."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from ftcluster.data.prepared.folder import PreparedData, open_prepared
from ftcluster.data.prepared.prepare import DataSettings, prepare
from ftcluster.data.rows.example import Message
from ftcluster.data.text.template import Tokeniser
from ftcluster.errors import DataError, StoreError

Write = Callable[..., str]
Row = dict[str, str]


def _pairs(count: int, start: int = 0) -> list[Row]:
    return [{"question": f"How many is {n}?", "answer": f"It is {n}."} for n in range(start, start + count)]


@pytest.fixture
def run(tmp_path: Path, chatml: PreTrainedTokenizerFast) -> Callable[..., PreparedData]:
    """Prepares into one store with the usual tokenizer."""

    def run(*files: str, **options: Any) -> PreparedData:
        settings = DataSettings(train=files, **options)
        return prepare(settings, chatml, "chatml", tmp_path / "store")

    return run


Run = Callable[..., PreparedData]


def _sides(data: PreparedData) -> dict[str, int]:
    return {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}


def test_every_row_is_on_one_side_and_documents_keep_the_order_of_the_file(
    run: Run, write_rows: Write, chatml: PreTrainedTokenizerFast
) -> None:
    data = run(write_rows(_pairs(200)))
    assert sum(_sides(data).values()) == 200 == data.report.rows_read == data.report.rows_used
    assert all(count > 5 for count in _sides(data).values())
    texts = [chatml.decode(data.train.get(i)[0]) for i in range(len(data.train))]
    numbers = [int(text.split("How many is ")[1].split("?")[0]) for text in texts]
    assert numbers == sorted(numbers)


def test_documents_are_tokenised_as_the_template_says(
    run: Run, write_rows: Write, chatml: PreTrainedTokenizerFast
) -> None:
    data = run(write_rows(_pairs(50)))
    tokens, trained = data.train.get(0)
    assert (tokens.dtype, trained.dtype) == (np.int32, np.bool_)
    assert not tokens.flags.owndata  # memory-mapped
    assert chatml.decode(tokens[trained]).startswith("It is ")


def test_questions_are_aligned_with_the_documents_of_their_side(
    run: Run, write_rows: Write, chatml: PreTrainedTokenizerFast
) -> None:
    file = write_rows([row | {"answer": row["answer"] + "\u2028\n好"} for row in _pairs(60)])
    data = run(file)
    for split, documents in (("validation", data.validation), ("test", data.test)):
        asked = data.held_out(split)
        assert len(asked) == len(documents) > 0
        for index, question in enumerate(asked):
            tokens, trained = documents.get(index)
            assert Tokeniser(chatml).prompt(question.messages) == tokens[~trained].tolist()
            assert chatml.decode(tokens[trained]) == question.reference + "<|im_end|>"
            assert (question.file, question.messages[0].content) == (file, f"How many is {question.line - 1}?")


def test_plain_text_asks_nothing(run: Run, write_rows: Write) -> None:
    data = run(write_rows([{"text": f"Once {n}"} for n in range(50)]), objective="pretrain")
    assert all(not question.messages for question in data.held_out("test"))
    assert len(data.held_out("test")) == len(data.test)


def test_the_same_inputs_are_prepared_once(run: Run, write_rows: Write) -> None:
    file = write_rows(_pairs(200))
    first = run(file)
    report = first.folder / "report.json"
    before = report.stat().st_mtime_ns
    again = run(file)
    assert again.folder == first.folder
    assert again.report == first.report
    assert report.stat().st_mtime_ns == before


def test_a_copy_of_the_file_elsewhere_shares_the_folder(run: Run, write_rows: Write, tmp_path: Path) -> None:
    file = write_rows(_pairs(100))
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(file, tmp_path / "elsewhere")
    assert run(file).folder == run(str(copy)).folder


def test_whatever_changes_the_documents_changes_the_folder(
    write_rows: Write, tmp_path: Path, make_tokenizer: Callable[..., PreTrainedTokenizerFast]
) -> None:
    store, tokenizer = tmp_path / "store", make_tokenizer()
    settings = DataSettings(train=(write_rows(_pairs(100)),))
    folders = [prepare(settings, tokenizer, "a", store).folder]
    folders.append(prepare(settings, tokenizer, "b", store).folder)
    folders.append(prepare(replace(settings, max_length=100), tokenizer, "a", store).folder)
    folders.append(prepare(replace(settings, objective="pretrain"), tokenizer, "a", store).folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\\n", "<|im_end|>")
    folders.append(prepare(settings, tokenizer, "a", store).folder)
    write_rows(_pairs(101))
    folders.append(prepare(settings, tokenizer, "a", store).folder)
    assert len(set(folders)) == 6


def test_rows_that_are_too_long_are_dropped_counted_and_located(run: Run, write_rows: Write) -> None:
    rows = _pairs(100)
    rows[7]["answer"] = rows[60]["answer"] = "word " * 300
    file = write_rows(rows)
    data = run(file, max_length=100)
    assert data.report.rows_used == 98
    assert data.report.rows_bad == 0
    (dropped,) = data.report.dropped
    assert dropped.reason == "longer than 100 tokens (data.max_length)"
    assert (dropped.rows, sorted(dropped.where)) == (2, [f"{file}:61", f"{file}:8"])


def test_a_row_of_exactly_the_largest_length_is_kept(run: Run, write_rows: Write) -> None:
    file = write_rows(_pairs(100))
    longest = run(file).report.splits["train"].longest
    assert run(file, max_length=longest).report.splits["train"].longest == longest


def test_the_report_counts_tokens_and_lengths(run: Run, write_rows: Write) -> None:
    data = run(write_rows([*_pairs(100), *_pairs(1)]))
    summary = data.report.splits["train"]
    lengths = sorted(data.train.lengths.tolist())
    assert (summary.rows, summary.tokens) == (len(lengths), sum(lengths))
    assert (summary.shortest, summary.longest) == (lengths[0], lengths[-1])
    assert lengths[0] <= summary.median <= summary.p95 <= lengths[-1]
    assert 0 < summary.trained_tokens == sum(int(data.train.get(i)[1].sum()) for i in range(len(data.train)))
    assert data.report.duplicates == 1


def test_more_bad_rows_than_allowed_stop_before_anything_is_written(
    run: Run, write_rows: Write, tmp_path: Path
) -> None:
    rows = _pairs(100)
    for number in range(12):
        rows[number]["answer"] = ""
    file = write_rows(rows)
    with pytest.raises(DataError, match="12 of 100 rows cannot be used, at most 10 % may be bad:") as caught:
        run(file, max_bad_rows=0.1)
    listed = caught.value.message.splitlines()[1:]
    assert listed == [f"  {file}:{line}: answer is empty" for line in range(1, 11)] + ["  and 2 more"]
    assert "data.max_bad_rows" in caught.value.remedy
    assert list((tmp_path / "store").iterdir()) == []


def test_fewer_bad_rows_than_allowed_are_dropped_and_reported(run: Run, write_rows: Write) -> None:
    rows = [*_pairs(99), {"question": "x", "answer": " "}]
    data = run(write_rows(rows), max_bad_rows=0.01)
    assert (data.report.rows_read, data.report.rows_used, data.report.rows_bad) == (100, 99, 1)
    assert [dropped.reason for dropped in data.report.dropped] == ["answer is empty"]


def test_rows_that_the_template_refuses_count_as_bad(
    write_rows: Write, tmp_path: Path, metaspace: PreTrainedTokenizerFast
) -> None:
    rows = [{"instruction": f"a {n}", "output": "b", "system": "s" if n < 30 else ""} for n in range(100)]
    with pytest.raises(DataError, match="30 of 100 rows cannot be used") as caught:
        prepare(DataSettings((write_rows(rows),)), metaspace, "m", tmp_path / "store")
    assert "the chat template refuses the conversation: no system turns" in caught.value.message


def test_at_most_fifty_places_are_kept_per_reason(run: Run, write_rows: Write) -> None:
    rows = [*_pairs(100), *[{"question": "x", "answer": ""}] * 70]
    (dropped,) = run(write_rows(rows), max_bad_rows=0.9).report.dropped
    assert (dropped.rows, len(dropped.where)) == (70, 50)


def test_the_limit_takes_the_first_usable_training_rows_and_leaves_held_out_rows_alone(
    run: Run, write_rows: Write
) -> None:
    rows = _pairs(200)
    rows[0]["answer"] = "word " * 300
    file = write_rows(rows)
    every, some = run(file, max_length=100), run(file, max_length=100, limit=20)
    assert len(some.train) == 20
    for index in range(20):
        assert some.train.get(index)[0].tolist() == every.train.get(index)[0].tolist()
    assert _sides(some) == _sides(every) | {"train": 20}
    reasons = {dropped.reason: dropped.rows for dropped in some.report.dropped}
    assert reasons["behind the first 20 training rows (data.limit)"] == len(every.train) - 20
    assert some.report.rows_read == some.report.rows_used + sum(reasons.values())


def test_a_limit_larger_than_the_data_changes_nothing(run: Run, write_rows: Write) -> None:
    file = write_rows(_pairs(100))
    assert _sides(run(file, limit=1000)) == _sides(run(file))


def test_files_for_a_side_replace_its_share(run: Run, write_rows: Write) -> None:
    train, held_out = write_rows(_pairs(100)), write_rows(_pairs(10, start=500), "held_out.jsonl")
    data = run(train, validation=(held_out,), test_fraction=0.0)
    assert _sides(data) == {"train": 100, "validation": 10, "test": 0}
    assert data.held_out("test") == []
    assert data.held_out("validation")[0].messages == (Message("user", "How many is 500?"),)


def test_training_rows_that_a_held_out_file_has_too_are_dropped(run: Run, write_rows: Write) -> None:
    train, held_out = write_rows(_pairs(100)), write_rows(_pairs(10, start=95), "held_out.jsonl")
    data = run(train, test=(held_out,))
    assert data.report.splits["test"].rows == 10
    (dropped,) = data.report.dropped
    assert (dropped.reason, dropped.rows) == ("the same row is held out", 5)


def test_files_of_different_formats_are_read_together(run: Run, write_rows: Write) -> None:
    other = write_rows([{"instruction": f"Say {n}", "output": "ok"} for n in range(50)], "alpaca.jsonl")
    first = write_rows(_pairs(50))
    data = run(first, other)
    assert data.report.formats == {first: "question_answer", other: "alpaca"}
    assert data.report.rows_used == 100


def test_a_named_format_and_columns_are_used(run: Run, write_rows: Write) -> None:
    rows = [{"q": row["question"], "a": row["answer"], "text": "x"} for row in _pairs(60)]
    data = run(write_rows(rows), format="question_answer", columns={"question": "q", "answer": "a"})
    assert data.report.rows_used == 60


def test_progress_counts_examples_up_to_all_of_them(
    write_rows: Write, tmp_path: Path, chatml: PreTrainedTokenizerFast
) -> None:
    seen: list[tuple[int, int]] = []
    settings = DataSettings((write_rows(_pairs(1500)),))
    prepare(settings, chatml, "c", tmp_path / "store", lambda done, total: seen.append((done, total)))
    assert all(done <= total for done, total in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (1500, 1500)


def test_too_few_rows_for_a_side_are_refused_with_the_remedy(run: Run, write_rows: Write) -> None:
    file = write_rows(_pairs(3))
    with pytest.raises(DataError, match="no rows are left for validation; 3 of 3 rows were used") as caught:
        run(file, validation_fraction=1e-9, test_fraction=0)
    assert "data.validation_fraction" in caught.value.remedy
    with pytest.raises(DataError, match="no rows are left for test") as caught:
        run(file, validation=(write_rows(_pairs(3, start=9), "held_out.jsonl"),), test_fraction=1e-9)
    assert "data.test_fraction=0 to do without" in caught.value.remedy


def test_a_side_without_rows_says_what_became_of_them(run: Run, write_rows: Write) -> None:
    with pytest.raises(DataError, match="no rows are left for train; 0 of 100 rows were used") as caught:
        run(write_rows(_pairs(100)), max_length=3)
    assert "100 rows: longer than 3 tokens (data.max_length)" in caught.value.message
    assert "larger data.max_length" in caught.value.remedy


def test_a_validation_share_of_nothing_is_refused(run: Run, write_rows: Write) -> None:
    with pytest.raises(DataError, match="no rows are left for validation"):
        run(write_rows(_pairs(100)), validation_fraction=0.0)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (-0.1, 0.1)])
def test_impossible_fractions_are_refused(run: Run, write_rows: Write, fractions: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="sum is below 1"):
        run(write_rows(_pairs(9)), validation_fraction=fractions[0], test_fraction=fractions[1])


def test_no_training_file_is_an_error(run: Run) -> None:
    with pytest.raises(DataError, match=r"data.train: no training file"):
        run()


def test_an_unknown_format_is_refused_before_any_file_is_read(run: Run) -> None:
    with pytest.raises(DataError, match='unknown data format "alpca"; did you mean "alpaca"'):
        run("nowhere.jsonl", format="alpca")


def test_a_missing_file_of_any_side_is_refused(run: Run, write_rows: Write, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.jsonl")
    for files in ({"train": ()}, {"validation": (missing,)}, {"test": (missing,)}):
        train = (missing,) if "train" in files else (write_rows(_pairs(9)),)
        with pytest.raises(DataError, match=r"nowhere.jsonl: no such data file"):
            run(*train, **{name: value for name, value in files.items() if name != "train"})


def test_a_store_that_cannot_be_written_is_named(
    write_rows: Write, tmp_path: Path, chatml: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="cannot prepare data: ") as caught:
        prepare(DataSettings((write_rows(_pairs(50)),)), chatml, "c", tmp_path / "store")
    assert caught.value.where == str(tmp_path / "store")
    assert "free space there" in caught.value.remedy


def test_a_store_that_fills_up_is_named_and_keeps_nothing_half_written(
    run: Run, write_rows: Write, tmp_path: Path
) -> None:
    file = write_rows(_pairs(400))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot prepare data: .*File too large"):
            run(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "store").iterdir() if path.is_dir()] == []
    assert run(file).report.rows_used == 400


def test_bad_rows_are_listed_in_the_order_of_the_file(run: Run, write_rows: Write) -> None:
    file = write_rows([{"question": "a", "answer": ""}, ["no object"], {"question": "a", "answer": "b"}, 7])
    with pytest.raises(DataError, match="3 of 4 rows") as caught:
        run(file)
    assert [line.split(":")[1] for line in caught.value.message.splitlines()[1:]] == ["1", "2", "4"]


def test_a_damaged_folder_is_refused_instead_of_trained_on(run: Run, write_rows: Write) -> None:
    file = write_rows(_pairs(100))
    folder = run(file).folder
    shutil.copy(folder / "test.arrow", folder / "validation.arrow")
    with pytest.raises(StoreError, match="its arrays do not have the lengths its report states") as caught:
        run(file)
    assert caught.value.remedy == "delete it and prepare again"
    train = folder / "train.arrow"
    train.write_bytes(train.read_bytes()[:-8])
    with pytest.raises(StoreError, match="not a complete folder of prepared data"):
        run(file)
    (folder / "report.json").unlink()
    with pytest.raises(StoreError, match="not a complete folder of prepared data"):
        open_prepared(folder)


def test_nothing_is_left_behind_but_the_folder_and_its_memory(run: Run, write_rows: Write) -> None:
    file = write_rows(_pairs(100))
    os.utime(file, (1_600_000_000, 1_600_000_000))
    folder = run(file).folder
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, "hashes.json"])
    assert json.loads((folder / "report.json").read_text())["rows_used"] == 100


def _prepare_at_the_barrier(barrier: Any, settings: DataSettings, tokenizer: Any, store: Path, answers: Any) -> None:
    barrier.wait()
    answers.put(len(prepare(settings, tokenizer, "c", store).train))


def test_a_folder_that_somebody_else_finished_first_is_taken(
    write_rows: Write, tmp_path: Path, chatml: PreTrainedTokenizerFast
) -> None:
    settings, store = DataSettings((write_rows(_pairs(100)),)), tmp_path / "store"
    first: list[PreparedData] = []

    def overtake(done: int, total: int) -> None:
        if done == total:
            first.append(prepare(settings, chatml, "c", store))

    second = prepare(settings, chatml, "c", store, overtake)
    assert [data.folder for data in first] == [second.folder]
    assert [path for path in store.iterdir() if path.is_dir()] == [second.folder]


@pytest.mark.slow
def test_processes_that_prepare_the_same_at_once_all_succeed(
    write_rows: Write, tmp_path: Path, chatml: PreTrainedTokenizerFast
) -> None:
    spawn = multiprocessing.get_context("spawn")
    settings, store = DataSettings((write_rows(_pairs(400)),)), tmp_path / "store"
    barrier, answers = spawn.Barrier(2), spawn.Queue()
    arguments = (barrier, settings, chatml, store, answers)
    workers = [spawn.Process(target=_prepare_at_the_barrier, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    rows = {answers.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(rows) == 1
    assert len([path for path in store.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(
    ("name", "rows", "options"),
    [
        ("gsm8k_test.jsonl", 1319, {"max_length": 1024}),
        pytest.param("gsm8k_train.jsonl", 7473, {"max_length": 1024}, marks=pytest.mark.slow),
        ("alpaca_en_demo.json", 999, {"max_length": 4096}),
        ("identity.json", 91, {}),
        ("c4_demo.jsonl", 300, {"max_length": 16384, "objective": "pretrain"}),
    ],
)
def test_public_files_are_prepared_without_a_bad_row(
    run: Run, real_data: Path, name: str, rows: int, options: dict[str, Any]
) -> None:
    data = run(str(real_data / name), **options)
    assert (data.report.rows_read, data.report.rows_bad) == (rows, 0)
    assert sum(_sides(data).values()) == data.report.rows_used > 0.9 * rows
